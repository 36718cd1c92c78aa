"""Real clients, real couriers, and a network that cuts: every push counts once, and every answer is its own."""

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

from dssp_bench.core.errors import WorkerFailed
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster import client as module
from dssp_bench.engines.cluster import gateway as gateway_module
from dssp_bench.engines.cluster.client import Refused, join
from dssp_bench.engines.cluster.wire import KEY_BYTES
from dssp_bench.engines.local import channel as local
from tests.engines.cluster.parties import DEADLINE_S, HOST, KEY, Client, Entrance, NothingLeft, Station, wait_for
from tests.engines.cluster.proxy import UNHARMED, End, Fate, Passed, Proxy, Way

HEADER = 40
HANDSHAKE: Mapping[Way, list[int]] = {"up": [32, 32], "down": [8, 32, 32]}
PUSHES = 3


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.002)
    monkeypatch.setattr(module, "_SERVER_KNOWS_WITHIN_S", 0.5)
    monkeypatch.setattr(gateway_module, "_RETURN_S", 0.01)
    monkeypatch.setattr(gateway_module, "_ASK_EVERY_S", 0.01)
    monkeypatch.setattr(gateway_module, "_FAREWELL_S", 0.05)


class Play:
    """A gateway for one worker behind a proxy, and a client that comes through it."""

    def __init__(
        self, *fates: Fate, reconnect_s: float = DEADLINE_S, shards: Sequence[int] = (), **client: Any
    ) -> None:
        self.returned: list[WorkerId] = []
        self.returns_as: list[Station] = []
        """Where it is met if it comes back as a new worker, which is expected only then."""
        self._held = ExitStack()
        self.gateway = Entrance(reconnect_s, self._on_return)
        self._held.callback(self.gateway.close)
        self.station = self.expect(0)
        self.gateway.open([("", port) for port in shards])
        self.proxy = self._held.enter_context(Proxy(self.gateway.port, fates))
        self.client = Client(self.proxy.port, **client)

    def __enter__(self) -> "Play":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def expect(self, worker: WorkerId) -> Station:
        station = Station(worker, place=0)
        self._held.callback(station.close)
        self.gateway.expect(station.seat)
        return station

    def takes_back(self, worker: WorkerId, iterations: int) -> Station:
        """Where the client is met when it comes back as this worker."""
        station = Station(worker, place=0, iterations=iterations)
        self._held.callback(station.close)
        self.returns_as.append(station)
        return station

    def _on_return(self, place: WorkerId) -> None:
        self.returned.append(place)
        if self.returns_as:
            self.gateway.expect(self.returns_as.pop(0).seat)


def passed_unharmed() -> Passed:
    """What passes if nothing happens."""
    with Play() as play:
        play.station.serve(PUSHES)
        assert play.client.ended() is None
    (passed,) = play.proxy.connections
    return passed


def boundaries(way: Way, passed: bytes) -> list[int]:
    """Where the parts of a conversation begin: of the handshake, and headers and bodies of frames."""
    places = [0]
    for size in HANDSHAKE[way]:
        places.append(places[-1] + size)
    while places[-1] < len(passed):
        (size,) = struct.unpack_from("<Q", passed, places[-1] + HEADER - 8)
        places.append(places[-1] + HEADER)
        if size:
            places.append(places[-1] + size)
    assert places[-1] == len(passed)
    return places


