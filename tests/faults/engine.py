"""An engine that carries messages badly, and lets workers crash, hang, slow down, leave and join, in virtual time."""

from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Any

from dssp_bench.core.messages import Event, Joined, Left, Nanoseconds, Push, Timer, WorkerId
from dssp_bench.core.server import Slot
from dssp_bench.core.update import Weighted
from dssp_bench.engines.delivery import Inbox, Outbox, Ruling
from dssp_bench.engines.engine import Engine
from tests.faults.planted import Bug, plant
from tests.faults.schedule import LATEST, MOST_PATIENCE, PATIENCE, SLOWED, Schedule, below
from tests.scenario import PromiseError

Act = Callable[..., Event | None]
"""Something that happens; some of it is an event for the server."""

# --- gradients that can be told apart ---------------------------------------------------------------------------------

Content = tuple[WorkerId, int]
"""Which gradient it is: whose, and the number of the message that brought it."""


class Gradient:
    """Stands for a flat gradient; one without content is being written, and nobody may read it."""

    device = None

    def __init__(self, content: Content | None = None) -> None:
        self.content = content

    def clone(self) -> "Gradient":
        return Gradient(self.content)


class NotedUpdates:
    """An update rule that writes down which gradients it was given, and counts."""

    def __init__(self) -> None:
        self.version = 0
        self.applied: set[Content] = set()
        self.latest: list[list[Content]] = []

    def apply(self, gradients: Sequence[Weighted], learning_rate: float) -> None:
        self.version += 1
        self.latest.append([self._whole(gradient) for gradient, _ in gradients])

    def _whole(self, gradient: Any) -> Content:
        content: Content | None = gradient.content
        if content is None:
            raise PromiseError("a gradient was applied while its worker might write it")
        if content in self.applied:
            raise PromiseError(f"the gradient {content} was applied twice")
        self.applied.add(content)
        return content

    def state(self) -> list[Any]:
        return []


# --- the engine -------------------------------------------------------------------------------------------------------


class SimulatedWorker:
    """One worker: it says its first word, and then computes and pushes whenever an answer lets it."""

    def __init__(self, number: WorkerId, outbox: Outbox) -> None:
        self.number = number
        self.outbox = outbox
        self.state = "absent"  # awake, hung, dead, home
        self.missed: list[tuple[Any, ...]] = []  # while it hung: what it would have done, with whom and what
        self.version = 0  # what it computes on
        self.finite = True
        self.slowed_until = 0


