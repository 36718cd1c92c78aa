"""Every history of a small system, on the real coordinator and the real paradigm, breadth first.

Whatever can happen next is tried: a push of whoever computes, a crash of anybody, a worker that leaves when it has done
its share (whether it is still held or not), and a new worker that joins. The server cannot tell a worker that crashed
unseen from one that computes for long; so a crash that is noticed late is, to it, a crash at that later time, and needs
no state of its own. After each event a `Referee` compares the outcome with its own book, and the coordinator's state is
compared with that book.

Every event but a join uses up an iteration, a crash or a worker, so no history is endless; and a state in which nobody
computes is an error. So, whatever comes next, everyone that lives finishes, and whoever is held is released in time.

Most paradigms look at no time, and it stands still. DSSP's controller does; `AnyGrant` answers whatever it may, so that
all times are covered without trying any. A system whose `steps` move the time tries the real controller.

Two histories that lead to states from which everything goes on alike are followed once. `_key` says what makes them
alike; workers are interchangeable, as nothing looks at their numbers.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Decision, Event, Flush, Joined, Left, Nanoseconds, Push, Use, WorkerId
from dssp_bench.core.paradigm import View
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from tests.scenario import Promise, PromiseError, Referee


class BugFoundError(AssertionError):
    """A history that ends badly; the shortest there is."""


class AnyGrant(DSSP):
    """DSSP whose controller says what the explorer wants, and tells how much it might have said."""

    answer = 0
    asked_up_to = 0

    def _controller(self, push: Push, slowest: WorkerId, cap: int) -> tuple[int, Nanoseconds]:
        self.asked_up_to = cap
        return self.answer, 0


class MergesByThree(SSP):
    """SSP whose gradients wait until there are three, wherever their workers are by then: so they must be copied."""

    def on_push(self, push: Push, view: View) -> Decision:
        enough = Flush.MEAN if len(view.buffered) >= 2 else None
        return super().on_push(push, view)._replace(use=Use.BUFFER, flush=enough)

    def on_leave(self, left: Left, view: View) -> Decision:
        return super().on_leave(left, view)._replace(flush=Flush.MEAN)


@dataclass(frozen=True)
class System:
    """How much happens: each worker's iterations, how many crash or join, and how far an event may move the time."""

    iterations: int
    crashes: int = 0
    joins: int = 0
    steps: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Explored:
    """How much was looked at; `ends` counts the states in which everyone has left."""

    states: int
    transitions: int
    ends: int
    seen: set[Hashable] = field(repr=False)


class _State(NamedTuple):
    coordinator: Coordinator
    referee: Referee
    crashes: int
    joins: int
    now: Nanoseconds
    trail: "_Trail | None"


class _Trail(NamedTuple):
    cause: Event
    granted: int
    before: "_Trail | None"


def explore(make: Callable[[], Coordinator], promise: Promise, system: System, *, alike: bool = True) -> Explored:
    """Look at every history, with workers interchangeable if they are `alike`. Raises BugFoundError."""
    coordinator = make()
    referee = Referee(promise, coordinator.start())
    first = _State(coordinator, referee, system.crashes, system.joins, 0, None)
    seen: set[Hashable] = {_key(first, alike)}
    queue = deque([first])
    transitions = ends = 0
    while queue:
        state = queue.popleft()
        ends += not state.referee.clock
        if state.referee.clock and not state.referee.computing:
            raise BugFoundError(_tell(state.trail, f"nobody computes, and these wait: {list(state.referee.clock)}"))
        for event, crashes, joins in _may_come(state, system):
            for coordinator, referee, trail in _ways(state, event):
                transitions += 1
                after = _State(coordinator, referee, crashes, joins, event.at, trail)
                key = _key(after, alike)
                if key not in seen:
                    seen.add(key)
                    queue.append(after)
    return Explored(len(seen), transitions, ends, seen)


def compare(coordinator: Coordinator, referee: Referee) -> None:
    """Raise PromiseError if the coordinator's state is not what a referee's book says."""
    view, pulled = coordinator.view, coordinator._pulled
    for what, is_so, should_be in (
        ("clocks", view.clocks, referee.clock),
        ("held workers", view.held.keys(), referee.held_since.keys()),
        ("waiting gradients", view.buffered, referee.waiting),
        ("version", view.version, referee.version),
        ("pulled versions", [pulled[w] for w in referee.computing], [referee.pulled[w] for w in referee.computing]),
    ):
        if is_so != should_be:
            raise PromiseError(f"the coordinator's {what}: {is_so}; its outcomes said {should_be}")


def _may_come(state: _State, system: System) -> Iterator[tuple[Event, int, int]]:
    referee, crashes, joins = state.referee, state.crashes, state.joins
    for at in (state.now + step for step in system.steps):
        for worker, clock in referee.clock.items():
            finished = clock >= system.iterations
            if finished:
                yield Left(worker, at), crashes, joins
            elif crashes:
                yield Left(worker, at), crashes - 1, joins
            if not finished and worker not in referee.held_since:
                yield Push(worker, at), crashes, joins
        if joins:
            yield Joined(100 + joins, at), crashes, joins - 1


