"""A courier: what a worker says reaches the server once and in order, and only when the server may read it."""

import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dssp_bench.engines.cluster import courier
from dssp_bench.engines.cluster.courier import COMPUTED, LONGEST_TEXT, Courier
from dssp_bench.engines.cluster.wire import Kind, Sizes, Wire, at_most, exactly
from dssp_bench.engines.local import channel as local
from tests.engines.cluster.parties import DEADLINE_S, HOST, PARAMETERS, STATISTICS, NothingLeft, Station, wait_for

SLOT = 4 * (PARAMETERS + STATISTICS)
FROM_SERVER: Sizes = {Kind.WELCOME: at_most(1000), Kind.GO: exactly(4 * PARAMETERS), Kind.STOP: exactly(0)}


class Stage:
    """A courier, its server in the hands of the test, and connections of its worker, in the hands of the test too."""

    def __init__(self, reconnect_s: float = DEADLINE_S) -> None:
        self.station = Station(worker=3, place=1, iterations=20)
        self.ended: list[Courier] = []
        self.courier = Courier(self.station.seat, {"config": "all"}, reconnect_s, self.ended.append)
        self.wires: list[Wire] = []

    def close(self) -> None:
        self.courier.give_up()
        self.courier.join(DEADLINE_S)
        assert self.ended == [self.courier], "it ends once"
        self.station.close()
        for wire in self.wires:
            wire.close()

    def connect(self, latest: int | None = None) -> Wire:
        """A new connection to the courier, before it has said anything."""
        worker, server = connected()
        self.wires.append(worker)
        assert self.courier.attach(server, latest)
        return worker

    def greeted(self, taken: int, latest: int | None = None) -> Wire:
        """A new connection on which it has said welcome."""
        worker = self.connect(latest)
        assert welcome(worker)["taken"] == taken
        return worker

    def computing(self) -> Wire:
        """A connection whose worker has been told to compute for the first time."""
        worker = self.greeted(taken=-1)
        worker.send(Kind.READY, 0, 2.5)
        self.station.expect(local.Kind.READY)
        self.station.release(0)
        assert answer(worker) == (0, 0.0)
        return worker


def connected() -> tuple[Wire, Wire]:
    with socket.create_server((HOST, 0)) as listener:
        worker = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    worker.settimeout(DEADLINE_S)
    return Wire(worker), Wire(server)


def welcome(worker: Wire) -> Any:
    head = worker.receive(FROM_SERVER)
    assert head.kind is Kind.WELCOME
    return worker.receive_json(head)


def answer(worker: Wire) -> tuple[int, float]:
    """The message that is answered, and the weights, which are all the same number."""
    head = worker.receive(FROM_SERVER)
    assert head.kind is Kind.GO
    (weight,) = set(struct.unpack(f"<{PARAMETERS}f", worker.receive_bytes(head)))
    return head.number, weight


def push(worker: Wire, number: int, value: float, computed: int = 5) -> None:
    worker.send(Kind.PUSH, number, 0.25, [COMPUTED.pack(computed), slot(value)])


def header(kind: Kind, number: int, real: float, size: int) -> bytes:
    return struct.pack("<8sB7xqdQ", b"dsspb\0\0\1", kind, number, real, size)


def say(worker: Wire, these: bytes) -> None:
    worker._socket.sendall(these)


def slot(value: float) -> bytes:
    return struct.pack("<f", value) * (PARAMETERS + STATISTICS)


def is_closed(worker: Wire) -> bool:
    """Whether the connection was ended at the other end, when nothing is left to be read."""
    try:
        worker.receive({})
    except ConnectionError as error:
        return type(error) is ConnectionResetError
    return False


@pytest.fixture
def stage() -> Iterator[Stage]:
    with NothingLeft():
        stage = Stage()
        yield stage
        stage.close()
        del stage


