"""What a round trip is, who makes it, and how many of them a second, for every way of exchanging gradients alike.

A worker has a constant gradient in its memory; a server changes the weights by it (SGD with momentum); the worker has
the new weights in a buffer of its own. A contender is one way of doing that: a function that starts its processes for
a `Case`, yields their numbers again and again while they work, and returns what became of the weights. Workers write
the moments at which they begin their round trips to a file that all processes map, and processes' CPU time is read
from outside, so a contender does nothing else for the measurement.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dssp_bench.core.errors import DsspBenchError

LEARNING_RATE, MOMENTUM, GRADIENT = 2.0**-6, 0.5, 2.0**-6
"""Powers of two: then rounding does not add up to a quarter of an update in a million, so one that is missing shows."""

PRELOAD = ("dssp_bench.experiment.contenders",)
"""What the process that forks the contenders' processes imports before."""

LOOK_EVERY_S = 0.05
_MOST_PER_S = 1_000_000
_FEWEST = 5  # round trips of each worker, on average, from which a rate can be told


@dataclass(frozen=True)
class Case:
    """So many workers that exchange flat float32 vectors of so many entries on a device, for so many seconds."""

    parameters: int
    workers: int
    seconds: float
    device: str
    file: Path

    @property
    def shape(self) -> tuple[int, int]:
        """Of the file's content: workers, and the most round trips that one can make."""
        return self.workers, max(1, round(self.seconds * _MOST_PER_S))

    def moments(self, worker: int) -> NDArray[np.int64]:
        """When this worker began each of its round trips, nanoseconds of the monotonic clock; 0 is not yet."""
        mine: NDArray[np.int64] = np.memmap(self.file, np.int64, "r+", shape=self.shape)[worker]
        return mine


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


class ContenderFailed(DsspBenchError):
    """A contender could not do the case; the text says why."""


def expected_weight(updates: int) -> float:
    """What SGD with momentum makes of a weight 0 in so many updates by the constant gradient."""
    speeds = (updates - MOMENTUM * (1 - MOMENTUM**updates) / (1 - MOMENTUM)) / (1 - MOMENTUM)
    return -LEARNING_RATE * GRADIENT * speeds


def until_time_is_up(case: Case, worker: int, round_trip: Callable[[], object]) -> int:
    """Make one round trip after the other; returns how many."""
    moments = case.moments(worker)
    end = time.monotonic_ns() + round(case.seconds * 1e9)
    for done in range(len(moments)):
        moments[done] = now = time.monotonic_ns()
        if now >= end:
            return done
        round_trip()
    raise ContenderFailed(f"more than {_MOST_PER_S:,} round trips per second and worker")


# --- measuring ---


@dataclass(frozen=True)
class Measurement:
    """What one contender did in one turn; milliseconds, and CPU seconds per second of the server.

    `per_s` is 0 and latencies are None if there were too few round trips to tell.
    """

    per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_ms: float | None
    server_cpu: float | None
    made: int
    right: bool


@dataclass(frozen=True)
class Medians(Measurement):
    """What one contender did in `turns` turns; `spread` is how much more the best of them made than the worst."""

    turns: int
    spread: float | None


def in_turns(
    turns: Mapping[str, Callable[[], Measurement]], repeats: int
) -> tuple[dict[str, Medians], dict[str, ContenderFailed]]:
    """Let everybody measure once, and that so many times; medians, and the latest error of those that failed."""
    found: dict[str, list[Measurement]] = {name: [] for name in turns}
    failed: dict[str, ContenderFailed] = {}
    for _ in range(repeats):
        for name, turn in turns.items():
            try:
                found[name].append(turn())
            except ContenderFailed as error:
                failed[name] = error
    return {name: _medians(measured) for name, measured in found.items() if measured}, failed


