"""Stories about a paradigm: a little language, a driver in virtual time, and a referee who believes nobody.

    play(SSP(threshold=1), '''
        1 fast -> fast
        2 fast ->
        5 slow -> slow fast
    ''')

A line reads `time who -> who is released, in order`; `time who leaves -> ...` and `time who joins -> ...` are the other
two events. Times are seconds. Workers get their ids in the order in which the script names them, or in that of a line
`workers a b c`. All take part from the start but those that the script first mentions as joining.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from heapq import heappop, heappush
from itertools import count

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import (
    SECOND,
    Event,
    Joined,
    Left,
    MessageId,
    Nanoseconds,
    Outcome,
    Push,
    Release,
    Use,
    WorkerId,
)
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP


def seconds(number: float | str) -> Nanoseconds:
    """So many seconds, exactly as they are written."""
    return int(Decimal(str(number)) * SECOND)


# --- what a paradigm promises, and the referee -----------------------------------------------------------------------


class PromiseError(AssertionError):
    """A promise of the coordinator or of a paradigm that was not kept."""


@dataclass(frozen=True)
class Promise:
    """What one paradigm promises beyond the coordinator's own guarantees; None and False promise nothing."""

    free_lead: int | None = None  # nobody is held at a lead up to this one
    push_lead: int | None = None  # no push is seen at a lead above this one
    fresh: bool = False  # staleness is always 0
    slowest_goes: bool = False  # the slowest worker is never held
    nothing_waits_for_the_dead: bool = False  # when everyone has left, every gradient is applied


def promise_of(paradigm: Paradigm) -> Promise:
    """What the four paradigms promise."""
    free_lead: int | None
    push_lead: int | None
    match paradigm:
        case BSP():
            free_lead, push_lead = 0, 1
        case SSP(threshold=threshold):
            free_lead, push_lead = threshold, threshold + 1
        case DSSP(lower=lower, upper=upper, variant=variant):
            free_lead, push_lead = lower, None if variant == "literal" else upper + 1
        case _:
            assert isinstance(paradigm, ASP)
            free_lead, push_lead = 10**9, None
    return Promise(free_lead, push_lead, isinstance(paradigm, BSP), slowest_goes=True, nothing_waits_for_the_dead=True)


