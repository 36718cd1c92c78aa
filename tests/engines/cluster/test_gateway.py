"""The port at which workers come in: who gets in, to which place, and what is left of those who do not."""

import json
import multiprocessing
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster import gateway as module
from dssp_bench.engines.cluster.gateway import listener
from dssp_bench.engines.cluster.wire import Kind, Sizes, Wire, at_most, exactly
from dssp_bench.engines.local import channel as local
from tests.engines.cluster.parties import (
    DEADLINE_S,
    HOST,
    KEY,
    PARAMETERS,
    Client,
    Entrance,
    NothingLeft,
    Station,
    rest,
    wait_for,
)

SESSION = "the first one's session"
OTHER = "the other one's session"
FROM_SERVER: Sizes = {
    Kind.WELCOME: at_most(1000), Kind.REFUSED: at_most(1000), Kind.GO: exactly(4 * PARAMETERS), Kind.STOP: exactly(0),
}  # fmt: skip


class House:
    """A gateway, its server in the hands of the test, and workers, in the hands of the test too."""

    def __init__(self, places: int = 2, reconnect_s: float = DEADLINE_S) -> None:
        self.returned: list[WorkerId] = []
        self.ended: list[tuple[WorkerId, WorkerId]] = []
        self.gateway = Entrance(reconnect_s, self._on_return, lambda *who: self.ended.append(who))
        self.stations: dict[WorkerId, Station] = {}
        self.takes_back = False
        """Whether a worker is expected where somebody comes back."""
        self._opened: list[Wire | socket.socket] = []
        for place in range(places):
            self.expect(place, place)
        self.gateway.open()

    def expect(self, worker: WorkerId, place: WorkerId) -> Station:
        station = self.stations[worker] = Station(worker, place)
        self.gateway.expect(station.seat)
        return station

    def close(self) -> None:
        for station in self.stations.values():
            station.close()
        self.gateway.close()
        for end in self._opened:
            end.close()

    def knock(self) -> socket.socket:
        """A connection that says nothing."""
        bare = socket.create_connection((HOST, self.gateway.port), DEADLINE_S)
        self._opened.append(bare)
        return bare

    def introduced(self, key: bytes = KEY) -> Wire:
        """A connection after the handshake."""
        wire = Wire(self.knock())
        self._opened.append(wire)
        wire.introduce(key, DEADLINE_S)
        return wire

    def come(self, **hello: Any) -> tuple[Wire, Any]:
        """A connection, and what its hello is answered: a welcome, or the text of a refusal."""
        wire = self.introduced()
        wire.send_json(Kind.HELLO, hello)
        return wire, answer(wire)

    def _on_return(self, place: WorkerId) -> None:
        self.returned.append(place)
        if self.takes_back:
            self.expect(len(self.stations), place)


def answer(wire: Wire) -> Any:
    with wire.within(DEADLINE_S):
        head = wire.receive(FROM_SERVER)
        content = wire.receive_json(head)
        assert isinstance(content, str if head.kind is Kind.REFUSED else dict)
        return content


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETURN_S", 0.1)
    monkeypatch.setattr(module, "_ASK_EVERY_S", 0.05)
    monkeypatch.setattr(module, "_FAREWELL_S", 0.05)


@pytest.fixture
def house() -> Iterator[House]:
    with NothingLeft():
        house = House()
        yield house
        house.close()
        del house


# --- places ---


def test_a_worker_gets_the_place_that_it_names(house: House) -> None:
    assert house.gateway.missing == [0, 1]
    _, told = house.come(session=SESSION, place=1)
    assert (told["worker"], told["place"], house.gateway.missing) == (1, 1, [0])


def test_a_worker_that_names_no_place_gets_one_that_is_free(house: House) -> None:
    house.come(session=SESSION, place=0)
    _, told = house.come(session=OTHER)
    assert told["place"] == 1
    assert house.gateway.missing == []


def test_a_place_is_given_once(house: House) -> None:
    house.come(session=SESSION, place=0)
    assert house.come(session=OTHER, place=0)[1] == "place 0 is taken"
    house.come(session=OTHER)
    assert house.come(session="somebody else's session")[1] == "all places are taken"
    assert house.returned == []


def test_a_place_that_there_is_not_is_refused_with_those_that_there_are(house: House) -> None:
    assert house.come(session=SESSION, place=7)[1] == "there is no place 7; there are 0, 1"


def test_who_is_expected_late_is_let_in_when_its_time_has_come(house: House) -> None:
    assert house.come(session=SESSION, place=5)[1] == "there is no place 5; there are 0, 1"
    house.expect(5, 5)
    assert house.come(session=SESSION, place=5)[1]["worker"] == 5


