"""What a round trip is, who makes it, and how many of them a second, for every way of exchanging gradients alike.

A worker has a constant gradient in its memory; a server changes the weights by it (SGD with momentum); the worker has
the new weights in a buffer of its own. A contender is one way of doing that: a function that starts its processes for
a `Case`, yields their numbers again and again while they work, and returns what became of the weights. Workers write
the moments at which they begin their round trips to a file that all processes map, and processes' CPU time is read
from outside, so a contender does nothing else for the measurement.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEARNING_RATE, MOMENTUM, GRADIENT = 2.0**-6, 0.5, 2.0**-6
"""Powers of two: then rounding does not add up to a quarter of an update in a million, so one that is missing shows."""

LOOK_EVERY_S = 0.05
_MOST_PER_S = 100_000


@dataclass(frozen=True)
class Case:
    """So many workers that exchange flat float32 vectors of so many entries, for so many seconds."""

    parameters: int
    workers: int
    seconds: float
    file: Path

    @property
    def shape(self) -> tuple[int, int]:
        """Of the file's content: workers, and the most round trips that one can make."""
        return self.workers, round(self.seconds * _MOST_PER_S)

    def moments(self, worker: int) -> NDArray[np.int64]:
        """When this worker began each of its round trips, nanoseconds of the monotonic clock; 0 is not yet."""
        mine: NDArray[np.int64] = np.memmap(self.file, np.int64, "r+", shape=self.shape)[worker]
        return mine


@contextmanager
def new_case(parameters: int, workers: int, seconds: float) -> Iterator[Case]:
    """A case with nothing in its file yet, which is removed at the end."""
    with TemporaryDirectory(prefix="round-trips-") as folder:
        case = Case(parameters, workers, seconds, Path(folder) / "moments")
        np.memmap(case.file, np.int64, "w+", shape=case.shape)
        yield case


class Processes(NamedTuple):
    """The process numbers of a contender."""

    server: Sequence[int]
    workers: Sequence[int]


class Weights(NamedTuple):
    """The smallest and the largest weight at the end, and after how many updates."""

    smallest: float
    largest: float
    updates: int

    @property
    def right(self) -> bool:
        """Whether all weights are those of so many updates, to a quarter of an update."""
        expected, error = expected_weight(self.updates), 0.25 * LEARNING_RATE * GRADIENT / (1 - MOMENTUM)
        return abs(self.smallest - expected) < error and abs(self.largest - expected) < error


Contender = Callable[[Case], Generator[Processes, None, list[Weights]]]


class ContenderFailed(Exception):
    """A contender could not do the case; the text says why."""


def expected_weight(updates: int) -> float:
    """What SGD with momentum makes of a weight 0 in so many updates by the constant gradient."""
    speeds = (updates - MOMENTUM * (1 - MOMENTUM**updates) / (1 - MOMENTUM)) / (1 - MOMENTUM)
    return -LEARNING_RATE * GRADIENT * speeds


def update_of(weights: Tensor) -> Callable[[Tensor], None]:
    """The fastest update that torch has: its fused kernel on one flat tensor, without an optimizer around it."""
    momentum, first = torch.zeros_like(weights), True

    def update(gradient: Tensor) -> None:
        nonlocal first
        torch._fused_sgd_(
            [weights], [gradient], [momentum], lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.0, dampening=0.0,
            nesterov=False, maximize=False, is_first_step=first,
        )  # fmt: skip
        first = False

    return update


def until_time_is_up(case: Case, worker: int, round_trip: Callable[[], object]) -> int:
    """Make one round trip after the other; returns how many."""
    moments = case.moments(worker)
    end = time.monotonic_ns() + round(case.seconds * 1e9)
    for done in range(len(moments)):
        moments[done] = now = time.monotonic_ns()
        if now >= end:
            return done
        round_trip()
    raise ContenderFailed(f"more than {_MOST_PER_S} round trips per second and worker")


# --- measuring ---


@dataclass(frozen=True)
class Measurement:
    """What one contender did in one case; milliseconds, and CPU seconds per second of the server."""

    per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_ms: float | None
    server_cpu: float | None
    made: int
    right: bool


def measure(contender: Contender, case: Case) -> Measurement:
    """Let a contender do a case; the first fifth of the time is for warming up. Raises ContenderFailed."""
    running, looks = contender(case), list[tuple[int, float, float]]()
    while True:
        try:
            processes = next(running)
        except StopIteration as ended:
            weights: list[Weights] = ended.value
            break
        with suppress(OSError):  # it has just ended
            looks.append((time.monotonic_ns(), _cpu_s(processes.server), _cpu_s(processes.workers)))
    moments = [of_all[of_all > 0] for of_all in map(case.moments, range(case.workers))]
    begin, end = _window(moments, case)
    within = [mine[(mine >= begin) & (mine <= end)] for mine in moments]
    latencies = np.concatenate([np.diff(mine) for mine in within]) / 1e6
    p50, p99 = np.percentile(latencies, [50, 99]) if len(latencies) else (None, None)
    cpu_ms, server_cpu = _cpu_per_round_trip([look for look in looks if begin <= look[0] <= end], moments)
    return Measurement(
        sum(map(_completed, within)) / (end - begin) * 1e9,
        p50,
        p99,
        cpu_ms,
        server_cpu,
        sum(map(len, moments)),
        all(each.right for each in weights),
    )


def _window(moments: Sequence[NDArray[np.int64]], case: Case) -> tuple[int, int]:
    """The time in which all workers are at work, warm-up excluded."""
    if not all(len(mine) for mine in moments):
        raise ContenderFailed("a worker made no round trip")
    begin = max(int(mine[0]) for mine in moments) + round(case.seconds / 5 * 1e9)
    return begin, max(begin + 1, min(int(mine[-1]) for mine in moments))


def _completed(within: NDArray[np.int64]) -> int:
    return max(0, len(within) - 1)


def _cpu_per_round_trip(
    looks: Sequence[tuple[int, float, float]], moments: Sequence[NDArray[np.int64]]
) -> tuple[float | None, float | None]:
    """Milliseconds of all processes per round trip, and the server's share of a core, between first and last look."""
    if len(looks) < 2:
        return None, None
    (begin, server_before, workers_before), (end, server_after, workers_after) = looks[0], looks[-1]
    made = sum(np.count_nonzero((mine > begin) & (mine <= end)) for mine in moments)
    used = server_after - server_before + workers_after - workers_before
    return used / made * 1000 if made else None, (server_after - server_before) / (end - begin) * 1e9


def _cpu_s(processes: Sequence[int]) -> float:
    """CPU seconds that these processes have used, user and system, all threads; the kernel's clock of each process."""
    return sum(time.clock_gettime((~process << 3) | 2) for process in processes)
