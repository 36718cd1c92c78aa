"""A run without an engine: the real coordinator and paradigm, iteration times from a list, and made-up accuracies."""

import math
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import SECOND, Evaluation, Left, Nanoseconds, Outcome, Push
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.records.files import write_json, write_yaml
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter

HETERO = (1.0, 1.57)


def outcomes(
    paradigm: Paradigm, slowdowns: Sequence[float] = HETERO, pushes: int = 100, leaves: dict[int, int] | None = None
) -> Iterator[Outcome]:
    """The outcomes of a run in which worker w always needs `slowdowns[w]` seconds and leaves at clock `leaves[w]`."""
    coordinator = Coordinator(paradigm, range(len(slowdowns)))
    pending: list[tuple[Nanoseconds, int, int]] = []
    order = iter(range(10 * pushes + 100))

    def carry_out(outcome: Outcome) -> Outcome:
        for release in outcome.released:
            took = round(slowdowns[release.worker] * SECOND)
            heappush(pending, (outcome.at + took, next(order), release.worker))
        return outcome

    yield carry_out(coordinator.start())
    for number in range(pushes):
        at, _, worker = heappop(pending)
        push = Push(worker, at, round(slowdowns[worker] * SECOND), loss=2.0 * math.exp(-number / 40))
        outcome = coordinator.handle(push)
        if outcome.push and (leaves or {}).get(worker) == outcome.push.clock:
            yield outcome
            yield carry_out(coordinator.handle(Left(worker, at)))
        else:
            yield carry_out(outcome)


def write(writer: RecordWriter, run: Iterator[Outcome], evaluate_every: int = 20, flush_every: int = 0) -> None:
    """Hand a run to a writer, with an evaluation at the start and after every so many pushes."""
    pushes = version = 0
    for outcome in run:
        writer.on_outcome(outcome, [0.1] * len(outcome.updates))
        version += len(outcome.updates)
        if outcome.push:
            pushes += 1
        if pushes % evaluate_every == 0 and (outcome.push or pushes == 0):
            writer.on_evaluation(evaluation(outcome.at, version, pushes))
        if flush_every and pushes % flush_every == 0:
            writer.flush()


def evaluation(at: Nanoseconds, version: int, pushes: int) -> Evaluation:
    """What an evaluation of a run that learns might say."""
    accuracy = 0.9 - 0.8 * math.exp(-pushes / 60)
    return Evaluation(at, version, 32 * pushes, 32 * pushes / 1000, 2.3 * math.exp(-pushes / 60), accuracy)


def finished(
    folder: Path,
    paradigm: Paradigm,
    slowdowns: Sequence[float] = HETERO,
    pushes: int = 100,
    leaves: dict[int, int] | None = None,
) -> RunRecords:
    """The records of a finished run."""
    writer = RecordWriter(folder)
    write(writer, outcomes(paradigm, slowdowns, pushes, leaves), max(1, pushes // 20))
    writer.close()
    write_yaml(folder / "config.yaml", {"paradigm": {"name": type(paradigm).__name__.lower()}, "seed": 1})
    write_json(folder / "environment.json", {"git_commit": "0123abc"})
    return RunRecords.open(folder)
