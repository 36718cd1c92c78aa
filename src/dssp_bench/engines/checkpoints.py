"""Checkpoints: a run as it stands between two events, and how it goes on from there.

The control plane is not written down: whoever goes on feeds the recorded events through the coordinator and the
paradigm once more, which decide as they did, and then compares where that leads with what the checkpoint says. So a
paradigm needs no code for this, whatever it remembers. What cannot be had that way is in the checkpoint: the weights,
the optimizer's state, gradients that wait, the weights that workers compute on, and how far everybody is in their data.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from torch import Tensor

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.errors import RecordsError
from dssp_bench.core.messages import Event, Nanoseconds, Outcome, WorkerId
from dssp_bench.engines.observer import Membership, Observer, Recorder, Snapshots

FORMAT = 1
"""Of what a checkpoint's state says; another number means something else."""
_log = logging.getLogger(__name__)


class Store(Protocol):
    """Keeps checkpoints on disk."""

    def save(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> object:
        """Write one checkpoint, of a state that JSON may hold and of arrays. Raises OSError."""


@dataclass
class CheckpointPlan:
    """How often checkpoints are made, and what makes the store in the process that makes them."""

    store: Callable[[], Store]
    every_s: float


@dataclass
class Past:
    """A run up to a checkpoint: its state, its tensors, and the events that led there."""

    state: dict[str, Any]
    tensors: Callable[[], dict[str, Tensor]]
    events: Callable[[], Iterable[Event]]

    @property
    def left_at(self) -> Nanoseconds:
        """The moment at which it was left, on the engine's clock."""
        return int(self.state["at"])

    @property
    def positions(self) -> dict[str, int]:
        """Where the streams of records ended."""
        return {name: stream["bytes"] for name, stream in self.state["records"].items()}

    @property
    def iterations(self) -> dict[WorkerId, int]:
        """How many iterations of each worker, and of those whose place it took, have reached the server."""
        return {int(worker): count for worker, count in self.state["iterations"].items()}

    @property
    def replaced(self) -> list[tuple[WorkerId, WorkerId]]:
        """Who took whose place, in the order in which they did."""
        return [(worker, former) for worker, former in self.state.get("replaced", [])]

    @property
    def missing(self) -> list[WorkerId]:
        """Who has died and has not been replaced."""
        formers = {former for _, former in self.replaced}
        return [worker for worker in self.state.get("lost", ()) if worker not in formers]

    @property
    def departed(self) -> set[WorkerId]:
        """Who has left, or has died before it joined."""
        left = {event["worker"] for event in self.state["membership"] if event["event"] == "left"}
        return left | set(self.state.get("lost", ()))


class Checkpoints(Observer):
    """Makes a checkpoint every so many seconds, and a last one of a run that is interrupted; none without a plan.

    `capture` gives what the engine adds: more of the state, and the tensors, as copies. Writing them is another
    thread's work, and the next checkpoint waits for it; the run never does. A run that goes on by living its past once
    more makes none before `arrived` is called at the event where it was left.
    """

    def __init__(
        self,
        plan: CheckpointPlan | None,
        coordinator: Coordinator,
        recorder: Recorder,
        membership: Membership,
        snapshots: Snapshots,
        capture: Callable[[], tuple[dict[str, Any], dict[str, Tensor]]],
        interrupted: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = plan.every_s if plan else inf
        self._store = plan.store() if plan else None
        self._coordinator = coordinator
        self._recorder = recorder
        self._membership = membership
        self._snapshots = snapshots
        self._capture = capture
        self._interrupted = interrupted
        self._now = now
        self._due = now() + self._every_s
        self._iterations: Counter[WorkerId] = Counter()
        self._events = 0
        self._arrive_at = 0
        self._arrived: Sequence[Callable[[], object]] = ()
        self._writer: threading.Thread | None = None
        self._failed = False

    def relive(self, past: Past, *arrived: Callable[[], object]) -> None:
        """The run begins once more, and goes on when it has come to where it was left."""
        self._arrive_at = past.state["events"]
        self._arrived = (lambda: check(self._coordinator, past), *arrived)

    def restore(self, past: Past) -> None:
        """The run goes on from here."""
        self._events = past.state["events"]
        self._iterations.update(past.iterations)

    def position(self, worker: WorkerId) -> int:
        """How far a worker is in its data."""
        return self._iterations[worker]

    def take_place(self, worker: WorkerId, former: WorkerId) -> None:
        """A worker goes on where the former one was."""
        self._iterations[worker] = self._iterations[former]

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Count the iterations."""
        if outcome.push:
            self._iterations[outcome.push.worker] += 1

    def on_rest(self, at: Nanoseconds) -> None:
        """Make a checkpoint if it is time for one."""
        self._events += 1
        if self._events <= self._arrive_at:
            if self._events == self._arrive_at:
                for arrived in self._arrived:
                    arrived()
        elif self._now() >= self._due and not (self._writer and self._writer.is_alive()):
            self._make(at)

    def on_finish(self, at: Nanoseconds) -> None:
        """Make the last one, if the run could go on."""
        if self._interrupted() and self._every_s < inf and self._events > self._arrive_at:
            self.wait()
            self._make(at)

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._writer:
            self._writer.join()

    def _make(self, at: Nanoseconds) -> None:
        self._due = self._now() + self._every_s
        positions = self._recorder.positions()
        if positions is None:
            return  # the disk is full, as somebody else has said
        more, tensors = self._capture()
        state = {
            "format": FORMAT,
            "at": at,
            "events": self._events,
            **facts(self._coordinator),
            "iterations": {str(worker): count for worker, count in self._iterations.items()},
            "membership": list(self._membership.events),
            "snapshots": self._snapshots.state(),
            "records": positions,
            **more,
        }
        self._writer = threading.Thread(target=self._write, args=(state, tensors), name="checkpoint", daemon=True)
        self._writer.start()

    def _write(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        assert self._store
        try:
            self._store.save(state, {name: tensor.numpy() for name, tensor in tensors.items()})
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.warning("no checkpoint could be written, the older ones stay: %s", error)
            self._failed = True


def facts(coordinator: Coordinator) -> dict[str, Any]:
    """What the control plane knows, as far as another can say whether it knows the same."""
    view = coordinator.view
    return {
        "pushes": coordinator.pushes,
        "version": view.version,
        "clocks": {str(worker): clock for worker, clock in view.clocks.items()},
        "held": list(view.held),
        "buffered": [list(message) for message in view.buffered],
    }


def check(coordinator: Coordinator, past: Past) -> None:
    """Raise RecordsError unless the past has led to where the checkpoint was made."""
    for name, fact in facts(coordinator).items():
        if fact != past.state[name]:
            raise RecordsError(f"the records do not lead to the checkpoint: {name} are {fact}, not {past.state[name]}")