# --- sessions ---


def test_a_worker_that_never_heard_its_welcome_gets_the_same_place_when_it_asks_again(house: House) -> None:
    for _ in range(5):
        wire = house.introduced()
        wire.send_json(Kind.HELLO, {"session": SESSION})
        wire.close()
    assert house.come(session=SESSION)[1]["place"] == 0
    assert house.gateway.missing == [1]


def test_a_worker_whose_connection_broke_comes_back_into_its_session(house: House) -> None:
    wire, _ = house.come(session=SESSION)
    wire.send(Kind.READY, 0, 1.0)
    house.stations[0].expect(local.Kind.READY)
    wire.close()
    wire, told = house.come(session=SESSION, latest=0)
    assert (told["worker"], told["taken"]) == (0, 0)
    house.stations[0].release(3.0)
    assert wire.receive(FROM_SERVER).kind is Kind.GO


def test_a_worker_comes_back_although_nobody_noticed_that_its_connection_is_broken(house: House) -> None:
    former, _ = house.come(session=SESSION)
    assert house.come(session=SESSION, latest=0)[1]["worker"] == 0
    with pytest.raises(ConnectionError):
        former.receive(FROM_SERVER)


def test_a_session_that_was_given_up_is_refused_and_takes_no_place(house: House) -> None:
    house.come(session=SESSION)
    house.gateway.give_up(0)
    assert house.stations[0].hear() is None
    wait_for(lambda: house.ended == [(0, 0)], "nobody is told")
    assert house.come(session=SESSION, latest=4)[1] == "it was given up"
    assert house.come(session=OTHER, latest=0)[1] == "it was given up"
    assert house.come(session=SESSION, latest=-1)[1] == "it was given up", "it had a place, and had said nothing yet"
    assert house.gateway.missing == [1]
    assert house.returned == []


def test_who_has_not_come_yet_is_not_given_up(house: House) -> None:
    house.gateway.give_up(1)
    assert house.come(session=SESSION, place=1)[1]["worker"] == 1


def test_why_somebody_who_never_came_is_dead_the_server_hears_at_once(house: House) -> None:
    house.gateway.give_up(1, "there is no dssp_bench there")
    assert house.stations[1].expect(local.Kind.FAILED).text() == "there is no dssp_bench there"
    assert house.stations[1].hear() is None


def test_a_replacement_that_never_came_is_lost_like_any_other(house: House) -> None:
    house.come(session=SESSION, place=1)
    house.expect(2, 1)
    house.gateway.give_up(1, "its node died")
    assert house.stations[2].hear() is None


def test_who_comes_for_a_place_that_was_given_up_waits_until_the_server_has_decided(house: House) -> None:
    house.come(session=SESSION, place=1)
    house.gateway.give_up(1)
    assert house.stations[1].hear() is None
    wait_for(lambda: house.ended == [(1, 1)], "nobody is told")
    house.come(session=SESSION, place=0)
    house.takes_back = True
    assert house.come(session=OTHER)[1]["worker"] == 2
    assert house.returned == [1]


def test_a_server_that_has_no_use_for_it_is_asked_more_than_once_and_then_it_is_refused(house: House) -> None:
    house.come(session=SESSION, place=1)
    house.gateway.give_up(1)
    wait_for(lambda: house.ended == [(1, 1)], "nobody is told")
    assert house.come(session=OTHER, place=1)[1] == "place 1 is taken"
    assert house.returned == [1, 1]


def test_two_that_come_for_one_place_that_was_given_up_do_not_both_get_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETURN_S", DEADLINE_S)
    house.come(session=SESSION, place=0)
    house.come(session=SESSION + "'s other one", place=1)
    house.gateway.give_up(1)
    wait_for(lambda: house.ended == [(1, 1)], "nobody is told")
    wires = [house.introduced(), house.introduced()]
    for wire, session in zip(wires, (SESSION * 2, OTHER), strict=True):
        wire.send_json(Kind.HELLO, {"session": session, "place": 1})
    house.takes_back = True
    told = [answer(wire) for wire in wires]
    assert sorted(isinstance(words, str) for words in told) == [False, True]


def test_whoever_was_at_a_place_has_ended_when_somebody_else_is_expected_there(house: House) -> None:
    wire, _ = house.come(session=SESSION, place=0)
    wire.send(Kind.READY, 0, 1.0)
    house.expect(2, 0)
    assert house.ended == [(0, 0)], "its end would be taken for the end of the one that comes after it"
    assert house.come(session=OTHER, place=0)[1]["worker"] == 2