def test_a_worker_is_welcomed_with_all_that_it_needs_to_know(stage: Stage) -> None:
    assert welcome(stage.connect()) == {
        "config": "all", "worker": 3, "place": 1, "iterations": 20, "sizes": [PARAMETERS, STATISTICS], "taken": -1,
    }  # fmt: skip


def test_messages_go_back_and_forth(stage: Stage) -> None:
    worker = stage.greeted(taken=-1)
    worker.send(Kind.READY, 0, 2.5)
    assert stage.station.expect(local.Kind.READY) == local.Message(local.Kind.READY, 0, 2.5)
    for number in (1, 2):
        stage.station.release(number)
        assert answer(worker) == (number - 1, number)
        push(worker, number, 7.0 + number)
        assert stage.station.expect(local.Kind.PUSH) == local.Message(local.Kind.PUSH, 5, 0.25)
        assert stage.station.gradient.eq(7 + number).all()
        assert stage.station.statistics.eq(7 + number).all()
    stage.station.dismiss()
    assert worker.receive(FROM_SERVER).kind is Kind.STOP
    assert is_closed(worker)


def test_a_worker_hears_that_its_push_is_complete_before_it_is_answered(stage: Stage) -> None:
    worker = stage.computing()
    push(worker, 1, 1.0)
    stage.station.expect(local.Kind.PUSH)
    stage.station.confirm()
    head = worker.receive({Kind.RECEIVED: exactly(0)})
    assert head.number == 1
    stage.station.release(4.0)
    assert answer(worker) == (1, 4.0)


def test_a_gradient_that_must_not_be_applied_is_not_sent(stage: Stage) -> None:
    worker = stage.computing()
    stage.station.gradient.fill_(5.0)
    worker.send(Kind.NOT_FINITE, 1, math.nan, [COMPUTED.pack(9)])
    message = stage.station.expect(local.Kind.NOT_FINITE)
    assert message.number == 9
    assert math.isnan(message.real)
    assert stage.station.gradient.eq(5.0).all()


@pytest.mark.parametrize("text", [b"", b"why \xff", b"x" * LONGEST_TEXT], ids=["nothing", "no text", "much"])
def test_what_made_a_worker_fail_reaches_the_server_and_then_it_is_over(stage: Stage, text: bytes) -> None:
    worker = stage.computing()
    worker.send(Kind.FAILED, body=[text])
    assert stage.station.expect(local.Kind.FAILED).text() == text.decode(errors="replace")
    assert stage.station.hear() is None
    assert is_closed(worker)


# --- connections that break ---


def test_a_push_that_was_cut_is_not_announced_and_is_taken_when_it_comes_again(stage: Stage) -> None:
    worker = stage.computing()
    worker.send(Kind.PUSH, 1, 0.25, [COMPUTED.pack(5)])  # too short, as its header says: refused at once
    assert is_closed(worker)
    worker = stage.greeted(taken=0, latest=1)
    say(worker, header(Kind.PUSH, 1, 0.25, 8 + SLOT) + COMPUTED.pack(5) + slot(1.0)[:-1])
    worker.close()
    worker = stage.greeted(taken=0, latest=1)
    assert stage.station.hears_nothing()
    push(worker, 1, 2.0)
    stage.station.expect(local.Kind.PUSH)
    assert stage.station.gradient.eq(2.0).all()
    assert stage.station.hears_nothing()


def test_an_answer_that_was_lost_is_given_again(stage: Stage) -> None:
    worker = stage.computing()
    for _ in range(3):
        worker.close()
        worker = stage.greeted(taken=0, latest=0)
        assert answer(worker) == (0, 0.0)


def test_an_answer_that_was_decided_meanwhile_waits_for_the_worker(stage: Stage) -> None:
    worker = stage.computing()
    push(worker, 1, 1.0)
    stage.station.expect(local.Kind.PUSH)
    worker.close()
    worker = stage.greeted(taken=1, latest=1)
    worker.close()
    stage.station.release(8.0)
    worker = stage.greeted(taken=1, latest=1)
    assert answer(worker) == (1, 8.0)