class FaultyEngine(Engine):
    """Carries messages badly, and does to workers what the schedule says; the rules of delivery make up for it."""

    def __init__(self, schedule: Schedule, random: Random, bug: Bug | None, story: list[str] | None) -> None:
        self._schedule = schedule
        self._random = random
        self._story = story
        self._agenda: list[tuple[Nanoseconds, int, Act, tuple[Any, ...]]] = []
        self._caused = 0
        self._workers = [SimulatedWorker(n, plant(bug, Outbox())) for n in range(len(schedule.pace))]
        self._inbox: Inbox[int] = plant(bug, Inbox(range(schedule.workers)))
        self._unreliable = schedule.lost + schedule.repeated + schedule.late > 0
        self._deadline = schedule.deadline
        self._over = False
        self.now = 0
        self.weights = NotedUpdates()
        self.slots: dict[WorkerId, Slot] = {n: _slot() for n in range(len(schedule.pace))}
        self.push: Push = Push(-1, 0)  # the latest
        self.computed_on = 0
        self.taken: set[Content] = set()  # those that were finite
        self.finished: set[WorkerId] = set()
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Everyone says its first word, and the calendar is filled."""
        for worker in self._workers[: self._schedule.workers]:
            self._after(below(self._random, 20), self._appears, worker)
        acts: dict[str, Act] = {
            "joins": self._appears, "crashes": self._crashes, "hangs": self._hangs,
            "slows down": self._slows_down, "leaves": self._leaves, "is given up": self._is_given_up,
        }  # fmt: skip
        for at, kind, worker_id, lasts in self._schedule.incidents:
            self._after(at, acts[kind], self._workers[worker_id], *([lasts] if kind in LASTING else []))

    def next_event(self, until: Nanoseconds | None) -> Event | None:
        """Let things happen until one of them concerns the server."""
        while self._agenda:
            at, _, act, args = heappop(self._agenda)
            self.now = at
            if at > self._deadline:
                raise PromiseError(f"after {at:,} ticks there is no end yet; waiting: {self._waiting()}")
            event = act(*args)
            if self._story is not None:
                self._tell(act, args, event)
            if event is not None:
                return event
        return None

    def deliver(self, released: Sequence[WorkerId], updates: int, timers: Sequence[Timer]) -> None:
        """Answer those who may go on; from here on they may write into their slots."""
        for worker_id in released:
            version = self.weights.version
            number = self._inbox.answer(worker_id, version)
            self.slots[worker_id] = _slot()
            self._send(self._hears, self._workers[worker_id], number, version)

    def dismiss(self, worker: WorkerId) -> None:
        """It has done its share."""
        self.finished.add(worker)
        self._inbox.forget(worker)
        self._send(self._goes_home, self._workers[worker])

    def close(self) -> None:
        """Nothing to give back."""

    def send_everybody_home(self) -> None:
        """The run is over: whoever says another word is refused, and then nobody must be left waiting."""
        self._over = True
        self._deadline += self._schedule.deadline
        self.next_event(None)
        if left := [worker.number for worker in self._workers if worker.state not in ("dead", "home", "absent")]:
            raise PromiseError(f"the run is over, and these wait for ever: {left}")

    # --- the network ---

    def _after(self, ticks: Nanoseconds, act: Act, *args: Any) -> None:
        self._caused += 1
        heappush(self._agenda, (self.now + ticks, self._caused, act, args))

    def _send(self, act: Act, *args: Any) -> None:
        if self._unreliable and self.now < self._schedule.quiet:
            if self._random.random() < self._schedule.lost:
                self.counts["messages lost"] += 1
                return
            while self._random.random() < self._schedule.repeated:
                self.counts["messages repeated"] += 1
                self._after(self._transit(), act, *args)
            self._after(self._transit(), act, *args)
        else:
            self._after(1 + below(self._random, 9), act, *args)

    def _transit(self) -> Nanoseconds:
        if self._random.random() < self._schedule.late:
            self.counts["messages late"] += 1
            return below(self._random, LATEST)
        return 1 + below(self._random, 9)

    # --- what workers do ---

    def _appears(self, worker: SimulatedWorker) -> None:
        if worker.state == "absent":
            worker.state = "awake"
            self._speak(worker)

    def _speak(self, worker: SimulatedWorker) -> None:
        number = worker.outbox.send()
        self._send(self._arrives, worker.number, number, worker.version, worker.finite)
        self._after(PATIENCE, self._repeats, worker, number, PATIENCE)

    def _repeats(self, worker: SimulatedWorker, number: int, waited: Nanoseconds) -> None:
        if self._is_awake_for(self._repeats, worker, number, waited) and worker.outbox.unanswered == number:
            self.counts["pushes repeated"] += 1
            self._send(self._arrives, worker.number, number, worker.version, worker.finite)
            waited = min(2 * waited, MOST_PATIENCE)
            self._after(waited, self._repeats, worker, number, waited)

    def _hears(self, worker: SimulatedWorker, number: int, version: int) -> None:
        if self._is_awake_for(self._hears, worker, number, version) and worker.outbox.receive(number):
            worker.version = version
            self._after(self._iteration(worker), self._has_computed, worker)

    def _iteration(self, worker: SimulatedWorker) -> Nanoseconds:
        schedule = self._schedule
        takes = schedule.pace[worker.number] * (1 + schedule.spread * self._random.random())
        return int(takes * SLOWED) if self.now < worker.slowed_until else int(takes)

    def _has_computed(self, worker: SimulatedWorker) -> None:
        if self._is_awake_for(self._has_computed, worker):
            troubled = self._schedule.not_finite and self.now < self._schedule.quiet
            worker.finite = not (troubled and self._random.random() < self._schedule.not_finite)
            self._speak(worker)

    def _goes_home(self, worker: SimulatedWorker) -> None:
        if self._is_awake_for(self._goes_home, worker):
            worker.state = "home"

    def _is_awake_for(self, act: Act, worker: SimulatedWorker, *args: Any) -> bool:
        """Whether it can do this now; one that hangs does it when it wakes."""
        if worker.state == "hung":
            worker.missed.append((act, worker, *args))
        return worker.state == "awake"

    # --- what befalls workers ---

    def _crashes(self, worker: SimulatedWorker) -> None:
        if worker.state in ("awake", "hung"):
            self.counts[f"crashes {self._moment(worker)}"] += 1
            worker.state = "dead"
            seen_at_once = self._random.random() < 0.5
            self._after(below(self._random, 10 if seen_at_once else LATEST), self._is_given_up, worker)

    def _moment(self, worker: SimulatedWorker) -> str:
        number = worker.outbox.unanswered
        if worker.state == "hung":
            return "while it hangs"
        if number is None:
            return "while it computes"
        if self._inbox._taken.get(worker.number) != number:
            return "with a message under way"
        return "with an answer under way" if worker.number in self._inbox._answers else "while it is held"

    def _hangs(self, worker: SimulatedWorker, lasts: Nanoseconds) -> None:
        """It does nothing for some time; if that is longer than the lease, it is given up, and perhaps killed."""
        if worker.state == "awake":
            worker.state = "hung"
            self.counts["hangs"] += 1
            lease = LATEST + below(self._random, LATEST)
            if lasts > lease:
                self._after(lease, self._is_given_up, worker)
            ends = self._crashes if lasts > lease and self._random.random() < 0.5 else self._wakes
            self._after(lasts, ends, worker)

    def _wakes(self, worker: SimulatedWorker) -> None:
        if worker.state == "hung":
            worker.state = "awake"
            for act, *args in worker.missed:
                self._after(0, act, *args)
            worker.missed = []

    def _slows_down(self, worker: SimulatedWorker, lasts: Nanoseconds) -> None:
        self.counts["slows down"] += 1
        worker.slowed_until = min(self.now + lasts, self._schedule.quiet)

    # --- what the server decides ---

    def _leaves(self, worker: SimulatedWorker) -> Left | None:
        left = self._is_given_up(worker)
        if left is not None:
            self.counts["told to leave"] += 1
            self._send(self._goes_home, worker)
        return left

    def _is_given_up(self, worker: SimulatedWorker) -> Left | None:
        if self._over or worker.number in self.finished or not self._inbox.forget(worker.number):
            return None
        self.counts["given up"] += 1
        return Left(worker.number, self.now)

    def _arrives(self, worker_id: WorkerId, number: int, version: int, finite: bool) -> Event | None:
        worker = self._workers[worker_id]
        ruling = Ruling.REFUSE if self._over else self._inbox.receive(worker_id, number)
        if ruling is Ruling.REPEAT:
            self.counts["answers repeated"] += number > 0  # a first word at the start always crosses its answer
            self._send(self._hears, worker, number, self._inbox.answer_again(worker_id))
        elif ruling is Ruling.REFUSE:
            self.counts["messages refused"] += 1
            self._send(self._goes_home, worker)
        elif ruling is Ruling.TAKE and number == 0:
            self.counts["joins"] += 1
            return Joined(worker_id, self.now)
        elif ruling is Ruling.TAKE:
            content = (worker_id, number)
            self.slots[worker_id] = _slot(content)
            if finite:
                self.taken.add(content)
            self.computed_on = version
            self.push = Push(worker_id, self.now, 0, None, finite)
            return self.push
        return None

    # --- telling ---

    def _waiting(self) -> list[WorkerId]:
        return [worker.number for worker in self._workers if worker.outbox.unanswered is not None]

    def _tell(self, act: Act, args: tuple[Any, ...], event: Event | None) -> None:
        worker, *more = [arg.number if isinstance(arg, SimulatedWorker) else arg for arg in args]
        heard = f" -> {event}" if event else ""
        assert self._story is not None
        self._story.append(
            f"{self.now:>8} worker {worker} {act.__name__.strip('_').replace('_', ' ')} {tuple(more)}{heard}"
        )


LASTING = ("hangs", "slows down")


def _slot(content: Content | None = None) -> Slot:
    gradient: Any = Gradient(content)
    return Slot(gradient, gradient)
