"""Frames as they should be, and worse ones; written down once more, so that the fuzzer does not believe the code."""

import math
import struct
from random import Random

from dssp_bench.engines.cluster.wire import Sizes

MAGIC = b"dsspb\x00\x00\x01"
HEADER = struct.Struct("<8sB7xqdQ")
ODD_NUMBERS = [-1, -2, 1 << 31, (1 << 63) - 1, -(1 << 63)]
ODD_REALS = [math.nan, math.inf, -math.inf, -1.0, 1e300, -0.0, 5e-324]
_ODD_SIZES = [0, 1, 108, 117, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def framed(kind: int, number: int = 0, real: float = 0.5, body: bytes = b"") -> bytes:
    """One frame, as it should be."""
    return HEADER.pack(MAGIC, kind, number, real, len(body)) + body


def worse(random: Random, good: bytes) -> bytes:
    """The frame, changed a little or a lot."""
    content = bytearray(good)
    match random.randrange(8):
        case 0:
            for _ in range(random.choice([1, 1, 1, 2, 20])):
                content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        case 1:
            content[random.randrange(HEADER.size)] ^= 1 << random.randrange(8)
        case 2:
            del content[random.randrange(len(content)) :]
        case 3:
            content[32:40] = struct.pack("<Q", random.choice(_ODD_SIZES))
        case 4:
            content[8] = random.randrange(256)
        case 5:
            content[16:24] = struct.pack("<q", random.choice(ODD_NUMBERS))
        case 6:
            content[24:32] = struct.pack("<d", random.choice(ODD_REALS))
        case 7:
            content[:] = random.randbytes(random.choice([HEADER.size, 100, 1000]))
    return bytes(content)


def may_come(header: bytes, allowed: Sizes) -> bool:
    """Whether this header is that of a frame, of a kind and size that are allowed."""
    magic, code, _, _, size = HEADER.unpack(header)
    sizes = {kind.value: sizes for kind, sizes in allowed.items()}.get(code)
    return magic == MAGIC and sizes is not None and sizes.start <= size < sizes.stop