def _ways(state: _State, event: Event) -> Iterator[tuple[Coordinator, Referee, _Trail]]:
    """What may come of one event: one thing, or one for each answer of a controller that may say anything."""
    answer = most = 0
    while answer <= most:
        coordinator, referee = copy_of(state.coordinator), copy_of(state.referee)
        trail = _Trail(event, answer, state.trail)
        controller = coordinator.paradigm if isinstance(coordinator.paradigm, AnyGrant) else AnyGrant()
        controller.answer, controller.asked_up_to = answer, 0
        try:
            referee.saw(event, coordinator.handle(event))
            compare(coordinator, referee)
        except Exception as error:
            raise BugFoundError(_tell(trail, f"{type(error).__name__}: {error}")) from error
        most, controller.answer, controller.asked_up_to = controller.asked_up_to, 0, 0
        yield coordinator, referee, trail
        answer += 1


# --- what makes two states alike -------------------------------------------------------------------------------------


def _key(state: _State, alike: bool) -> Hashable:
    """Clocks, who is held in which order, which gradients wait, and what the paradigm remembers; each by worker."""
    coordinator, referee = state.coordinator, state.referee
    view, paradigm = coordinator.view, coordinator.paradigm
    rank = {worker: n for n, worker in enumerate(view.held)}
    workers: list[tuple[Any, ...]] = [(clock, rank.get(worker, -1)) for worker, clock in view.clocks.items()]
    if isinstance(paradigm, DSSP):
        memory = _times(paradigm, view, state.now) if state.now else _grants(paradigm, view)
        workers = [mine + more for mine, more in zip(workers, memory, strict=True)]
    if referee.promise.fresh:
        pulled = coordinator._pulled
        workers = [(*mine, view.version - pulled.get(w, -1)) for mine, w in zip(workers, view.clocks, strict=True)]
    if view.buffered:
        waiting = [tuple([m.clock for m in view.buffered if m.worker == worker]) for worker in view.clocks]
        workers = [(*mine, theirs) for mine, theirs in zip(workers, waiting, strict=True)]
    if alike:
        workers.sort()
    else:
        workers = [(worker, *mine) for worker, mine in zip(view.clocks, workers, strict=True)]
    orphans = sum(message.worker not in view.clocks for message in view.buffered)
    return (*workers, orphans, view.clocks.slowest, state.crashes, state.joins)


def _grants(paradigm: DSSP, view: View) -> list[tuple[Any, ...]]:
    return [(paradigm._extra.get(worker, 0), worker in paradigm._granted) for worker in view.clocks]


def _times(paradigm: DSSP, view: View, now: Nanoseconds) -> list[tuple[Any, ...]]:
    """What the real controller looks at: moments relative to now, and who of the slowest pushed first."""
    corrected = paradigm.interval == "hold_corrected"
    slowest = list(view.clocks.slowest_workers())
    return [
        (
            *grants,
            now - paradigm._pushed_at.get(worker, now + 1),
            paradigm._interval.get(worker, -1),
            view.last_hold[worker] if corrected else 0,
            now - view.held[worker].at if corrected and worker in view.held else 0,
            slowest.index(worker) if worker in slowest else -1,
        )
        for worker, grants in zip(view.clocks, _grants(paradigm, view), strict=True)
    ]


# --- copies ----------------------------------------------------------------------------------------------------------

T = TypeVar("T")


def copy_of(thing: T) -> T:
    """A copy that shares nothing that can change: `copy.deepcopy` for our few types, in a tenth of its time."""
    kind = type(thing)
    if kind is dict:
        return _items(thing)  # type: ignore[arg-type, return-value]
    if isinstance(thing, (tuple, Enum, Promise)) or kind in _NEVER_CHANGE:
        return thing
    copy: Any = kind.__new__(kind)
    if isinstance(thing, dict):
        dict.update(copy, _items(thing))
    elif isinstance(thing, set):
        copy.update(thing)
    if hasattr(thing, "__dict__"):
        copy.__dict__.update(_items(thing.__dict__))
    for name in getattr(kind, "__slots__", ()):
        setattr(copy, name, copy_of(getattr(thing, name)))
    return copy  # type: ignore[no-any-return]


_NEVER_CHANGE = frozenset({int, str, bool, float, Push, type(None)})


def _items(thing: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value if type(value) in _NEVER_CHANGE else copy_of(value) for key, value in thing.items()}


# --- telling ---------------------------------------------------------------------------------------------------------


def _tell(trail: _Trail | None, complaint: str) -> str:
    story: list[str] = []
    while trail is not None:
        verb = {Push: "", Left: " leaves", Joined: " joins"}.get(type(trail.cause), " ?")
        granted = f" (the controller says {trail.granted})" if trail.granted else ""
        story.append(f"  {trail.cause.at} {getattr(trail.cause, 'worker', '?')}{verb}{granted}")
        trail = trail.before
    return "\n".join([complaint, *reversed(story)])
