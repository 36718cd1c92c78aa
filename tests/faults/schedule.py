"""What a seed decides before the run: a cluster, a paradigm, and what goes wrong when."""

from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from dssp_bench.core.messages import Nanoseconds, WorkerId
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from tests.explore import MergesByThree

ITERATION = 100  # ticks, on average; a tick is a nanosecond of virtual time
PATIENCE = 150  # ticks until a message is repeated for the first time; then twice as many, up to
MOST_PATIENCE = 16 * PATIENCE
LATEST = 10 * ITERATION  # ticks by which a message may be late
SLOWED = 100  # times
SIZES = [1] * 3 + [2] * 8 + [4] * 12 + [16] * 2 + [64]
MOST_ITERATIONS = {1: 8, 2: 16, 4: 12, 16: 8, 64: 4}
HELD_GRADIENTS = ("apply", "merge_sum", "merge_mean")


class Incident(NamedTuple):
    """Something that befalls a worker, or that the server decides about it, for `lasts` ticks where it ends."""

    at: Nanoseconds
    kind: str
    worker: WorkerId
    lasts: Nanoseconds = 0


@dataclass(frozen=True)
class Schedule:
    """All that is decided before the run; the fate of each message and the length of each iteration come on the way.

    `pace` is the mean length of each worker's iterations, of those who will join too; `spread` is how far one may be
    from it, relatively. `lost`, `repeated`, `late` and `not_finite` are probabilities, until the moment `quiet`.
    """

    paradigm: Paradigm
    workers: int
    iterations: int
    pace: list[float]
    spread: float
    lost: float
    repeated: float
    late: float
    not_finite: float
    quiet: Nanoseconds
    incidents: list[Incident]

    @property
    def deadline(self) -> Nanoseconds:
        """By when the run is over, even if every iteration were slowed and none overlapped with another."""
        worst = SLOWED * max(self.pace) * (1 + self.spread) + 2 * (MOST_PATIENCE + LATEST)
        return self.quiet + 4 * LATEST + int((self.iterations + 1) * (len(self.pace) + 1) * worst)


def draw(random: Random) -> Schedule:
    """A random schedule; each kind of fault happens in some of them only."""
    size = SIZES[below(random, len(SIZES))]
    iterations = 1 + below(random, MOST_ITERATIONS[size])
    joining = _some(random, size) if random.random() < 0.4 else 0
    quiet = int(random.random() * 1.5 * iterations * ITERATION)
    incidents = [Incident(below(random, quiet + 1), "joins", size + n) for n in range(joining)]
    for kind, share in (("crashes", 0.5), ("hangs", 0.3), ("slows down", 0.3), ("leaves", 0.2), ("is given up", 0.2)):
        if random.random() < share:
            for _ in range(_some(random, size)):
                at, lasts = below(random, quiet + 1), below(random, 4 * LATEST)
                incidents.append(Incident(at, kind, below(random, size + joining), lasts))
    pace, spread = _draw_pace(random, size + joining)
    lost, repeated, late = [0.3 * random.random() if random.random() < 0.4 else 0.0 for _ in range(3)]
    not_finite = 0.2 if random.random() < 0.1 else 0.0
    paradigm = _draw_paradigm(random)
    return Schedule(paradigm, size, iterations, pace, spread, lost, repeated, late, not_finite, quiet, incidents)


def _draw_paradigm(random: Random) -> Paradigm:
    kind, bound, held = random.random(), below(random, 1 + below(random, 4)), HELD_GRADIENTS[below(random, 3)]
    options: dict[str, Any] = {} if held == "apply" else {"held_gradients": held}
    if kind < 0.1:
        return ASP()
    if kind < 0.3:
        return BSP(**options)
    if kind < 0.5:
        return SSP(bound, **options)
    if kind < 0.6:
        return MergesByThree(bound)
    variant: Any = ("bounded", "literal", "single_grant")[below(random, 3)]
    interval: Any = ("raw", "hold_corrected")[below(random, 2)]
    return DSSP(bound, bound + below(random, 4), variant, interval, **options)


def _draw_pace(random: Random, workers: int) -> tuple[list[float], float]:
    slowest = (1.0, 2.0, 4.0)[below(random, 3)]  # equal workers are a case of their own: ties
    pace = [ITERATION * (1 + (slowest - 1) * random.random()) for _ in range(workers)]
    if random.random() < 0.05:
        pace = [0.0] * workers
    return pace, (0.0, 0.1, 1.0)[below(random, 3)]


def below(random: Random, limit: int) -> int:
    """A whole number from 0 up to the limit, which it does not reach; `randrange` takes five times as long."""
    return int(random.random() * limit)


def _some(random: Random, size: int) -> int:
    return 1 + below(random, 1 + size // 4)