def interesting(way: Way, passed: bytes) -> Iterator[int]:
    """Places to cut: at every boundary, one byte beyond it, one byte before it, and in the middle."""
    places = boundaries(way, passed)
    for begin, end in itertools.pairwise(places):
        yield from sorted({begin, begin + 1, (begin + end) // 2, end - 1})


WAYS: list[Way] = ["up", "down"]
ENDS: list[End] = ["closed", "reset", "swallowed", "half open"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("way", WAYS)
def test_wherever_a_connection_is_cut_every_push_counts_once_and_every_answer_is_used_once(way: Way, end: End) -> None:
    unharmed = passed_unharmed()
    passed = bytes(unharmed.up if way == "up" else unharmed.down)
    stop = len(passed) - HEADER
    with NothingLeft():
        for after in interesting(way, passed):
            with Play(Fate(way, after, end)) as play:
                try:
                    play.station.serve(PUSHES)
                    error = play.client.ended()
                except BaseException as failure:
                    failure.add_note(
                        f"{end} after {after} bytes {way}, of which parts begin at {boundaries(way, passed)}"
                    )
                    raise
                assert play.client.seen == list(range(PUSHES))
                assert len(play.client.welcomes) == 1, "it came back into its session, if it had to"
                assert len(play.proxy.connections) > 1
                if way == "up" or after < stop + (end != "swallowed"):
                    assert error is None
                    assert play.returned == []
                else:  # who never hears that it may go asks once more, and is sent home then
                    assert isinstance(error, Refused)


def serve_with_shard(server: Station, shard: Station, pushes: int) -> None:
    """Be a server with a shard, which has received a push before the server hears of it."""
    shard.expect(local.Kind.READY)
    shard.confirm()
    server.expect(local.Kind.READY)
    for push in range(1, pushes + 1):
        server.release(push - 1)
        shard.release(push - 1)
        shard.take(push)
        assert server.hears_nothing()
        shard.confirm()
        server.take(push)
    server.dismiss()


class Sharded:
    """A play whose server has a shard, perhaps behind a proxy."""

    def __init__(self, *fates: Fate) -> None:
        self._held = ExitStack()
        self.entrance = Entrance()
        self._held.callback(self.entrance.close)
        self.shard = Station(parameters=50, statistics=0)
        self._held.callback(self.shard.close)
        self.entrance.expect(self.shard.seat)
        self.entrance.open()
        self.proxy = self._held.enter_context(Proxy(self.entrance.port, fates))
        self.play = self._held.enter_context(Play(shards=[self.proxy.port if fates else self.entrance.port]))
        self.server = self.play.station

    def __enter__(self) -> "Sharded":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def begin(self) -> None:
        """Until the worker computes for the first time."""
        self.shard.expect(local.Kind.READY)
        self.shard.confirm()
        self.server.expect(local.Kind.READY)
        self.server.release(0)
        self.shard.release(0)


def passed_by_shard(fate: Fate) -> Passed:
    """What passes between a worker and the server's shard, to whose first connection this happens."""
    with Sharded(fate) as sharded:
        serve_with_shard(sharded.server, sharded.shard, PUSHES)
        assert sharded.play.client.ended() is None
        assert sharded.play.client.seen == list(range(PUSHES))
        assert len(sharded.play.proxy.connections) == 1
        return sharded.proxy.connections[0]


@pytest.mark.parametrize("end", ["closed", "half open"])
@pytest.mark.parametrize("way", WAYS)
def test_wherever_a_connection_to_a_shard_is_cut_its_part_counts_once(way: Way, end: End) -> None:
    unharmed = passed_by_shard(UNHARMED)
    passed = bytes(unharmed.up if way == "up" else unharmed.down)
    for after in interesting(way, passed):
        passed_by_shard(Fate(way, after, end))


def no_word_yet(sharded: Sharded) -> None:
    sharded.shard.expect(local.Kind.READY)


def push_on_its_way(sharded: Sharded) -> None:
    sharded.begin()
    sharded.shard.take(1)


def half_of_an_answer(sharded: Sharded) -> None:
    push_on_its_way(sharded)
    sharded.shard.confirm()
    sharded.server.take(1)
    sharded.server.release(1)


@pytest.mark.parametrize("shard_ends", [True, False])
@pytest.mark.parametrize("until", [no_word_yet, push_on_its_way, half_of_an_answer])
def test_a_worker_that_a_shard_has_let_go_hears_from_the_server_that_the_run_is_over(
    until: Callable[[Sharded], None], shard_ends: bool
) -> None:
    with NothingLeft(), Sharded() as sharded:
        until(sharded)
        sharded.shard.close()
        if shard_ends:
            sharded.entrance.close()
        sharded.server.dismiss()
        assert sharded.play.client.ended() is None


@pytest.mark.parametrize("until", [no_word_yet, push_on_its_way, half_of_an_answer])
def test_a_worker_that_a_shard_has_let_go_hears_from_the_server_that_it_was_given_up(
    until: Callable[[Sharded], None],
) -> None:
    with NothingLeft(), Sharded() as sharded:
        until(sharded)
        sharded.shard.close()
        sharded.server.close()
        error = sharded.play.client.ended()
        assert isinstance(error, Refused)
        assert "worker 0 was given up" in str(error)


@pytest.mark.parametrize("seed", range(40))
def test_however_often_it_is_cut_every_push_counts_once(seed: int) -> None:
    random = Random(seed)
    fates = [Fate(random.choice(WAYS), random.randrange(4000), random.choice(ENDS)) for _ in range(6)]
    with Play(*fates) as play:
        play.station.serve(2 * PUSHES)
        play.client.ended()  # it may not have heard that it is over
        assert play.client.seen == list(range(2 * PUSHES)), fates


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("piece", "pause_s"), [(5, 0.0), (41, 0.0001)])
def test_messages_may_come_slowly_and_in_pieces(way: Way, piece: int, pause_s: float) -> None:
    with Play(Fate(way, piece=piece, pause_s=pause_s)) as play:
        play.station.serve(PUSHES)
        assert play.client.ended() is None
        assert len(play.proxy.connections) == 1


def test_a_connection_that_breaks_while_the_worker_computes_is_replaced() -> None:
    def cut_at_two(iteration: int) -> None:
        if iteration == 2:
            play.proxy.cut()

    with Play(before=cut_at_two) as play:
        play.station.serve(PUSHES)
        assert play.client.ended() is None
        assert len(play.proxy.connections) == 2


def test_a_connection_that_breaks_while_the_worker_is_held_is_replaced() -> None:
    with Play() as play:
        station = play.station
        station.expect(local.Kind.READY)
        station.release(0)
        station.take(1)
        play.proxy.cut()
        wait_for(lambda: len(play.proxy.connections) == 2, "it does not come back")
        station.release(1)
        station.take(2)
        station.dismiss()
        assert play.client.ended() is None
        assert play.client.seen == [0, 1]


def test_who_is_away_for_too_long_is_lost_and_comes_back_as_a_new_worker() -> None:
    with NothingLeft(), Play(reconnect_s=0.05) as play:
        play.station.expect(local.Kind.READY)
        play.station.release(0)
        play.station.take(1)
        play.proxy.blocked = True
        play.proxy.cut()
        assert play.station.hear() is None, "the server learns that it is lost"
        later = play.takes_back(worker=1, iterations=1)
        play.proxy.blocked = False
        later.serve(2, first=2)
        assert play.client.ended() is None
        assert play.returned == [0]
        assert [(welcome["worker"], welcome["iterations"]) for welcome in play.client.welcomes] == [(0, 0), (1, 1)]
        assert play.client.seen == [0, 1, 2]


def test_a_worker_that_was_given_up_while_it_computed_pushes_nothing_and_comes_back_as_a_new_one() -> None:
    once = iter([None])

    def given_up_at_two(iteration: int) -> None:
        if iteration == 2:
            for _ in once:
                play.gateway.give_up(0)

    with Play(before=given_up_at_two) as play:
        later = play.takes_back(worker=1, iterations=0)
        play.station.expect(local.Kind.READY)
        play.station.release(0)
        play.station.take(1)
        play.station.release(1)
        assert play.station.hear() is None
        later.serve(PUSHES)
        assert play.client.ended() is None
        assert play.client.seen == [0, 1, *range(PUSHES)]


def test_a_worker_for_whom_there_is_no_use_any_more_says_so() -> None:
    with Play() as play:
        play.station.expect(local.Kind.READY)
        play.gateway.give_up(0)
        assert isinstance(error := play.client.ended(), Refused)
        assert str(error) == "worker 0 was given up, and place 0 is taken"
        assert set(play.returned) == {0}


# --- the beginning and the end ---


def test_a_worker_waits_for_a_server_that_is_not_there_yet() -> None:
    with Proxy(1) as nobody:
        client = Client(nobody.port)
        gateway = Entrance()
        station = Station()
        gateway.expect(station.seat)
        gateway.open()
        nobody._target = gateway.port
        station.serve(1)
        assert client.ended() is None
        gateway.close()
        station.close()


def test_without_patience_it_is_asked_once() -> None:
    with Play(patience_s=0.0) as play:
        play.station.serve(1)
        assert play.client.ended() is None


def test_a_server_that_cannot_be_reached_is_named() -> None:
    with Proxy(1) as nobody, pytest.raises(WorkerFailed, match=f"cannot join the run at {HOST}:{nobody.port}: "):
        join((HOST, nobody.port), KEY, None, never, patience_s=0.01)


def test_what_waiting_will_hardly_change_is_said_at_once_and_once(caplog: pytest.LogCaptureFixture) -> None:
    with Play() as play, pytest.raises(WorkerFailed, match="another key"):
        join((HOST, play.gateway.port), bytes(KEY_BYTES), None, never, patience_s=0.3)
    with pytest.raises(WorkerFailed):
        join(("nowhere.invalid", 1), KEY, None, never, patience_s=0.3)
    said = [record.getMessage() for record in caplog.records if "trying for 0.3 s" in record.getMessage()]
    assert len(said) == 2
    assert "does it have another key?" in said[0]
    assert "nowhere.invalid:1" in said[1]


def test_a_server_that_is_not_there_yet_is_no_reason_to_complain(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WorkerFailed):
        join((HOST, 1), KEY, None, never, patience_s=0.1)
    assert caplog.records == []


def test_a_worker_with_another_key_learns_what_may_be_wrong() -> None:
    with Play() as play, pytest.raises(WorkerFailed, match="another key"):
        join((HOST, play.gateway.port), bytes(KEY_BYTES), None, never, patience_s=0.01)


def test_what_a_server_once_said_lets_a_worker_trust_nobody() -> None:
    recorded = bytes(passed_unharmed().down)
    with socket.create_server((HOST, 0)) as listener:
        client = Client(listener.getsockname()[1], patience_s=0.0)
        end, _ = listener.accept()
        end.sendall(recorded)
        error = client.ended()
        end.close()
    assert "the server does not know the key" in str(error)
    assert client.welcomes == []


def test_when_the_server_is_gone_the_run_is_over() -> None:
    with ExitStack() as held:
        gateway = Entrance()
        station = Station()
        held.callback(station.close)
        gateway.expect(station.seat)
        gateway.open()
        client = Client(gateway.port)
        station.expect(local.Kind.READY)
        gateway.close()
        assert str(client.ended()) == "the run is over, or its server has died: nobody listens there now"


def test_why_a_worker_failed_reaches_the_server() -> None:
    def fails(_iteration: int) -> None:
        raise ArithmeticError("such as a bug")

    with Play(before=fails) as play:
        play.station.expect(local.Kind.READY)
        play.station.release(0)
        text = play.station.expect(local.Kind.FAILED).text()
        assert "Traceback" in text
        assert "ArithmeticError: such as a bug" in text
        assert "ArithmeticError: such as a bug" in str(play.client.ended())
        assert play.station.hear() is None


def test_a_worker_that_still_computes_when_the_run_ends_hears_that_it_is_over() -> None:
    over = threading.Event()
    with Play(before=lambda _iteration: over.wait(DEADLINE_S) and None) as play:
        play.station.expect(local.Kind.READY)
        play.station.release(0)
        wait_for(lambda: play.client.seen, "it does not begin")
        play.station.dismiss()
        play.gateway.close()
        over.set()
        assert play.client.ended() is None
        assert play.returned == []


def test_workers_at_the_same_time_do_not_hear_each_other() -> None:
    with NothingLeft(), ExitStack() as held:
        gateway = Entrance()
        held.callback(gateway.close)
        stations = [Station(worker) for worker in range(3)]
        for station in stations:
            held.callback(station.close)
            gateway.expect(station.seat)
        gateway.open()
        clients = [Client(gateway.port, place) for place in range(3)]
        servers = [threading.Thread(target=station.serve, args=(20,)) for station in stations]
        for server in servers:
            server.start()
        for server in servers:
            server.join()
        assert [client.ended() for client in clients] == [None] * 3
        assert [client.seen for client in clients] == [list(range(20))] * 3


def never(_welcome: Mapping[str, Any]) -> Any:
    raise AssertionError("it must not be welcome")
