"""Names for streams of randomness: one seed per run, and from it one independent seed per worker and purpose."""

from hashlib import blake2b

from dssp_bench.core.messages import WorkerId


def stream_seed(seed: int, purpose: str, worker: WorkerId | None = None, step: int | None = None) -> int:
    """A 63-bit seed for one purpose of one worker (or of nobody in particular), at one step (or for the whole run).

    Changing the paradigm, or adding a worker, leaves every other stream alone.
    """
    name = f"{seed}/{purpose}/{worker}/{step}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest()) >> 1
