"""Every history of a small system, on the real coordinator and the real paradigm, breadth first.

Whatever can happen next is tried: a push of whoever computes, a crash of anybody (one that is noticed late is a crash
at that later time), a worker that leaves when it has done its share (whether it is still held or not), and a new worker
that joins. After each, a `Referee` compares the outcome with its own book. So what is shown for the small systems is:
no deadlock, everyone finishes, bounds hold, every gradient is applied exactly once.

Two histories that lead to states from which everything goes on alike are followed once. What makes them alike is in
`_key`: clocks, who is held in which order, which gradients wait, and, for a paradigm that looks at time, the times it
has noted, relative to now.
"""

import pickle
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Event, Joined, Left, Push
from dssp_bench.paradigms.dssp import DSSP
from tests.scenario import Promise, Referee


class BugFoundError(AssertionError):
    """A history that ends badly; the shortest there is."""


@dataclass(frozen=True)
class System:
    """How much happens: each worker's iterations, how many crash or join, and how far an event may move the time."""

    iterations: int
    crashes: int = 0
    joins: int = 0
    steps: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Explored:
    """How much was looked at; `ends` counts the states in which everyone has left."""

    states: int
    transitions: int
    ends: int


class _State(NamedTuple):
    frozen: bytes  # the coordinator and the referee
    now: int
    crashes: int
    joins: int
    cause: Event | None
    before: "_State | None"


def explore(make: Callable[[], Coordinator], promise: Promise, system: System) -> Explored:
    """Look at every history. Raises BugFoundError."""
    coordinator = make()
    referee = Referee(promise, coordinator.start())
    first = _State(pickle.dumps((coordinator, referee)), 0, system.crashes, system.joins, None, None)
    seen: set[Hashable] = {_key(coordinator, referee, first)}
    queue = deque([first])
    transitions = ends = 0
    while queue:
        state = queue.popleft()
        coordinator, referee = pickle.loads(state.frozen)
        ends += not referee.clock
        if referee.clock and not referee.computing:
            raise BugFoundError(_tell(state, "nobody computes, and these never finish: " + str(list(referee.clock))))
        for event, crashes, joins in _may_come(referee, state, system):
            coordinator, referee = pickle.loads(state.frozen)
            after = _State(b"", event.at, crashes, joins, event, state)
            try:
                referee.saw(event, coordinator.handle(event))
            except Exception as error:
                raise BugFoundError(_tell(after, f"{type(error).__name__}: {error}")) from error
            transitions += 1
            key = _key(coordinator, referee, after)
            if key not in seen:
                seen.add(key)
                queue.append(after._replace(frozen=pickle.dumps((coordinator, referee))))
    return Explored(len(seen), transitions, ends)


def _may_come(referee: Referee, state: _State, system: System) -> Iterator[tuple[Event, int, int]]:
    for at in (state.now + step for step in system.steps):
        for worker, clock in referee.clock.items():
            finished = clock >= system.iterations
            if finished:
                yield Left(worker, at), state.crashes, state.joins
            elif state.crashes:
                yield Left(worker, at), state.crashes - 1, state.joins
            if not finished and worker not in referee.held_since:
                yield Push(worker, at), state.crashes, state.joins
        if state.joins:
            yield Joined(100 + state.joins, at), state.crashes, state.joins - 1


def _key(coordinator: Coordinator, referee: Referee, state: _State) -> Hashable:
    paradigm, clocks = coordinator.paradigm, sorted(referee.clock.items())
    pulled = [referee.version - referee.pulled[w] for w in referee.computing] if referee.promise.fresh else []
    counts = (referee.slowest, state.crashes, state.joins)
    key = (*clocks, *referee.held_since, frozenset(referee.waiting), *pulled, *counts)
    return (key, _memory(paradigm, coordinator, state.now)) if isinstance(paradigm, DSSP) else key


def _memory(paradigm: DSSP, coordinator: Coordinator, now: int) -> Hashable:
    view = coordinator.view
    corrected = paradigm.interval == "hold_corrected"
    noted = [
        (
            now - paradigm._pushed_at.get(worker, now + 1),
            paradigm._interval.get(worker),
            paradigm._extra.get(worker, 0),
            worker in paradigm._granted,
            view.last_hold[worker] if corrected else 0,
            now - view.held[worker].at if corrected and worker in view.held else 0,
        )
        for worker in sorted(view.clocks)
    ]
    return (*noted, *view.clocks.slowest_workers())


def _tell(state: _State, complaint: str) -> str:
    story: list[str] = []
    at: _State | None = state
    while at is not None and at.cause is not None:
        verb = {Push: "", Left: " leaves", Joined: " joins"}.get(type(at.cause), " ?")
        story.append(f"  {at.cause.at} {getattr(at.cause, 'worker', '?')}{verb}")
        at = at.before
    return "\n".join([complaint, *reversed(story)])