RECONNECT_S = 0.3


def _come_in_a_process(port: int) -> None:
    Client(port, place=0).ended()


@pytest.mark.processes
def test_the_server_hears_of_a_killed_worker_soon_after_it_could_have_come_back() -> None:
    house = House(reconnect_s=RECONNECT_S)
    process = multiprocessing.get_context("forkserver").Process(target=_come_in_a_process, args=(house.gateway.port,))
    process.start()
    try:
        house.stations[0].expect(local.Kind.READY)
        process.kill()
        process.join()
        began = time.monotonic()
        assert house.stations[0].hear() is None
        assert time.monotonic() - began < 20 * RECONNECT_S
    finally:
        process.kill()
        process.join()
        house.close()


# --- who is refused ---

WRONG_HELLOS = {
    "no session": {},
    "a short session": {"session": "short"},
    "a long session": {"session": "x" * 65},
    "a session that is no text": {"session": 5},
    "a place that is a text": {"session": SESSION, "place": "0"},
    "a place below 0": {"session": SESSION, "place": -1},
    "half a place": {"session": SESSION, "place": 0.5},
    "a place that is true": {"session": SESSION, "place": True},
    "no number of a message": {"session": SESSION, "latest": -2},
    "more than there is": {"session": SESSION, "name": "me"},
    "a list": [SESSION],
}


@pytest.mark.parametrize("hello", WRONG_HELLOS.values(), ids=WRONG_HELLOS.keys())
def test_a_hello_that_says_something_else_is_refused(house: House, hello: Any) -> None:
    wire = house.introduced()
    wire.send_json(Kind.HELLO, hello)
    with pytest.raises(ConnectionError):
        wire.receive(FROM_SERVER)
    assert house.gateway.missing == [0, 1]


def test_a_place_beyond_all_numbers_is_refused(house: House) -> None:
    assert "there is no place 1000" in house.come(session=SESSION, place=10**100)[1]


@pytest.mark.parametrize("body", [b"[" * 4096, b'{"session":' * 370, b"\xff" * 50, b"1" * 4096, b"x" * 4097])
def test_a_hello_that_is_no_json_or_too_long_is_refused(house: House, body: bytes) -> None:
    wire = house.introduced()
    wire.send(Kind.HELLO, body=[body])
    with pytest.raises(ConnectionError):
        wire.receive(FROM_SERVER)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.HELLO])
def test_the_first_word_is_hello(house: House, kind: Kind) -> None:
    wire = house.introduced()
    wire.send_json(kind, {"session": SESSION})
    with pytest.raises(ConnectionError):
        wire.receive(FROM_SERVER)


def test_who_does_not_know_the_key_is_refused(house: House) -> None:
    with pytest.raises(OSError, match="another key"):
        house.introduced(bytes(32))
    assert house.gateway.missing == [0, 1]


