"""Fault schedules for as long as one likes, each from its own seed.

    python -m tests.faults.soak --minutes 60

Real kills get two thirds of the time, since each takes two seconds: half an hour plays more than 500 of them, and more
than 100,000 simulated schedules, also on two slow cores (13 and 6,500 in 30 s each, 2026-11-28). In the end what was
played is counted, and the worst times are told; the exit code is 1 if any schedule failed. One that fails says how to
play it again.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import SystemRandom

from tests.faults.kills import Player
from tests.faults.simulation import simulate

MOST_FAILURES = 20
GONE_WITHIN_S = 1.0
"""How long processes of a run may be there after its end."""

MOST_GROWTH_MIB = 100.0
"""How much larger a driver that makes many runs may become."""


@dataclass(frozen=True)
class Kind:
    """One kind of schedule: `play` raises what is wrong with a seed's, or counts what happened. A turn is `at_once`.

    Kinds have the time in proportion to their `share`. `end` is called when all is over, and may have something to
    tell. Raises what is wrong with all of them together.
    """

    name: str
    play: Callable[[int], Mapping[str, int]]
    at_once: int = 1
    end: Callable[[], str] = str
    share: float = 1.0


def _simulated(seed: int) -> Mapping[str, int]:
    report = simulate(seed)
    return report.counts + Counter({report.verdict: 1})


class _Kills:
    """Plays kill schedules, and is strict about how soon processes are gone; nothing is started before the first."""

    def __init__(self) -> None:
        self._player: Player | None = None

    def play(self, seed: int) -> Mapping[str, int]:
        self._player = self._player or Player(gone_within_s=GONE_WITHIN_S)
        return self._player.play(seed)

    def end(self) -> str:
        if self._player is None:
            return ""
        with self._player as player:
            return f"{player.worst}; {player.memory(MOST_GROWTH_MIB)}"


_kills = _Kills()
KINDS = [Kind("simulated", _simulated, at_once=500), Kind("kill", _kills.play, end=_kills.end, share=2.0)]


def soak(minutes: float, first_seed: int, kinds: Sequence[Kind]) -> int:
    """Play schedules, at least one turn of each kind; returns the exit code."""
    ends = time.monotonic() + 60 * minutes
    spent = dict.fromkeys(kinds, 0.0)
    played: Counter[Kind] = Counter()
    failed: Counter[Kind] = Counter()
    happened: dict[Kind, Counter[str]] = {kind: Counter() for kind in kinds}
    while not all(spent.values()) or (time.monotonic() < ends and failed.total() < MOST_FAILURES):
        kind = min(kinds, key=lambda kind: spent[kind] / kind.share)
        began = time.monotonic()
        for seed in range(first_seed + played[kind], first_seed + played[kind] + kind.at_once):
            played[kind] += 1
            try:
                happened[kind].update(kind.play(seed))
            except Exception as error:
                failed[kind] += 1
                print(f"FAILED {kind.name}, seed {seed}: {error}", flush=True)
        spent[kind] += time.monotonic() - began
    for kind in kinds:
        try:
            if told := kind.end():
                print(told)
        except Exception as error:
            failed[kind] += 1
            print(f"FAILED {kind.name}, all in all: {error}")
        counts = [f"{count:,} {name}" for name, count in sorted(happened[kind].items())]
        print("; ".join([f"{played[kind]:,} {kind.name} schedules", f"{failed[kind]} failed", *counts]))
    return 1 if failed else 0


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
