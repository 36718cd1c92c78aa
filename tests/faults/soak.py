"""Fault schedules for as long as one likes, each from its own seed.

    python -m tests.faults.soak --minutes 60

Kinds of schedule take turns. The last line counts what was played; the exit code is 1 if any failed. A schedule that
fails says how to play it again.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import SystemRandom

from tests.faults.simulation import simulate

MOST_FAILURES = 20


@dataclass(frozen=True)
class Kind:
    """One kind of schedule: `play` raises what is wrong with a seed's, or counts what happened. A turn is `at_once`."""

    name: str
    play: Callable[[int], Mapping[str, int]]
    at_once: int = 1


def _simulated(seed: int) -> Mapping[str, int]:
    report = simulate(seed)
    return report.counts + Counter({report.verdict: 1})


KINDS = [Kind("simulated", _simulated, at_once=500)]


def soak(minutes: float, first_seed: int, kinds: Sequence[Kind]) -> int:
    """Play schedules, at least one turn of each kind; returns the exit code."""
    ends = time.monotonic() + 60 * minutes
    played: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    failures = seed = 0
    while not played or (time.monotonic() < ends and failures < MOST_FAILURES):
        for kind in kinds:
            for number in range(first_seed + seed, first_seed + seed + kind.at_once):
                played[kind.name] += 1
                try:
                    happened.update(kind.play(number))
                except Exception as error:
                    failures += 1
                    print(f"FAILED {kind.name}, seed {number}: {error}", flush=True)
        seed += max(kind.at_once for kind in kinds)
    told = [f"{count:,} {name}" for name, count in sorted(happened.items())]
    print("; ".join([f"{count:,} {name} schedules" for name, count in played.items()] + [f"{failures} failed", *told]))
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, and play."""
    parser = argparse.ArgumentParser(description="Plays random fault schedules.")
    parser.add_argument("--minutes", type=float, default=1.0, help="for how long (default: 1)")
    parser.add_argument("--first-seed", type=int, default=None, help="where to begin (default: anywhere)")
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], action="append", help="only this kind")
    options = parser.parse_args(arguments)
    first_seed = SystemRandom().randrange(10**12) if options.first_seed is None else options.first_seed
    print(f"seeds from {first_seed} on", flush=True)
    return soak(
        options.minutes, first_seed, [kind for kind in KINDS if options.kind in (None, []) or kind.name in options.kind]
    )


if __name__ == "__main__":
    sys.exit(main())