def _medians(measured: Sequence[Measurement]) -> Medians:
    rates = [each.per_s for each in measured]
    return Medians(
        median(rates),
        _median([each.p50_ms for each in measured]),
        _median([each.p99_ms for each in measured]),
        _median([each.cpu_ms for each in measured]),
        _median([each.server_cpu for each in measured]),
        sum(each.made for each in measured),
        all(each.right for each in measured),
        turns=len(measured),
        spread=max(rates) / min(rates) - 1 if min(rates) else None,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def measure(contender: Contender, parameters: int, workers: int, seconds: float, device: str = "cpu") -> Measurement:
    """Let a contender work for so long, of which the first fifth is for warming up. Raises ContenderFailed."""
    with _new_case(parameters, workers, seconds, device) as case, closing(contender(case)) as running:
        looks, weights = _watch(running)
        moments = [_noted(case.moments(worker)) for worker in range(workers)]
    begin, end = _window(moments, seconds)
    within = [mine[(mine >= begin) & (mine <= end)] for mine in moments]
    latencies = np.concatenate([np.diff(mine) for mine in within]) / 1e6
    p50, p99 = np.percentile(latencies, [50, 99]).tolist() if len(latencies) else (None, None)
    cpu_ms, server_cpu = _cpu_per_round_trip([look for look in looks if begin <= look.at <= end], moments)
    return Measurement(
        _per_s(within, end - begin),
        p50,
        p99,
        cpu_ms,
        server_cpu,
        sum(map(len, moments)),
        all(each.right for each in weights),
    )


@contextmanager
def _new_case(parameters: int, workers: int, seconds: float, device: str) -> Iterator[Case]:
    """A case with nothing in its file yet, which is removed at the end."""
    with ExitStack() as folders:
        try:
            folder = folders.enter_context(TemporaryDirectory(prefix="round-trips-"))
            case = Case(parameters, workers, seconds, device, Path(folder) / "moments")
            np.memmap(case.file, np.int64, "w+", shape=case.shape)
        except OSError as error:
            raise DsspBenchError(f"cannot make a file for moments: {error}; TMPDIR names another folder") from None
        yield case


class _Look(NamedTuple):
    """CPU seconds that processes had used at a moment of the monotonic clock, nanoseconds."""

    at: int
    server_s: float
    workers_s: float


def _watch(running: Generator[Processes, None, list[Weights]]) -> tuple[list[_Look], list[Weights]]:
    looks: list[_Look] = []
    while True:
        try:
            processes = next(running)
        except StopIteration as ended:
            return looks, ended.value
        with suppress(OSError):  # it has just ended
            looks.append(_Look(time.monotonic_ns(), _cpu_s(processes.server), _cpu_s(processes.workers)))


def _noted(moments: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part that was written, without reading the rest, which may be large and has no place on the disk."""
    return np.array(moments[: bisect_left(moments, True, key=lambda moment: moment == 0)])


def _window(moments: Sequence[NDArray[np.int64]], seconds: float) -> tuple[int, int]:
    """The time in which all workers are at work, warm-up excluded."""
    if not all(len(mine) for mine in moments):
        raise ContenderFailed("a worker made no round trip")
    begin = max(int(mine[0]) for mine in moments) + round(seconds / 5 * 1e9)
    return begin, max(begin + 1, min(int(mine[-1]) for mine in moments))


def _per_s(within: Sequence[NDArray[np.int64]], length: int) -> float:
    """All workers' beginnings in the window; 0 if there are so few that one more or less would change the rate much."""
    count = sum(map(len, within)) - 1  # the window ends with one
    return count / length * 1e9 if count >= _FEWEST * len(within) else 0.0


def _cpu_per_round_trip(
    looks: Sequence[_Look], moments: Sequence[NDArray[np.int64]]
) -> tuple[float | None, float | None]:
    """Milliseconds of all processes per round trip, and the server's share of a core, between first and last look."""
    if len(looks) < 2:
        return None, None
    first, last = looks[0], looks[-1]
    made = sum(np.count_nonzero((mine > first.at) & (mine <= last.at)) for mine in moments)
    server = last.server_s - first.server_s
    used = server + last.workers_s - first.workers_s
    return used / made * 1000 if made else None, server / (last.at - first.at) * 1e9


def _cpu_s(processes: Sequence[int]) -> float:
    """CPU seconds that these processes have used, user and system, all threads; the kernel's clock of each process."""
    return sum(time.clock_gettime((~process << 3) | 2) for process in processes)
