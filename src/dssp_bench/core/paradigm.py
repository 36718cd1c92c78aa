"""The contract between the coordinator and a synchronisation paradigm."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from dssp_bench.core.clocks import Clocks
from dssp_bench.core.messages import (
    Decision,
    Joined,
    Left,
    MessageId,
    Push,
    TimerFired,
    Use,
    WorkerId,
    new,
)

_APPLY = Use.APPLY  # looking it up takes as long as making a decision

HeldGradients = Literal["apply", "merge_sum", "merge_mean"]


class View:
    """What a paradigm may see of the system; only the coordinator changes it.

    `held` maps each held worker to the push it is held at, in the order in which they were held. `buffered` holds the
    gradients that wait for an update, oldest first; `orphans` are those of them that a held worker left behind when it
    left. `last_hold` says how long each worker was held before the iteration that it runs now (0 if it was not).
    """

    __slots__ = ("buffered", "clocks", "held", "last_hold", "orphans", "slowest_moved", "version")

    def __init__(self, workers: Iterable[WorkerId]) -> None:
        self.clocks = Clocks(workers)
        self.held: dict[WorkerId, Push] = {}
        self.buffered: dict[MessageId, int] = {}
        self.orphans: dict[MessageId, None] = {}
        self.last_hold: Counter[WorkerId] = Counter()
        self.slowest_moved = False
        self.version = 0


class Paradigm(ABC):
    """Says who may start the next iteration and when pushed gradients change the weights.

    Most paradigms answer one question, `may_proceed`, and inherit the rest: a gradient is applied on arrival, its
    worker goes on if it may, and held workers are asked again whenever the slowest clock moves. A paradigm that treats
    the pusher differently answers `proceeds` too. One that decides by other rules overrides the `on_...` methods.

    A paradigm's fields are its options; what it learns during a run lives in what `reset` prepares.
    """

    held_gradients: HeldGradients = "apply"
    """`apply`: every gradient on arrival. `merge_...`: a held worker's gradient waits and is applied in one update with
    the gradient whose push releases it, by sum or mean."""

    @abstractmethod
    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        """Whether this worker may start its next iteration; depends on nothing but the clocks."""

    def proceeds(self, push: Push, view: View) -> bool:
        """Whether the worker that has just pushed may go on; asked exactly once per push."""
        return self.may_proceed(push.worker, view.clocks)

    def largest_lead(self, worker: WorkerId, clocks: Clocks) -> int | None:
        """The largest lead at which this worker may start an iteration from now on; None if there is none."""
        return None

    def reset(self, workers: Iterable[WorkerId]) -> None:  # noqa: B027  (most remember nothing)
        """Forget everything learned: a run with these workers begins."""

    # --- answers to events, composed of the questions above ---

    def on_push(self, push: Push, view: View) -> Decision:
        """One gradient arrived; the clocks count it already."""
        proceeds = self.proceeds(push, view)
        release: tuple[WorkerId, ...] = (push.worker,) if proceeds else ()
        if view.slowest_moved and view.held:
            release += self.released(view)
        if self.held_gradients == "apply":
            return new(Decision, (_APPLY, release, None, 1.0, (), None))
        pushed = MessageId(push.worker, view.clocks[push.worker]) if proceeds and push.finite else None
        return Decision(Use.BUFFER, release, self.merged(release, view, pushed) if release else None)

    def on_leave(self, left: Left, view: View) -> Decision:
        """A worker is gone; the clocks have forgotten it already."""
        release = self.released(view)
        return Decision(release=release, flush=self.merged(release, view))

    def on_join(self, joined: Joined, view: View) -> Decision:
        """A worker joined at the slowest clock and is held until this answer releases it."""
        return Decision(release=self.released(view))

    def on_timer(self, timer: TimerFired, view: View) -> Decision:
        """A moment that an earlier decision asked for has come."""
        return Decision()

    def released(self, view: View) -> tuple[WorkerId, ...]:
        """The held workers that may go on now, first held first."""
        return tuple([worker for worker in view.held if self.may_proceed(worker, view.clocks)])

    def merged(
        self, release: tuple[WorkerId, ...], view: View, pushed: MessageId | None = None
    ) -> dict[MessageId, float] | None:
        """The gradients that one update merges: the pushed one, and the buffered ones whose worker waits no longer.

        Gradients of workers that left are taken along; they never make an update of their own while others live, so
        that a worker that leaves in the middle of a round does not split the round.
        """
        if self.held_gradients == "apply":
            return None
        merged = [message for w in release if (message := MessageId(w, view.clocks[w])) in view.buffered]
        if not (merged or pushed) and view.clocks:
            return None
        merged = [*view.orphans, *merged, *([pushed] if pushed else [])]
        weight = 1.0 if self.held_gradients == "merge_sum" else 1.0 / max(1, len(merged))
        return dict.fromkeys(merged, weight) or None