def test_a_stop_that_was_said_meanwhile_waits_for_the_worker(stage: Stage) -> None:
    worker = stage.computing()
    push(worker, 1, 1.0)
    stage.station.expect(local.Kind.PUSH)
    worker.close()
    stage.greeted(taken=1, latest=1).close()
    wait_for(lambda: not stage.courier.is_connected, or_else="the courier does not notice that its worker has gone")
    stage.station.dismiss()
    time.sleep(2 * courier._LOOKS_EVERY_S)  # such as to find out, and to give the worker up
    assert stage.greeted(taken=1, latest=1).receive(FROM_SERVER).kind is Kind.STOP


def test_who_stays_away_is_not_waited_for_because_of_a_stop() -> None:
    with NothingLeft():
        stage = Stage(reconnect_s=0.5)
        stage.computing().close()
        wait_for(lambda: not stage.courier.is_connected, or_else="the courier does not notice that its worker has gone")
        stage.station.dismiss()
        wait_for(lambda: stage.ended, or_else="the courier waits for somebody who does not come")
        stage.close()


@pytest.mark.parametrize("moment", ["computing", "held", "in the middle of a push", "before it is ready"])
def test_a_new_connection_takes_over_from_one_that_nobody_noticed_is_broken(stage: Stage, moment: str) -> None:
    former = stage.greeted(taken=-1) if moment == "before it is ready" else stage.computing()
    if moment == "held":
        push(former, 1, 1.0)
        stage.station.expect(local.Kind.PUSH)
    if moment == "in the middle of a push":
        say(former, header(Kind.PUSH, 1, 0.25, 8 + SLOT) + bytes(99))
    taken = {"before it is ready": -1, "held": 1}.get(moment, 0)
    worker = stage.greeted(taken, latest=taken + 1)
    assert is_closed(former)
    if moment == "before it is ready":
        worker.send(Kind.READY)
        stage.station.expect(local.Kind.READY)
    elif moment != "held":
        push(worker, 1, 4.0)
        stage.station.expect(local.Kind.PUSH)
        assert stage.station.gradient.eq(4.0).all()
    stage.station.release(5.0)
    assert answer(worker) == (max(0, taken + (moment != "held")), 5.0)


def test_of_many_connections_at_once_the_latest_counts(stage: Stage) -> None:
    stage.computing()
    latest = [stage.connect(0) for _ in range(20)][-1]
    assert welcome(latest)["taken"] == 0
    assert answer(latest) == (0, 0.0)
    for former in stage.wires[:-1]:
        with pytest.raises(ConnectionError):
            former.skip(1 << 40)


def test_who_is_away_for_too_long_is_lost() -> None:
    with NothingLeft():
        stage = Stage(reconnect_s=0.02)
        stage.computing().close()
        assert stage.station.hear() is None
        stage.courier.join(DEADLINE_S)
        for wire in (ends := connected()):
            assert not stage.courier.attach(wire, None), "it has ended"
        for wire in ends:
            wire.close()
        stage.close()


def test_a_worker_that_has_not_come_yet_may_take_its_time() -> None:
    with NothingLeft():
        stage = Stage(reconnect_s=0.0)
        assert stage.station.hears_nothing()
        stage.computing()
        stage.close()


@pytest.mark.parametrize("moment", ["not here", "here", "away"])
def test_who_is_given_up_is_lost_at_once(stage: Stage, moment: str) -> None:
    if moment != "not here":
        worker = stage.computing()
        if moment == "away":
            worker.close()
    stage.courier.give_up()
    assert stage.station.hear() is None
    if moment == "here":
        assert is_closed(worker)


def test_when_the_server_hangs_up_the_worker_is_left_alone(stage: Stage) -> None:
    worker = stage.computing()
    stage.station.close()
    assert is_closed(worker)


