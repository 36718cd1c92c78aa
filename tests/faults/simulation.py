"""Fault simulation: from one seed a cluster, a paradigm, and everything that can go wrong with them, in virtual time.

    python -m tests.faults.simulation SEED      # plays one seed again, and tells what happened

The loop, the coordinator, the paradigms, the parameter server and the rules of delivery are the real ones. What is made
up here is the engine around them: workers that compute, crash, hang, slow down, leave and join, and a network that
loses, repeats, delays and reorders what they and the server say. At a moment that the seed decides faults stop; from
then on messages arrive, and whoever still lives must finish.

What must hold: the run ends, and everyone who took part has done its share or has left; a `Referee` agrees with every
outcome, and so with the paradigm's bounds; the gradients that reach the weights are those that the outcomes name,
whole, each once, and every one that was taken; each was computed on the version that its record says; and in the end
nobody still waits for the server.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Event, Joined, Left, MessageId, Outcome, Push, Use, WorkerId
from dssp_bench.core.schedule import LearningRate
from dssp_bench.core.server import ParameterServer
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.observer import Observer
from dssp_bench.engines.serve import serve
from tests.explore import compare
from tests.faults.engine import Content, FaultyEngine, Gradient, NotedUpdates
from tests.faults.planted import Bug, plant
from tests.faults.schedule import Schedule, draw
from tests.scenario import Promise, PromiseError, Referee, promise_of

SEEDS = range(2000)  # which the tests play
RATE = LearningRate(1.0, (), 1.0, "samples", "none", workers=1, batch_size=1, examples=1)


class ScheduleFailedError(AssertionError):
    """A schedule that broke a promise; the message says how to play it again."""


@dataclass(frozen=True)
class Report:
    """How one schedule ended: `finished`, or `all lost` if nobody could do its share; and what happened how often."""

    workers: int
    verdict: str
    counts: Counter[str]


def simulate(seed: int, *, bug: Bug | None = None, story: list[str] | None = None) -> Report:
    """Play one schedule, with a bug if one is planted; `story` is told what happens. Raises ScheduleFailedError."""
    random = Random(seed)
    schedule = draw(random)
    try:
        return _play(schedule, random, bug, story)
    except Exception as error:
        raise ScheduleFailedError(
            f"{type(error).__name__}: {error}\n  in {schedule.paradigm} with {schedule.workers} workers; "
            f"play it again with: python -m tests.faults.simulation {seed}"
        ) from error


def failures(bug: Bug, seeds: Iterable[int]) -> Iterator[tuple[int, str]]:
    """The seeds at which a planted bug is found, and what is said of it."""
    for seed in seeds:
        try:
            simulate(seed, bug=bug)
        except ScheduleFailedError as error:
            yield seed, str(error)


def _play(schedule: Schedule, random: Random, bug: Bug | None, story: list[str] | None) -> Report:
    promise = promise_of(schedule.paradigm)
    coordinator = plant(bug, Coordinator(schedule.paradigm, range(schedule.workers)))
    engine = FaultyEngine(schedule, random, bug, story)
    rule = NotedUpdates()
    nothing: Any = Gradient()
    server = plant(bug, ParameterServer(nothing, rule, engine.slots))
    engine.weights = rule
    serve(coordinator, engine, Limits(schedule.iterations), RATE, server, [Witness(coordinator, promise, engine, rule)])
    if coordinator.view.clocks:
        raise PromiseError(f"nothing more happens, and these have not finished: {list(coordinator.view.clocks)}")
    engine.send_everybody_home()
    if engine.taken != rule.applied:
        raise PromiseError(f"taken and applied differ in these gradients: {sorted(engine.taken ^ rule.applied)}")
    engine.counts += Counter(pushes=coordinator.pushes, updates=rule.version)
    return Report(schedule.workers, "finished" if engine.finished else "all lost", engine.counts)


# --- who watches -----------------------------------------------------------------------------------------------------


class SkippingReferee(Referee):
    """Knows that a gradient that is not finite is skipped."""

    def _saw_push(self, push: Push, outcome: Outcome) -> None:
        super()._saw_push(push, outcome)
        if not push.finite:
            if outcome.push is None or outcome.push.use is not Use.SKIP:
                raise PromiseError("a gradient that is not finite was not skipped")
            del self.waiting[MessageId(push.worker, self.clock[push.worker])]


class Witness(Observer):
    """Compares every outcome with a referee's book, and with what really happened to weights and workers."""

    def __init__(self, coordinator: Coordinator, promise: Promise, engine: FaultyEngine, weights: NotedUpdates) -> None:
        self._coordinator = coordinator
        self._promise = promise
        self._engine = engine
        self._weights = weights
        self._referee: Referee | None = None
        self._event: Event | None = None
        self._joined_at: dict[WorkerId, int] = {}  # clocks

    def on_membership(self, event: Left | Joined, pushes: int) -> None:
        self._event = event

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        if self._referee is None:
            self._referee = SkippingReferee(self._promise, outcome)
        else:
            event = self._event or self._engine.push
            self._event = None
            self._referee.saw(event, outcome)
        compare(self._coordinator, self._referee)
        self._engine.counts["grants"] += outcome.grant is not None
        for release in outcome.released:
            self._joined_at.setdefault(release.worker, release.after.clock)
        self._compare_with_weights(outcome)

    def _compare_with_weights(self, outcome: Outcome) -> None:
        if outcome.push and outcome.push.pulled_version != self._engine.computed_on:
            raise PromiseError(f"{outcome.push} was computed on version {self._engine.computed_on}")
        if self._weights.version != self._coordinator.view.version:
            raise PromiseError("the version is not the number of updates")
        named = [[self._content(a.message) for a in update.gradients] for update in outcome.updates]
        if named != self._weights.latest:
            raise PromiseError(f"{self._weights.latest} was applied instead of {named}")
        self._weights.latest = []

    def _content(self, message: MessageId) -> Content:
        return message.worker, message.clock - self._joined_at[message.worker]


def main(arguments: Sequence[str]) -> int:
    """Play the seeds again, and tell what happens in each."""
    failed = 0
    for seed in map(int, arguments):
        story: list[str] = []
        try:
            report = simulate(seed, story=story)
            verdict = f"{report.verdict}: {dict(report.counts)}"
        except ScheduleFailedError as error:
            failed, verdict = 1, str(error)
        print(draw(Random(seed)), *story, f"seed {seed}: {verdict}", sep="\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
