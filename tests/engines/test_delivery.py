"""Exactly once: a few stories, and then everything that a bad network can do to one worker."""

from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import pytest

from dssp_bench.core.errors import ProtocolViolation
from dssp_bench.engines.delivery import Inbox, Outbox, Ruling

TAKE, REPEAT, IGNORE, REFUSE = Ruling.TAKE, Ruling.REPEAT, Ruling.IGNORE, Ruling.REFUSE


def test_a_push_is_taken_once_and_its_repeats_get_the_same_answer() -> None:
    inbox: Inbox[str] = Inbox()
    assert inbox.receive(7, 0) is TAKE
    assert inbox.answer(7, "go on from version 3") == 0
    assert inbox.receive(7, 1) is TAKE
    assert inbox.answer(7, "go on from version 5") == 1
    assert [inbox.receive(7, 1), inbox.receive(7, 1)] == [REPEAT, REPEAT]
    assert inbox.answer_again(7) == "go on from version 5"


def test_a_repeat_hears_nothing_while_its_worker_is_held() -> None:
    inbox: Inbox[str] = Inbox([7])
    assert inbox.receive(7, 0) is IGNORE
    inbox.answer(7, "go")
    assert inbox.receive(7, 1) is TAKE
    assert inbox.receive(7, 1) is IGNORE


def test_a_straggler_of_an_earlier_push_hears_nothing() -> None:
    inbox: Inbox[str] = Inbox([7])
    for number in (1, 2):
        inbox.answer(7, "go")
        assert inbox.receive(7, number) is TAKE
    assert [inbox.receive(7, 0), inbox.receive(7, 1)] == [IGNORE, IGNORE]
    inbox.answer(7, "go")
    assert [inbox.receive(7, 0), inbox.receive(7, 1)] == [IGNORE, IGNORE]


def test_workers_that_are_present_need_no_first_word_and_others_join_by_it() -> None:
    inbox: Inbox[str] = Inbox([0])
    assert inbox.answer(0, "go") == 0
    assert inbox.receive(0, 0) is REPEAT
    assert inbox.receive(0, 1) is TAKE
    assert inbox.receive(1, 0) is TAKE
    assert inbox.receive(2, 5) is REFUSE  # it speaks of a run that this server knows nothing of


def test_whoever_left_is_refused_for_ever_and_others_are_not() -> None:
    inbox: Inbox[str] = Inbox([0, 1])
    inbox.answer(0, "go")
    inbox.answer(1, "go")
    assert inbox.forget(0)
    assert not inbox.forget(0)
    assert [inbox.receive(0, number) for number in (0, 1, 2)] == [REFUSE, REFUSE, REFUSE]
    assert inbox.receive(1, 1) is TAKE
    assert not inbox.forget(2)  # which never took part
    assert inbox.receive(2, 0) is REFUSE


@pytest.mark.parametrize("number", [1, 3])
def test_a_push_that_no_worker_could_have_made_is_a_violation_and_changes_nothing(number: int) -> None:
    inbox: Inbox[str] = Inbox([7])
    if number == 3:
        inbox.answer(7, "go")
    with pytest.raises(ProtocolViolation, match=f"worker 7 sent message {number}, but has no answer to message 0 yet"):
        inbox.receive(7, number)
    inbox.answer(7, "go")
    assert inbox.receive(7, 1) is TAKE


def test_a_worker_says_one_thing_at_a_time_and_hears_each_answer_once() -> None:
    outbox = Outbox()
    assert [outbox.unanswered, outbox.send(), outbox.unanswered] == [None, 0, 0]
    with pytest.raises(ProtocolViolation, match="message 0 has no answer yet"):
        outbox.send()
    assert [outbox.receive(0), outbox.receive(0)] == [True, False]
    assert outbox.send() == 1
    assert not outbox.receive(0)
    assert outbox.unanswered == 1


# --- everything that a network can do --------------------------------------------------------------------------------
# What was sent once may arrive at any later time, any number of times, or never: so the network is the set of all that
# was ever sent, and whatever is in it may arrive next.

PUSHES = 3


class World(NamedTuple):
    """One worker, the server, and the network. `answers` are numbers, each with what it says; `gone` is a refusal."""

    inbox: Inbox[int]
    outbox: Outbox
    computing: bool = True
    present: bool = True
    applied: tuple[int, ...] = ()
    started: tuple[int, ...] = ()  # the answers on which an iteration was started
    messages: frozenset[int] = frozenset()
    answers: frozenset[tuple[int, int]] = frozenset()
    gone: bool = False
    home: bool = False

    @property
    def key(self) -> object:
        parts = (self.inbox._taken, self.inbox._answers, self.outbox.__dict__)
        return (*[tuple(sorted(part.items())) for part in parts], self[2:])


def next_worlds(world: World) -> Iterator[World]:
    for happens in (speaks, decides, gives_up):
        yield from happens(deepcopy(world))
    for number in world.messages:
        yield arrives(deepcopy(world), number)
    for number, version in world.answers:
        yield hears(deepcopy(world), number, version)
    if world.gone:
        yield world._replace(home=True)


def speaks(world: World) -> Iterator[World]:
    if world.computing and not world.home and len(world.started) <= PUSHES:
        yield world._replace(computing=False, messages=world.messages | {world.outbox.send()})


def decides(world: World) -> Iterator[World]:
    """The server releases whom it held; each release has its own version."""
    if world.present and 0 in world.inbox._taken and 0 not in world.inbox._answers:
        version = 10 + len(world.applied)
        number = world.inbox.answer(0, version)
        yield world._replace(answers=world.answers | {(number, version)})


def gives_up(world: World) -> Iterator[World]:
    if world.present:
        world.inbox.forget(0)
        yield world._replace(present=False)


def arrives(world: World, number: int) -> World:
    ruling = world.inbox.receive(0, number)
    if ruling is TAKE and number:
        assert world.present
        return world._replace(applied=(*world.applied, number))
    if ruling is REPEAT:
        return world._replace(answers=world.answers | {(number, world.inbox.answer_again(0))})
    return world._replace(gone=world.gone or ruling is REFUSE)


def hears(world: World, number: int, version: int) -> World:
    if not world.home and world.outbox.receive(number):
        return world._replace(computing=True, started=(*world.started, version))
    return world


def test_whatever_the_network_does_pushes_count_once_and_in_order_and_the_end_can_be_reached() -> None:
    first = World(Inbox(), Outbox())
    worlds, queue, before = {first.key: first}, deque([first]), dict[object, set[object]]()
    while queue:
        world = queue.popleft()
        assert world.applied == tuple(range(1, len(world.applied) + 1))
        assert len(world.started) <= len(world.applied) + 1  # nobody computes on an answer to what was not taken
        assert len({number for number, _ in world.answers}) == len(world.answers)  # repeats of an answer say the same
        for after in next_worlds(world):
            before.setdefault(after.key, set()).add(world.key)
            if after.key not in worlds:
                worlds[after.key] = after
                queue.append(after)
    done = [key for key, world in worlds.items() if world.home or len(world.applied) == PUSHES]
    assert len(worlds) == 63  # written down so that a change of what is looked at cannot pass unseen
    assert reach(done, before) == worlds.keys()


def reach(ends: list[object], before: dict[object, set[object]]) -> set[object]:
    """Everything from which one of the ends can be reached."""
    reached, queue = set(ends), deque(ends)
    while queue:
        for key in before.get(queue.popleft(), ()):
            if key not in reached:
                reached.add(key)
                queue.append(key)
    return reached
