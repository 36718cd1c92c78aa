"""An engine whose events are written down, and an observer and an update rule that write down what they see."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from dssp_bench.core.messages import Event, Joined, Left, Nanoseconds, Outcome, Push, Timer, WorkerId
from dssp_bench.core.update import Weighted, weighted_sum
from dssp_bench.engines.engine import Engine
from dssp_bench.engines.observer import Observer

Log = list[str]


class ScriptedEngine(Engine):
    """Plays the events that it is given, and refuses a push of a worker that was not told to compute."""

    def __init__(self, events: Iterable[Event], log: Log | None = None) -> None:
        self._events = iter(events)
        self._now = 0
        self.log: Log = [] if log is None else log
        self.computing: set[WorkerId] = set()
        self.dismissed: list[WorkerId] = []
        self.timers: list[Timer] = []
        self.closed = False

    @property
    def now(self) -> Nanoseconds:
        return self._now

    def start(self) -> None:
        self.log.append("start")

    def next_event(self, until: Nanoseconds | None) -> Event | None:
        event = next(self._events, None)
        if event is None or (until is not None and event.at > until):
            return None
        self._now = event.at
        if isinstance(event, Push):
            assert event.worker in self.computing, f"worker {event.worker} pushes, but nobody told it to compute"
            self.computing.remove(event.worker)
        if isinstance(event, Left):
            self.computing.discard(event.worker)
        return event

    def deliver(self, released: Sequence[WorkerId], updates: int, timers: Sequence[Timer]) -> None:
        assert not self.computing & set(released), "a worker was released that computes already"
        assert not set(released) & set(self.dismissed), "a worker was released that was sent home"
        self.computing |= set(released)
        self.timers += timers
        self.log.append(f"deliver {list(released)} after {updates} updates")

    def dismiss(self, worker: WorkerId) -> None:
        self.dismissed.append(worker)
        self.log.append(f"dismiss {worker}")

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        self.log.append("close")


class Seen(Observer):
    """Writes down what it is told."""

    def __init__(self, log: Log | None = None) -> None:
        self.log: Log = [] if log is None else log
        self.outcomes: list[Outcome] = []
        self.rates: list[float] = []
        self.membership: list[tuple[Left | Joined, int]] = []
        self.finished_at: Nanoseconds | None = None

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        self.log.append("outcome")
        self.outcomes.append(outcome)
        self.rates += learning_rates

    def on_membership(self, event: Left | Joined, pushes: int) -> None:
        self.log.append("membership")
        self.membership.append((event, pushes))

    def on_finish(self, at: Nanoseconds) -> None:
        self.log.append("finish")
        self.finished_at = at

    @property
    def staleness(self) -> list[int]:
        """Of every applied gradient, in order."""
        return [a.staleness for outcome in self.outcomes for update in outcome.updates for a in update.gradients]


class Written:
    """An update rule that writes down its steps and changes nothing."""

    def __init__(self, log: Log | None = None) -> None:
        self.log: Log = [] if log is None else log
        self.steps: list[tuple[list[float], float]] = []

    def apply(self, gradients: Sequence[Weighted], learning_rate: float) -> None:
        self.log.append("apply")
        self.steps.append((weighted_sum(gradients).tolist(), learning_rate))

    def state(self) -> list[Tensor]:
        """Nothing is remembered."""
        return []


def turns(*workers: WorkerId) -> list[Event]:
    """A push of each of these workers, one per nanosecond, from 1 on."""
    return [Push(worker, at) for at, worker in enumerate(workers, start=1)]