@pytest.mark.parametrize(
    "said", [b"", b"half", bytes(64), b"GET / HTTP/1.1\r\nHost: here\r\nAccept: */*\r\nUser-Agent: another\r\n\r\n"]
)
def test_who_says_something_else_is_told_nothing_and_refused(
    house: House, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HANDSHAKE_S", 0.02)
    bare = house.knock()
    bare.sendall(said)
    told = rest(bare)
    assert len(told) <= 40
    assert told.startswith(b"dsspb\0\0\1"[: len(told)])


def test_who_says_nothing_after_the_handshake_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELLO_S", 0.02)
    wire = house.introduced()
    with pytest.raises(ConnectionError):
        wire.receive(FROM_SERVER)


def test_what_was_recorded_lets_nobody_in(house: House) -> None:
    class Recorded(socket.socket):
        sent = b""

        def sendall(self, data: Any, flags: int = 0, /) -> None:
            self.sent += bytes(data)
            super().sendall(data, flags)

    with Recorded() as recorded:
        recorded.connect((HOST, house.gateway.port))
        wire = Wire(recorded)
        wire.introduce(KEY, DEADLINE_S)
        wire.send_json(Kind.HELLO, {"session": SESSION})
        assert answer(wire)["worker"] == 0
        wire.send(Kind.READY, 0, 1.0)
        house.stations[0].expect(local.Kind.READY)
        sent = recorded.sent
        wire.close()
    bare = house.knock()
    bare.sendall(sent)
    rest(bare)
    assert house.stations[0].hears_nothing()
    assert house.gateway.missing == [1]


def test_a_worker_gets_in_although_as_many_as_are_heard_at_a_time_say_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HANDSHAKE_S", 0.1)
    silent = [house.knock() for _ in range(module._MOST_GREETINGS)]
    assert house.come(session=SESSION)[1]["worker"] == 0
    assert [rest(bare)[:8] for bare in silent] == [b"dsspb\0\0\1"] * len(silent)


def test_nothing_is_left_of_thousands_that_were_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANDSHAKE_S", 0.5)
    bad_hello = json.dumps({"session": "short"}).encode()

    def goes_at_once() -> None:
        socket.create_connection((HOST, house.gateway.port)).close()

    def says(what: bytes) -> Callable[[], None]:
        def speak() -> None:
            with socket.create_connection((HOST, house.gateway.port), DEADLINE_S) as bare:
                bare.sendall(what)
                bare.shutdown(socket.SHUT_WR)
                rest(bare)

        return speak

    def says_a_wrong_hello() -> None:
        with socket.create_connection((HOST, house.gateway.port), DEADLINE_S) as bare:
            wire = Wire(bare)
            wire.introduce(KEY, DEADLINE_S)
            wire.send(Kind.HELLO, body=[bad_hello])
            rest(bare)

    ways = [goes_at_once, says(b"half an answer"), says(bytes(64)), says_a_wrong_hello]

    def knock_at_all_doors(times: int) -> tuple[int, int]:
        for _ in range(times):
            for way in ways:
                way()
        wait_for(lambda: threading.active_count() <= threads, "somebody is still being heard")
        return tracemalloc.get_traced_memory()[0], threading.active_count()

    threads = threading.active_count()
    tracemalloc.start()
    try:
        with NothingLeft():
            before, _ = knock_at_all_doors(100)
            after, _ = knock_at_all_doors(500)
    finally:
        tracemalloc.stop()
    assert after - before < 50_000, "less than 25 bytes for each of 2000 connections"
    assert house.come(session=SESSION)[1]["worker"] == 0


# --- the end ---


def test_a_port_in_use_is_named() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"engine.port: {port} cannot be listened at"):
            listener(HOST, port)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"engine.host: 192\.0\.2\.1 is not an address of this machine"):
        listener("192.0.2.1", 0)


def test_when_it_closes_everybody_is_woken_and_nobody_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETURN_S", 10 * DEADLINE_S)
    monkeypatch.setattr(module, "_ASK_EVERY_S", 10 * DEADLINE_S)
    with NothingLeft():
        house = House(places=3)
        computing, _ = house.come(session=SESSION, place=0)
        away, _ = house.come(session=OTHER, place=1)
        away.close()
        house.come(session="will be lost soon", place=2)
        house.gateway.give_up(2)
        wait_for(lambda: house.ended == [(2, 2)], "nobody is told")
        waiting = house.introduced()
        waiting.send_json(Kind.HELLO, {"session": "waits for a place", "place": 2})
        wait_for(lambda: house.returned == [2], "nobody is asked")
        silent, half_way = house.knock(), house.introduced()
        house.gateway.close()
        for wire in (computing, waiting, half_way):
            with pytest.raises(ConnectionError):
                wire.skip(1 << 40)
        rest(silent)
        with pytest.raises(ConnectionRefusedError):
            house.knock()
        assert [house.stations[worker].hear() for worker in (0, 1)] == [None, None]
        house.close()


def test_when_it_closes_nobody_waits_for_a_worker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FAREWELL_S", 10 * DEADLINE_S)
    with NothingLeft():
        house = House(places=1)
        house.come(session=SESSION)[0].close()
        (courier,) = house.gateway._couriers.values()
        wait_for(lambda: not courier.is_connected, "nobody notices")
        house.close()


def test_it_closes_also_while_it_hears_as_many_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_GREETINGS", 3)
    with NothingLeft():
        house = House()
        for _ in range(4):
            house.knock()
        house.close()


def test_who_knocks_before_it_opens_is_let_in_then() -> None:
    with NothingLeft():
        gateway = Entrance()
        station = Station()
        gateway.expect(station.seat)
        wire = Wire(socket.create_connection((HOST, gateway.port), DEADLINE_S))
        gateway.open()
        wire.introduce(KEY, DEADLINE_S)
        wire.send_json(Kind.HELLO, {"session": SESSION})
        assert answer(wire)["worker"] == 0
        station.close()
        gateway.close()
        wire.close()


def test_it_can_be_closed_before_it_opens() -> None:
    with NothingLeft():
        Entrance().close()
