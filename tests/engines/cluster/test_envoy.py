"""A server shard on another machine: who is let in, what it does, and what the server hears of its end."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.engines.cluster import envoy as module
from dssp_bench.engines.cluster.envoy import Envoy, serve_shard
from dssp_bench.engines.cluster.gateway import listener
from dssp_bench.engines.cluster.shard import ShardMemory
from dssp_bench.engines.cluster.wire import Kind as WireKind
from dssp_bench.engines.cluster.wire import Wire
from dssp_bench.engines.local.channel import Channel, Kind, Message, channel_pair
from tests.engines.cluster.parties import DEADLINE_S, HOST, KEY, NothingLeft, rest

WEIGHTS = 48
OPTIMIZER: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False}


class Elsewhere:
    """A shard's other machine: a thread that serves at a port."""

    def __init__(self, within_s: float = DEADLINE_S) -> None:
        self.listener = listener(HOST, 0)
        self.address: tuple[str, int] = self.listener.getsockname()[:2]
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._serve, args=(within_s,), daemon=True)
        self._thread.start()

    def _serve(self, within_s: float) -> None:
        try:
            serve_shard(self.listener, KEY, within_s)
        except Exception as error:
            self.error = error

    def ended(self) -> Exception | None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the shard does not end"
        return self.error

    def knock(self) -> socket.socket:
        return socket.create_connection(self.address, DEADLINE_S)


class Server:
    """What the server has of a shard: a channel, and memory."""

    def __init__(self, elsewhere: Elsewhere, key: bytes = KEY) -> None:
        self.memory = ShardMemory(torch.arange(float(WEIGHTS)), [torch.zeros(WEIGHTS)], torch.zeros(WEIGHTS))
        self.channel, there = channel_pair()
        try:
            self._envoy = Envoy(elsewhere.address, key, there, self.memory, DEADLINE_S, OPTIMIZER)
        except DsspBenchError:
            there.close()
            self.channel.close()
            raise

    def hear(self) -> Message | None:
        assert self.channel.has_news(DEADLINE_S), "the server hears nothing"
        return self.channel.receive()

    def expect(self, kind: Kind) -> Message:
        message = self.hear()
        assert message is not None, f"the shard is lost, and not {kind.name}"
        assert message.kind is kind, message
        return message

    def close(self) -> None:
        self._envoy.close()
        self.channel.close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with NothingLeft():
        made = Elsewhere()
        yield made
        made.ended()
        made.listener.close()
        del made


def stop(server: Server) -> None:
    server.channel.send(Kind.STOP)
    assert server.hear() is None
    server.close()


def test_what_is_put_there_comes_back_from_there(elsewhere: Elsewhere) -> None:
    server = Server(elsewhere)
    server.expect(Kind.READY)
    server.channel.send(Kind.GET, body=b"weights")
    assert server.expect(Kind.DONE).number == WEIGHTS
    assert server.memory.exchange.equal(server.memory.initial)
    server.channel.send(Kind.SNAPSHOT, 0)
    server.expect(Kind.SNAPSHOT)
    assert server.memory.snapshots[0].equal(server.memory.initial)
    server.memory.exchange.fill_(5.0)
    server.channel.send(Kind.PUT, WEIGHTS, body=b"weights")
    server.expect(Kind.DONE)
    server.channel.send(Kind.RESTORE)
    server.memory.exchange.zero_()
    server.channel.send(Kind.GET, body=b"weights")
    server.expect(Kind.DONE)
    assert server.memory.exchange.eq(5.0).all()
    stop(server)
    assert elsewhere.ended() is None


def test_strangers_before_the_server_hold_nobody_up(elsewhere: Elsewhere) -> None:
    elsewhere.knock().close()
    silent = [elsewhere.knock() for _ in range(20)]
    with elsewhere.knock() as rude:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        rest(rude)
    wire = Wire(elsewhere.knock())
    with pytest.raises(OSError, match="another key"):
        wire.introduce(bytes(32), DEADLINE_S)
    wire.close()
    server = Server(elsewhere)
    server.expect(Kind.READY)
    stop(server)
    for end in silent:
        rest(end)  # which are hung up on after two seconds, whatever has become of the shard
        end.close()


def test_a_server_that_never_comes_is_not_waited_for_for_ever() -> None:
    elsewhere = Elsewhere(within_s=0.2)
    elsewhere.knock().close()
    assert isinstance(elsewhere.ended(), TimeoutError)
    elsewhere.listener.close()


def test_who_knows_the_key_and_says_nothing_sensible_ends_the_shard(elsewhere: Elsewhere) -> None:
    wire = Wire(elsewhere.knock())
    wire.introduce(KEY, DEADLINE_S)
    wire.send(WireKind.PUSH, body=[bytes(8)])
    assert "PUSH was not to come" in str(elsewhere.ended())
    wire.close()


def test_a_server_with_another_key_is_told_so(elsewhere: Elsewhere) -> None:
    with pytest.raises(DsspBenchError, match="no server shard at"):
        Server(elsewhere, bytes(32))
    server = Server(elsewhere)
    server.expect(Kind.READY)
    stop(server)


def test_the_server_hears_why_a_shard_fails(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(orders: Channel, *_: object) -> None:
        raise ValueError("the shard's own reason")

    monkeypatch.setattr(module, "hold_shard", fail)
    server = Server(elsewhere)
    assert "the shard's own reason" in server.expect(Kind.FAILED).text()
    assert server.hear() is None
    assert isinstance(elsewhere.ended(), ValueError)
    server.close()


def test_the_server_hears_that_the_connection_to_a_shard_broke(elsewhere: Elsewhere) -> None:
    server = Server(elsewhere)
    server.expect(Kind.READY)
    began = time.monotonic()
    server._envoy._wire.hang_up()
    assert server.hear() is None
    assert time.monotonic() < began + DEADLINE_S
    server.close()
