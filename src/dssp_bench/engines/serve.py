"""THE loop: workers push, the server decides, released workers pull, until the run is over."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.errors import NotFinite
from dssp_bench.core.messages import Event, Joined, Left, Nanoseconds, Outcome, Push, Update, WorkerId
from dssp_bench.core.schedule import LearningRate
from dssp_bench.core.server import ParameterServer
from dssp_bench.engines.engine import Engine, Limits
from dssp_bench.engines.observer import Observer

_NEW_OBJECTS = 1_000_000
_MOST_SKIPPED = 1_000  # gradients in a row that are not finite; nothing good comes after that


def serve(
    coordinator: Coordinator,
    engine: Engine,
    limits: Limits,
    rates: LearningRate,
    server: ParameterServer | None = None,
    observers: Sequence[Observer] = (),
    left_at: Nanoseconds | None = None,
) -> Nanoseconds:
    """Run one experiment on one engine; returns its duration. Without a server only the timing runs.

    A run that was left goes on with the coordinator, the server and the observers as they were at that moment. Raises
    NotFinite, and what the engine, the coordinator and the paradigm raise.
    """
    loop = _Loop(coordinator, engine, rates, server, observers)
    rest = _that_do_something(observers, "on_rest")
    with engine, _garbage_looked_for_rarely() if server is None else nullcontext():
        engine.start()
        if left_at is None:
            loop.settle(coordinator.start())
        at = left_at or 0
        skipped = 0
        while not limits.reached(coordinator):
            event = engine.next_event(limits.until)
            if event is None:
                break
            at = event.at
            loop.handle(event, limits.iterations)
            if type(event) is Push:
                skipped = 0 if event.finite else skipped + 1
                if skipped and (limits.on_nan == "stop" or skipped > _MOST_SKIPPED):
                    raise _not_finite(event, coordinator, skipped)  # before anybody keeps this state to go on from it
            for take_a_rest in rest:
                take_a_rest(at)
        for observer in observers:
            observer.on_finish(at)
    return at


def _not_finite(push: Push, coordinator: Coordinator, skipped: int) -> NotFinite:
    if skipped > 1:
        return NotFinite(f"the last {skipped:,} gradients were not finite; a smaller optimizer.learning_rate may help")
    loss = "" if push.loss is None else f", loss {push.loss:g}"
    return NotFinite(
        f"the gradient of worker {push.worker} is not finite (push {coordinator.pushes:,} of the run{loss}); a smaller "
        "optimizer.learning_rate may help, and on_nan=skip leaves such gradients out"
    )


@contextmanager
def _garbage_looked_for_rarely() -> Iterator[None]:
    """Messages leave no cycles, and to look among those of ten thousand workers takes as long as to handle them."""
    before = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _that_do_something(observers: Sequence[Observer], method: str) -> list[Callable[..., None]]:
    """This method of all observers that have their own; the others would be called in vain at every push."""
    methods = [getattr(observer, method) for observer in observers]
    return [mine for mine in methods if getattr(mine, "__func__", None) is not getattr(Observer, method)]


class _Loop:
    """What happens to one event: decide, carry out, tell the observers, deliver."""

    def __init__(
        self,
        coordinator: Coordinator,
        engine: Engine,
        rates: LearningRate,
        server: ParameterServer | None,
        observers: Sequence[Observer],
    ) -> None:
        self._coordinator = coordinator
        self._engine = engine
        self._rates = rates
        self._rate_by_staleness = rates.scale == "inverse_staleness"
        self._server = server
        self._observers = observers
        self._tell = _that_do_something(observers, "on_outcome")

    def handle(self, event: Event, share: int | None) -> None:
        outcome = self._coordinator.handle(event)
        if isinstance(event, Push):
            if outcome.push and outcome.push.clock == share:
                self._retire(event, outcome)
                return
        elif isinstance(event, (Left, Joined)):
            for observer in self._observers:
                observer.on_membership(event, self._coordinator.pushes)
        self.settle(outcome)

    def settle(self, outcome: Outcome, leaver: WorkerId | None = None) -> None:
        """Carry it out, tell it, and let those go on who may; not the leaver, who is among them."""
        updates, released = outcome.updates, outcome.released
        rates = [self._rate(updates[0])] if len(updates) == 1 else [self._rate(update) for update in updates]
        if self._server:
            self._server.carry_out(outcome, rates)
        for tell in self._tell:
            tell(outcome, rates)
        if len(released) == 1 and leaver is None:
            workers = [released[0].worker]
        else:
            workers = [release.worker for release in released if release.worker != leaver]
        self._engine.deliver(workers, len(updates), outcome.timers)

    def _retire(self, push: Push, outcome: Outcome) -> None:
        """A worker's last push: it is handled as any other, but then the worker leaves instead of going on."""
        self.settle(outcome, leaver=push.worker)
        leave = Left(push.worker, push.at)
        self._engine.dismiss(push.worker)
        after = self._coordinator.handle(leave)
        for observer in self._observers:
            observer.on_membership(leave, self._coordinator.pushes)
        self.settle(after)

    def _rate(self, update: Update) -> float:
        staleness = max(gradient.staleness for gradient in update.gradients) if self._rate_by_staleness else 0
        return self._rates.at(update.version - 1, self._coordinator.pushes, staleness)
