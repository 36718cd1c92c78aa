"""Observers: what watches a run from inside the server loop, and never changes it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dssp_bench.core.messages import Evaluation, Joined, Left, Nanoseconds, Outcome


class Observer:
    """Sees everything that the loop does, after it was done; does nothing unless a method is overridden."""

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """An event was handled; there is one learning rate for each of the outcome's updates."""

    def on_membership(self, event: Left | Joined, pushes: int) -> None:
        """A worker left or joined after so many pushes of the whole run."""

    def on_rest(self, at: Nanoseconds) -> None:
        """An event was handled, and everyone whom it released has begun; nothing is half done."""

    def on_finish(self, at: Nanoseconds) -> None:
        """The loop is over; the weights are final."""


class Recorder(Protocol):
    """Keeps everything that a run leaves."""

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Keep one outcome."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Keep the evaluation of one snapshot."""

    def positions(self) -> dict[str, int] | None:
        """Where each file ends that holds all that was kept so far; None if they cannot be written now."""

    def relived(self) -> None:
        """What was kept so far is in the files of an earlier part of the run; what comes is new."""

    def close(self) -> None:
        """The run is over: finish the files."""


class Recording(Observer):
    """Hands outcomes to the records."""

    def __init__(self, recorder: Recorder) -> None:
        self.on_outcome = recorder.on_outcome  # type: ignore[method-assign]  # a call less for every push


class Snapshots(Observer):
    """Asks for a snapshot of the weights at the start, after every so many samples, and at the end."""

    def __init__(self, every: float, batch_size: int, take: Callable[[Nanoseconds, int, int], bool]) -> None:
        self._every = every
        self._batch_size = batch_size
        self._take = take
        self._pushes = 0
        self._version = 0
        self._next = every
        self._taken: tuple[int, int] | None = None

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Take the first snapshot before any push, and the next ones when enough samples were pushed."""
        if outcome.updates:
            self._version = outcome.updates[-1].version
        if outcome.push:
            self._pushes += 1
        if self._taken is None and self._pushes == 0:
            self._try(outcome.at)
        elif self._pushes * self._batch_size >= self._next and self._try(outcome.at):
            self._next = (self._pushes * self._batch_size // self._every + 1) * self._every

    def on_finish(self, at: Nanoseconds) -> None:
        """Take the last snapshot, unless nothing has changed since the latest one."""
        if self._taken != (self._version, self._pushes):
            self._try(at)

    def state(self) -> dict[str, Any]:
        """What the next snapshots depend on."""
        return {"pushes": self._pushes, "version": self._version, "next": self._next, "taken": self._taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave earlier."""
        self._pushes, self._version, self._next = state["pushes"], state["version"], state["next"]
        self._taken = None if state["taken"] is None else (state["taken"][0], state["taken"][1])

    def _try(self, at: Nanoseconds) -> bool:
        taken = self._take(at, self._version, self._pushes * self._batch_size)
        if taken:
            self._taken = (self._version, self._pushes)
        return taken


class Membership(Observer):
    """Keeps who left and joined, and after how many pushes; a replay needs it."""

    def __init__(self) -> None:
        self.events: list[dict[str, int | str]] = []

    def on_membership(self, event: Left | Joined, pushes: int) -> None:
        """Keep one event."""
        kind = "left" if isinstance(event, Left) else "joined"
        self.events.append({"event": kind, "worker": event.worker, "at_ns": event.at, "after_pushes": pushes})
