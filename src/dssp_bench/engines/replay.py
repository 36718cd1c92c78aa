"""A recorded run, fed back through the core: the same events, at the same moments, in the same order."""

from collections.abc import Iterable, Sequence

from dssp_bench.core.messages import Event, Nanoseconds, Timer, WorkerId
from dssp_bench.engines.engine import Engine


class ReplayEngine(Engine):
    """Plays recorded events; what it is told to deliver it only counts, since the record already says what came next.

    A core that would not have released a worker in time raises ProtocolViolation at that worker's next push.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = iter(events)

    def start(self) -> None:
        """Nothing to start."""

    def next_event(self, until: Nanoseconds | None) -> Event | None:
        """The next recorded event."""
        return next(self._events, None)

    def deliver(self, released: Sequence[WorkerId], updates: int, timers: Sequence[Timer]) -> None:
        """Nobody to deliver to."""

    def dismiss(self, worker: WorkerId) -> None:
        """Nobody to dismiss."""

    def close(self) -> None:
        """Nothing to give back."""