def test_the_server_hears_that_a_worker_is_lost_after_all_others_that_want_to_know() -> None:
    station = Station()
    heard = threading.Event()

    def ended(_courier: Courier) -> None:
        assert station.hears_nothing(), "the server could have somebody started in its place by now"
        heard.set()

    courier = Courier(station.seat, {}, DEADLINE_S, ended)
    courier.give_up()
    assert station.hear() is None
    assert heard.is_set()
    courier.join(DEADLINE_S)
    station.close()


# --- what may not come ---


@pytest.mark.parametrize(
    ("kind", "number", "real", "size"),
    [
        (Kind.READY, 1, 1.0, 0), (Kind.READY, -1, 1.0, 0), (Kind.READY, 0, math.nan, 0), (Kind.READY, 0, math.inf, 0),
        (Kind.READY, 0, -1.0, 0), (Kind.READY, 0, 1e300, 0), (Kind.READY, 0, 1.0, 8), (Kind.PUSH, 0, 1.0, 8 + SLOT),
        (Kind.NOT_FINITE, 0, 1.0, 8), (Kind.PUSH, 1, 1.0, SLOT), (Kind.GO, 0, 1.0, 0), (Kind.HELLO, 0, 1.0, 2),
        (Kind.FAILED, 0, 0.0, LONGEST_TEXT + 1),
    ],
)  # fmt: skip
def test_before_it_is_ready_a_worker_says_that_it_is_and_nothing_else(
    stage: Stage, kind: Kind, number: int, real: float, size: int
) -> None:
    worker = stage.greeted(taken=-1)
    say(worker, header(kind, number, real, size))
    assert is_closed(worker)
    worker = stage.greeted(taken=-1)
    assert stage.station.hears_nothing()
    worker.send(Kind.READY, 0, 2.5)
    stage.station.expect(local.Kind.READY)


@pytest.mark.parametrize("number", [0, -1, -(2**63)])
def test_a_push_is_never_the_first_message(stage: Stage, number: int) -> None:
    worker = stage.computing()
    say(worker, header(Kind.PUSH, number, 0.25, 8 + SLOT))
    assert is_closed(worker)
    stage.greeted(taken=0)
    assert stage.station.hears_nothing()


def test_who_is_ready_is_so_once(stage: Stage) -> None:
    worker = stage.computing()
    worker.send(Kind.READY, 1, 1.0)
    assert is_closed(worker)
    worker = stage.greeted(taken=0)
    worker.send(Kind.READY, 0, 1.0)
    assert answer(worker) == (0, 0.0), "as a repeat, it gets the same answer"
    assert stage.station.hears_nothing()


def test_no_computation_takes_less_than_no_time(stage: Stage) -> None:
    worker = stage.computing()
    push(worker, 1, 1.0, computed=-1)
    assert is_closed(worker)
    worker = stage.greeted(taken=0)
    assert stage.station.hears_nothing()
    push(worker, 1, 2.0)
    assert stage.station.expect(local.Kind.PUSH).number == 5


@pytest.mark.parametrize("number", [2, 3, 2**63 - 1])
def test_a_worker_that_is_ahead_of_its_answers_is_given_up_and_touches_nothing(
    stage: Stage, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    worker = stage.computing()
    push(worker, 1, 1.0)
    stage.station.expect(local.Kind.PUSH)
    push(worker, number, 9.0)
    assert stage.station.hear() is None
    assert stage.station.gradient.eq(1.0).all()
    assert f"sent message {number}, but has no answer to message 1 yet; it is given up" in caplog.text


def test_a_push_that_comes_again_while_its_worker_is_held_touches_nothing(stage: Stage) -> None:
    worker = stage.computing()
    push(worker, 1, 1.0)
    stage.station.expect(local.Kind.PUSH)
    for _ in range(3):
        push(worker, 1, 9.0)
    worker.close()
    worker = stage.greeted(taken=1, latest=1)
    assert stage.station.gradient.eq(1.0).all()
    assert stage.station.hears_nothing()
    stage.station.release(4.0)
    assert answer(worker) == (1, 4.0)
