"""The control plane: it sees who pushed, at which clock, when and on which version, asks the paradigm, and decides.

What it guarantees, whatever the paradigm:

- events are handled one at a time; within one, updates come first, then releases, then timers;
- a version counts one applied update, and a gradient's staleness is measured when it is applied;
- a gradient that is not finite is never applied nor buffered, and its worker goes on as with any other;
- only held workers are released, and a worker that pushes while it is held is a ProtocolViolation that changes nothing;
- a worker that left counts no longer, whoever waited for it is asked again, and its number never comes back, so that
  worker and clock name a gradient once and for all;
- when no live worker computes, no timer is pending and workers are held, it raises Deadlock.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NoReturn

from dssp_bench.core.errors import Deadlock, InvalidDecision, ProtocolViolation
from dssp_bench.core.messages import (
    Applied,
    Decision,
    Event,
    Flush,
    Joined,
    Left,
    MessageId,
    Nanoseconds,
    Outcome,
    Push,
    PushRecord,
    Release,
    TimerFired,
    Update,
    Use,
    WorkerId,
    new,
)
from dssp_bench.core.paradigm import Paradigm, View

_APPLY, _BUFFER = Use.APPLY, Use.BUFFER  # looking a member up takes longer than a message


class Coordinator:
    """One run of one paradigm: `start` once, then `handle` every event in the order in which the server receives them.

    After an exception other than ProtocolViolation the run is over.
    """

    def __init__(self, paradigm: Paradigm, workers: Iterable[WorkerId]) -> None:
        self.paradigm = paradigm
        self.view = View(workers)
        self.pushes = 0
        self._pulled: dict[WorkerId, int] = {}
        self._departed: set[WorkerId] = set()
        self._pending_timers: Counter[str] = Counter()
        paradigm.reset(self.view.clocks)

    def start(self) -> Outcome:
        """Release every worker into its first iteration, at time 0. Raises ProtocolViolation the second time."""
        if self._pulled:
            raise ProtocolViolation("the run was started before")
        workers = tuple(self.view.clocks)
        self.view.held.update((worker, Push(worker, 0)) for worker in workers)
        return self._answer(Decision(release=workers), 0)

    def handle(self, event: Event) -> Outcome:
        """Ask the paradigm about one event. Raises ProtocolViolation, InvalidDecision, Deadlock."""
        if type(event) is Push:
            return self._on_push(event)
        if isinstance(event, Left):
            return self._on_leave(event)
        if isinstance(event, Joined):
            return self._on_join(event)
        assert isinstance(event, TimerFired)
        return self._on_timer(event)

    @property
    def computing(self) -> int:
        """How many live workers are not held."""
        return len(self.view.clocks) - len(self.view.held)

    # --- the four events ---

    def _on_push(self, push: Push) -> Outcome:
        view, (worker, at, compute, loss, finite) = self.view, push
        clocks = view.clocks
        pulled = self._pulled.get(worker)
        if pulled is None or worker in view.held:
            self._refuse(worker)
        self.pushes += 1
        view.slowest_moved = clocks.advance(worker)
        clock = clocks[worker]
        lead = clock - clocks.slowest
        decision = self.paradigm.on_push(push, view)
        message = new(MessageId, (worker, clock))
        if not finite:
            decision = _without(decision, message)
        use, release, _, weight, timers, grant = decision

        updates: tuple[Update, ...] = ()
        staleness = None
        if use is _APPLY:
            staleness = view.version - pulled
            view.version += 1
            updates = (new(Update, (view.version, at, (new(Applied, (message, staleness, weight)),))),)
        elif use is _BUFFER:
            view.buffered[message] = pulled
        view.held[worker] = push
        updates, released, keep = self._carry_out(decision, at, updates)

        if staleness is None and use is _BUFFER and message not in view.buffered:
            staleness = view.version - 1 - pulled
        record = new(PushRecord, (
            worker, clock, lead, pulled, view.version, staleness, at, compute,
            0 if worker in release else None,
            use, self.paradigm.largest_lead(worker, clocks), loss,
        ))  # fmt: skip
        return new(Outcome, (at, record, updates, released, keep, timers, grant))

    def _on_leave(self, left: Left) -> Outcome:
        view = self.view
        if left.worker not in view.clocks:
            raise ProtocolViolation(f"worker {left.worker} left, but it is not one of the live workers")
        self._departed.add(left.worker)
        self._pulled.pop(left.worker, None)
        latest = MessageId(left.worker, view.clocks[left.worker])
        if latest in view.buffered:
            view.orphans[latest] = None
        view.held.pop(left.worker, None)
        view.slowest_moved = view.clocks.remove(left.worker)
        return self._answer(self.paradigm.on_leave(left, view), left.at)

    def _on_join(self, joined: Joined) -> Outcome:
        view = self.view
        if joined.worker in self._departed:
            raise ProtocolViolation(f"worker {joined.worker} left before; whoever takes its place takes a new number")
        view.clocks.add(joined.worker)
        view.held[joined.worker] = Push(joined.worker, joined.at)
        view.slowest_moved = False
        return self._answer(self.paradigm.on_join(joined, view), joined.at)

    def _on_timer(self, timer: TimerFired) -> Outcome:
        if not self._pending_timers[timer.tag]:
            raise ProtocolViolation(f"timer {timer.tag!r} fired, but nobody waits for it")
        self._pending_timers[timer.tag] -= 1
        self.view.slowest_moved = False
        return self._answer(self.paradigm.on_timer(timer, self.view), timer.at)

    # --- carrying a decision out: apply, flush, release, timers ---

    def _answer(self, decision: Decision, at: Nanoseconds) -> Outcome:
        updates, released, keep = self._carry_out(decision, at, ())
        return Outcome(at, None, updates, released, keep, decision.timers, decision.grant)

    def _carry_out(
        self, decision: Decision, at: Nanoseconds, updates: tuple[Update, ...]
    ) -> tuple[tuple[Update, ...], tuple[Release, ...], tuple[MessageId, ...]]:
        if decision.flush is not None:
            updates += self._flush(decision.flush, at)
        view = self.view
        release = decision.release
        if len(release) == 1:
            released: tuple[Release, ...] = (self._release(release[0], at),)
        else:
            released = tuple([self._release(worker, at) for worker in release])
        keep = self._to_keep(released) if view.buffered else ()
        if decision.timers:
            self._pending_timers.update(timer.tag for timer in decision.timers)
        if len(view.held) == len(view.clocks):
            self._guard_against_deadlock()
        return updates, released, keep

    def _flush(self, flush: Flush | Mapping[MessageId, float], at: Nanoseconds) -> tuple[Update, ...]:
        buffered = self.view.buffered
        if isinstance(flush, Flush):
            flush = dict.fromkeys(buffered, 1.0 / max(1, len(buffered)) if flush is Flush.MEAN else 1.0)
        if not flush.keys() <= buffered.keys():
            unknown = [message for message in flush if message not in buffered]
            raise InvalidDecision(f"{self._name} flushed gradients that are not buffered: {unknown}")
        if not flush:
            return ()
        version = self.view.version
        gradients = tuple([Applied(m, version - buffered.pop(m), weight) for m, weight in flush.items()])
        if self.view.orphans:
            self.view.orphans = {message: None for message in self.view.orphans if message not in flush}
        self.view.version += 1
        return (Update(self.view.version, at, gradients),)

    def _release(self, worker: WorkerId, at: Nanoseconds) -> Release:
        view = self.view
        push = view.held.pop(worker, None)
        if push is None:
            raise InvalidDecision(f"{self._name} released worker {worker}, which is not held")
        held = at - push.at
        self._pulled[worker] = view.version
        if held:
            view.last_hold[worker] = held
        elif view.last_hold:
            view.last_hold.pop(worker, None)
        return new(Release, (worker, held, new(MessageId, (worker, view.clocks[worker]))))

    def _to_keep(self, released: tuple[Release, ...]) -> tuple[MessageId, ...]:
        return tuple([release.after for release in released if release.after in self.view.buffered])

    # --- what may not happen ---

    def _refuse(self, worker: WorkerId) -> NoReturn:
        if worker not in self.view.clocks:
            raise ProtocolViolation(f"worker {worker} pushed, but it is not one of the live workers")
        if worker in self.view.held:
            raise ProtocolViolation(f"worker {worker} pushed while held at clock {self.view.clocks[worker]}")
        raise ProtocolViolation(f"worker {worker} pushed before the run was started")

    def _guard_against_deadlock(self) -> None:
        if self.view.held and not self._pending_timers.total():
            held = ", ".join(f"{w} at clock {self.view.clocks[w]}" for w in self.view.held)
            raise Deadlock(f"{self._name} holds every live worker and waits for nothing: {held}")

    @property
    def _name(self) -> str:
        return type(self.paradigm).__name__


def _without(decision: Decision, message: MessageId) -> Decision:
    """The same decision, but this gradient, which is not finite, takes no part in it."""
    flush = decision.flush
    if isinstance(flush, Mapping):
        flush = {other: weight for other, weight in flush.items() if other != message} or None
    return decision._replace(use=Use.SKIP, flush=flush)
