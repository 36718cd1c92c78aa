"""The contract of an engine: it carries pushes and releases, and it owns the clock."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Event, Nanoseconds, Timer, WorkerId


class Engine(ABC):
    """Delivers events in the order in which the server takes them up; used as a context manager, once.

    The clock starts at 0 when `start` returns. Between an event and the `deliver` that answers it nothing else happens.
    """

    @abstractmethod
    def start(self) -> None:
        """Make the workers ready to compute; the run's time starts when this returns."""

    @abstractmethod
    def next_event(self, until: Nanoseconds | None) -> Event | None:
        """The next event; None if there will be none, or none up to the moment `until`."""

    @abstractmethod
    def deliver(self, released: Sequence[WorkerId], updates: int, timers: Sequence[Timer]) -> None:
        """Let workers start their next iteration on the current weights, which `updates` updates have just changed."""

    @abstractmethod
    def dismiss(self, worker: WorkerId) -> None:
        """Tell a worker that it has done its share."""

    @abstractmethod
    def close(self) -> None:
        """Stop all workers and give everything back; called once, whatever happened."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


OnNan = Literal["stop", "skip"]
OnWorkerLoss = Literal["continue", "stop", "restart"]


@dataclass
class Limits:
    """When a run ends: whichever comes first. `iterations` is every worker's share; a worker that did it leaves.

    `on_nan` says whether a gradient that is not finite ends the run or is only left out.
    """

    iterations: int | None = None
    pushes: int | None = None
    updates: int | None = None
    until: Nanoseconds | None = None
    stop_requested: bool = False
    on_nan: OnNan = "skip"

    def reached(self, coordinator: Coordinator) -> bool:
        """Whether the run is over although there may be more events, such as a worker that would join later."""
        return (
            self.stop_requested
            or (self.iterations is not None and coordinator.view.clocks.slowest >= self.iterations)
            or (self.pushes is not None and coordinator.pushes >= self.pushes)
            or (self.updates is not None and coordinator.view.version >= self.updates)
        )