class Referee:
    """Keeps its own book about a run, from events and outcomes alone, and raises PromiseError when they do not fit.

    It is deliberately dumb: the slowest clock is a `min()`, and nothing is shared with the code under test.
    """

    def __init__(self, promise: Promise, start: Outcome) -> None:
        self.promise = promise
        self.clock: dict[WorkerId, int] = {}
        self.held_since: dict[WorkerId, Nanoseconds] = {}
        self.pulled: dict[WorkerId, int] = {}
        self.waiting: dict[MessageId, int] = {}  # gradients that no update has applied: the version their worker pulled
        self.version = 0
        self.slowest = 0
        self.applied = 0
        _check(not start.updates and start.push is None and start.at == 0, "starting is more than releasing")
        for release in start.released:
            _check(release.held == 0, "a worker was held before the start")
            self.clock[release.worker] = self.pulled[release.worker] = 0

    @property
    def computing(self) -> list[WorkerId]:
        """The live workers that are not held."""
        return [worker for worker in self.clock if worker not in self.held_since]

    def saw(self, event: Event, outcome: Outcome) -> None:
        """Compare one event's outcome with the book, and write it there."""
        _check(outcome.at == event.at, "the outcome has another time than the event")
        if isinstance(event, Push):
            self._saw_push(event, outcome)
        else:
            _check(outcome.push is None, "a push was recorded that nobody made")
        if isinstance(event, Left):
            del self.clock[event.worker]
            self.held_since.pop(event.worker, None)
        if isinstance(event, Joined):
            self.clock[event.worker] = self.slowest
            self.held_since[event.worker] = event.at
        if self.clock:
            self.slowest = min(self.clock.values())
        self._saw_updates(outcome)
        self._saw_push_record(outcome)
        for release in outcome.released:
            self._saw_release(release, outcome)
        self._check_promises()

    def _saw_push(self, push: Push, outcome: Outcome) -> None:
        worker = push.worker
        self.clock[worker] += 1
        message = MessageId(worker, self.clock[worker])
        record = outcome.push
        _check(record is not None, "a push left no record")
        assert record is not None
        _check((record.worker, record.clock, record.at) == (*message, push.at), f"{record} is not the push {message}")
        _check(record.pulled_version == self.pulled[worker], "the record names another version than was pulled")
        if record.use is not Use.DROP:
            _check(message not in self.waiting, f"two gradients that wait are called {message}")
            self.waiting[message] = self.pulled[worker]
        self.held_since[worker] = push.at

    def _saw_updates(self, outcome: Outcome) -> None:
        for update in outcome.updates:
            _check(update.at == outcome.at, "an update at another time")
            _check(update.version == self.version + 1, f"version {update.version} came after {self.version}")
            for message, staleness, _ in update.gradients:
                _check(message in self.waiting, f"the gradient {message} was applied again, or never pushed")
                _check(staleness == self.version - self.waiting.pop(message), f"the staleness of {message} is wrong")
                _check(not self.promise.fresh or staleness == 0, f"the gradient {message} is stale")
                self.applied += 1
            self.version = update.version

    def _saw_push_record(self, outcome: Outcome) -> None:
        record = outcome.push
        if record is None:
            return
        message = MessageId(record.worker, record.clock)
        applied = [a.staleness for update in outcome.updates for a in update.gradients if a.message == message]
        _check(record.staleness == (applied[0] if applied else None), "the record and the update differ in staleness")
        _check(applied or record.use is not Use.APPLY, f"the gradient {message} was to be applied, but was not")
        lead = self.clock[record.worker] - self.slowest
        _check(record.lead == lead, f"the record says lead {record.lead} where it is {lead}")
        limit = self.promise.push_lead
        _check(limit is None or lead <= limit, f"worker {record.worker} pushed at lead {lead}")
        _check(record.version == self.version, "the record names another version than the server's")
        _check((record.held == 0) == any(r.worker == record.worker for r in outcome.released), "held, or not held")

    def _saw_release(self, release: Release, outcome: Outcome) -> None:
        worker = release.worker
        _check(worker in self.held_since, f"worker {worker} was released, but was not held")
        _check(release.held == outcome.at - self.held_since.pop(worker), f"worker {worker} was held for another time")
        _check(release.after == (worker, self.clock[worker]), f"worker {worker} was released after another push")
        _check((release.after in self.waiting) == (release.after in outcome.keep), f"copy {release.after}, or do not")
        self.pulled[worker] = self.version

    def _check_promises(self) -> None:
        for worker in self.held_since:
            lead = self.clock[worker] - self.slowest
            _check(lead or not self.promise.slowest_goes, f"worker {worker} is the slowest and held")
            free = self.promise.free_lead
            _check(free is None or lead > free, f"worker {worker} is held at lead {lead}")
        lost = self.waiting and not self.clock and self.promise.nothing_waits_for_the_dead
        _check(not lost, f"everyone has left, and these gradients were never applied: {list(self.waiting)}")


def _check(kept: object, complaint: str) -> None:
    if not kept:
        raise PromiseError(complaint)


# --- the little language ---------------------------------------------------------------------------------------------


@dataclass
class Story:
    """A script that was played: who has which id, and one outcome per line."""

    coordinator: Coordinator
    ids: dict[str, WorkerId]
    outcomes: list[Outcome] = field(default_factory=list)

    def gradients(self, line: int) -> list[tuple[str, int]]:
        """Whose gradients a line's updates applied, with each one's clock."""
        names = {worker: name for name, worker in self.ids.items()}
        return [(names[a.message.worker], a.message.clock) for u in self.outcomes[line].updates for a in u.gradients]


