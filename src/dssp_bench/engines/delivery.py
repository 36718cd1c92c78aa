"""Exactly once, over a transport that may lose, repeat, delay or reorder messages: the rules of both ends, pure.

A worker numbers its messages: 0 is its first word, then its pushes count from 1. It sends one at a time, and repeats it
until the answer with that number comes. The server takes every number once and in order, and keeps its latest answer to
each worker, so that a repeat is given the very same: other weights than those of the release would belie the staleness
that was noted. Whoever has left is refused for ever, since the number of a worker never comes back; so a worker that
did its share, and one that was given up too early, both learn at their next message that they may go.

When to repeat is the engine's business, and so is the transport. One that loses nothing, as sockets between the
processes of one machine, needs none of this.
"""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Generic, TypeVar

from dssp_bench.core.errors import ProtocolViolation
from dssp_bench.core.messages import WorkerId

Answer = TypeVar("Answer")


class Ruling(Enum):
    """What the server is to do with a message; only one that it takes may change anything, a worker's slot included."""

    TAKE = auto()  # it is new: the worker stands ready, or has pushed
    REPEAT = auto()  # it was answered, and the answer may be lost: send the same answer again
    IGNORE = auto()  # its worker is held and will be answered in time, or has spoken again since: say nothing
    REFUSE = auto()  # its worker takes no part, or no longer: say so


class Inbox(Generic[Answer]):
    """The server's end. Workers that are `present` take part from the start, others from their first word on."""

    def __init__(self, present: Iterable[WorkerId] = ()) -> None:
        self._taken = dict.fromkeys(present, 0)
        self._answers: dict[WorkerId, Answer] = {}
        self._departed: set[WorkerId] = set()

    def would_take(self, worker: WorkerId, number: int) -> bool:
        """Whether a message is new and due; asked before its contents are put where they belong, which changes that."""
        taken = self._taken.get(worker, -1)
        if worker in self._departed or number != taken + 1:
            return False
        return taken < 0 or worker in self._answers

    def receive(self, worker: WorkerId, number: int) -> Ruling:
        """Rule on one message. Raises ProtocolViolation, and changes nothing, for one that no worker may send yet."""
        taken = self._taken.get(worker, -1)
        answered = worker in self._answers
        if worker in self._departed or (taken < 0 and number > 0):
            return Ruling.REFUSE
        if number <= taken:
            return Ruling.REPEAT if number == taken and answered else Ruling.IGNORE
        if taken >= 0 and (number > taken + 1 or not answered):
            raise ProtocolViolation(f"worker {worker} sent message {number}, but has no answer to message {taken} yet")
        self._taken[worker] = number
        self._answers.pop(worker, None)
        return Ruling.TAKE

    def answer(self, worker: WorkerId, answer: Answer) -> int:
        """Keep the answer to a worker's latest message; returns the number of that message, for the answer to bear."""
        self._answers[worker] = answer
        return self._taken[worker]

    def answer_again(self, worker: WorkerId) -> Answer:
        """What a repeat of the worker's latest message is answered."""
        return self._answers[worker]

    def forget(self, worker: WorkerId) -> bool:
        """Refuse a worker from now on, since it left or died; False if it took no part."""
        self._departed.add(worker)
        self._answers.pop(worker, None)
        return self._taken.pop(worker, None) is not None


class Outbox:
    """A worker's end: one message at a time, to be repeated until it is answered."""

    def __init__(self) -> None:
        self._latest = -1
        self._answered = True

    @property
    def latest(self) -> int:
        """The number of the latest message, -1 if there is none yet."""
        return self._latest

    @property
    def unanswered(self) -> int | None:
        """The number of the message to repeat, if there is one."""
        return None if self._answered else self._latest

    def send(self) -> int:
        """The number of a new message. Raises ProtocolViolation while the one before has no answer."""
        if not self._answered:
            raise ProtocolViolation(f"message {self._latest} has no answer yet")
        self._latest += 1
        self._answered = False
        return self._latest

    def receive(self, number: int) -> bool:
        """Whether an answer with this number is the one waited for; any other came before, and is to be ignored."""
        if self._answered or number != self._latest:
            return False
        self._answered = True
        return True