def play(paradigm: Paradigm, script: str, promise: Promise | None = None) -> Story:
    """Play a script, and check at each line who is released and everything that the paradigm promises."""
    lines = [line for line in (raw.partition("#")[0].strip() for raw in script.splitlines()) if line]
    ids: dict[str, WorkerId] = {}
    if lines[0].startswith("workers "):
        ids = {name: n for n, name in enumerate(lines.pop(0).split()[1:])}
    late = _number_workers(lines, ids)
    coordinator = Coordinator(paradigm, [worker for name, worker in ids.items() if name not in late])
    referee = Referee(promise or promise_of(paradigm), coordinator.start())
    story = Story(coordinator, ids)
    for line in lines:
        event, expected = _read(line, ids)
        outcome = coordinator.handle(event)
        referee.saw(event, outcome)
        released = [release.worker for release in outcome.released]
        assert released == expected, f"{line!r} released {[name for name in ids if ids[name] in released]}"
        story.outcomes.append(outcome)
    return story


def _number_workers(lines: Iterable[str], ids: dict[str, WorkerId]) -> set[str]:
    late = set()
    for line in lines:
        names, _, released = line.partition("->")
        _, who, *verb = names.split()
        if verb == ["joins"] and who not in ids:
            late.add(who)
        for name in (who, *released.split()):
            ids.setdefault(name, len(ids))
    return late


def _read(line: str, ids: dict[str, WorkerId]) -> tuple[Event, list[WorkerId]]:
    happens, arrow, released = line.partition("->")
    assert arrow, f"no arrow in {line!r}"
    time, who, *verb = happens.split()
    kinds: dict[tuple[str, ...], Callable[[WorkerId, Nanoseconds], Event]] = {
        (): Push,
        ("leaves",): Left,
        ("joins",): Joined,
    }
    return kinds[tuple(verb)](ids[who], seconds(time)), [ids[name] for name in released.split()]


# --- virtual time ----------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A run in virtual time: what happened, and what the coordinator answered."""

    coordinator: Coordinator
    start: Outcome
    events: list[Event]
    outcomes: list[Outcome]

    @property
    def releases(self) -> list[tuple[Nanoseconds, WorkerId]]:
        """Who went on when, in order."""
        return [(outcome.at, release.worker) for outcome in self.outcomes for release in outcome.released]

    @property
    def leads(self) -> list[int]:
        """The lead at each push."""
        return [outcome.push.lead for outcome in self.outcomes if outcome.push]


def drive(
    paradigm: Paradigm,
    compute: Sequence[Callable[[int], Nanoseconds] | Nanoseconds],
    *,
    iterations: int | None = None,
    pushes: int | None = None,
    leave_at: dict[WorkerId, Nanoseconds] | None = None,
    promise: Promise | None = None,
    watched: bool = True,
) -> Run:
    """Run workers in virtual time, without communication; `compute` says how long each one's n-th iteration takes.

    A worker leaves when it was released after its last iteration, and at its time in `leave_at`, whatever it does then.
    Of events at the same time, the one that was scheduled first comes first. A run not `watched` has no referee.
    """
    coordinator = Coordinator(paradigm, range(len(compute)))
    run = Run(coordinator, coordinator.start(), [], [])
    referee = Referee(promise or promise_of(paradigm), run.start)
    order = count()
    agenda: list[tuple[Nanoseconds, int, Event]] = []
    done = [0] * len(compute)

    def begin(worker: WorkerId, now: Nanoseconds) -> None:
        takes = compute[worker]
        takes = takes if isinstance(takes, int) else takes(done[worker])
        event: Event = Push(worker, now + takes, takes)
        if iterations is not None and done[worker] == iterations:
            event = Left(worker, now)
        heappush(agenda, (event.at, next(order), event))

    for worker, at in (leave_at or {}).items():
        heappush(agenda, (at, next(order), Left(worker, at)))
    for release in run.start.released:
        begin(release.worker, 0)
    while agenda and (pushes is None or coordinator.pushes < pushes):
        now, _, event = heappop(agenda)
        assert isinstance(event, Push | Left)
        if event.worker not in coordinator.view.clocks:
            continue  # it left earlier than planned
        if isinstance(event, Push):
            done[event.worker] += 1
        outcome = coordinator.handle(event)
        if watched:
            referee.saw(event, outcome)
        run.events.append(event)
        run.outcomes.append(outcome)
        for release in outcome.released:
            begin(release.worker, now)
    return run
