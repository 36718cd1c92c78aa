"""Anything that can be sent to a shard's envoy, as by a shard, and to a client, as by a server."""

import gc
import math
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from random import Random
from typing import Any, NamedTuple

import torch

from dssp_bench.engines.cluster.client import Refused
from dssp_bench.engines.cluster.envoy import Envoy
from dssp_bench.engines.cluster.gateway import listener
from dssp_bench.engines.cluster.shard import ShardMemory
from dssp_bench.engines.cluster.wire import Kind, Sizes, Wire, at_most, exactly
from dssp_bench.engines.local import channel as local
from tests.engines.cluster.frames import HEADER, framed, may_come, worse
from tests.engines.cluster.parties import DEADLINE_S, HOST, KEY, Client, rest

_PART = 16
_SNAPSHOTS = 2
_LONGEST = 1 << 17
_WEIGHTS: Sizes = {Kind.WEIGHTS: exactly(4 * _PART)}
_FROM_SHARD: Sizes = {Kind.REPORT: at_most(_LONGEST)}


def _let_in(entrance: socket.socket) -> tuple[Wire, socket.socket]:
    """Who comes next, after the handshake, and the bare connection."""
    entrance.settimeout(DEADLINE_S)
    end, _ = entrance.accept()
    wire = Wire(end)
    wire.admit(KEY, DEADLINE_S)
    end.settimeout(DEADLINE_S)
    return wire, end


def _exactly(end: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = end.recv(size - len(content))
        assert part, "the client hung up"
        content += part
    return content


# --- to an envoy ---


class _Report(NamedTuple):
    """What the server must hear of a shard's report, and the tensor that must be there by then."""

    message: local.Message
    tensor: bytes | None


class _Shard:
    """A shard in the hands of the fuzzer, its envoy, and the server's end of the channel."""

    def __init__(self, random: Random, counts: Counter[str]) -> None:
        self._random = random
        self._counts = counts
        self._memory = ShardMemory(
            torch.zeros(_PART), [torch.zeros(_PART) for _ in range(_SNAPSHOTS)], torch.zeros(_PART)
        )
        self._channel, there = local.channel_pair()
        with closing(listener(HOST, 0)) as entrance, ThreadPoolExecutor(1) as doorman:
            let_in = doorman.submit(_let_in, entrance)
            self._envoy = Envoy(entrance.getsockname()[:2], KEY, there, self._memory, 1.0, {})
            wire, self._there = let_in.result(DEADLINE_S)
        wire.receive_json(wire.receive({Kind.SHARD: at_most(4096)}))
        _exactly(self._there, HEADER.size + 4 * _PART)
        self.over = False

    def turn(self) -> None:
        """One report, or what is none."""
        stream = self._report()
        if self._random.random() < 0.4:
            stream = worse(self._random, stream)
        with suppress(OSError):  # it may have hung up before all was sent
            self._there.sendall(stream)
        for report in self._reports(stream):
            if report is None:
                self._counts["refused by an envoy"] += 1
                with suppress(OSError):
                    self._there.shutdown(socket.SHUT_WR)  # it may have been waiting for more
                assert self._hear() is None, "the server heard what no shard may say"
                self.over = True
                return
            self._counts["passed on by an envoy"] += 1
            heard = self._hear()
            assert heard is not None, f"the shard was given up, and it had said {report.message}"
            assert heard == report.message, f"{report.message} was said, and {heard} heard"
            assert report.tensor in (None, self._tensor(heard)), "the tensor is torn"

    def close(self) -> None:
        """End it, whatever happened."""
        self._envoy.close()
        self._channel.close()
        self._there.close()

    def _hear(self) -> local.Message | None:
        assert self._channel.has_news(DEADLINE_S), "the server hears nothing"
        message = self._channel.receive()
        return message and message._replace(real=0.0)

    def _tensor(self, message: local.Message) -> bytes:
        tensor = self._memory.exchange
        if message.kind is local.Kind.SNAPSHOT:
            tensor = self._memory.snapshots[message.number]
        return tensor.numpy().tobytes()[: 4 * message.number if message.kind is local.Kind.DONE else None]

    def _report(self) -> bytes:
        kind = self._random.choice([local.Kind.READY, local.Kind.LOST, local.Kind.SNAPSHOT, local.Kind.DONE])
        limit = {local.Kind.SNAPSHOT: _SNAPSHOTS, local.Kind.DONE: _PART + 1}.get(kind, 100)
        number = self._random.randrange(limit)
        report = framed(Kind.REPORT, number, float(kind), self._random.randbytes(self._random.choice([0, 0, 30])))
        size = {local.Kind.SNAPSHOT: _PART, local.Kind.DONE: number}.get(kind)
        if size is None:
            return report
        values = [float(self._random.randrange(1000)) for _ in range(size)]
        return report + framed(Kind.WEIGHTS, body=struct.pack(f"<{size}f", *values))

    def _reports(self, stream: bytes) -> Iterator[_Report | None]:
        """What must follow; None is the end."""
        while stream:
            header, stream = stream[: HEADER.size], stream[HEADER.size :]
            if len(header) < HEADER.size or not may_come(header, _FROM_SHARD):
                yield None
                return
            _, _, number, real, size = HEADER.unpack(header)
            body, stream = stream[:size], stream[size:]
            kind = _local_kind(real)
            count = self._count(kind, number) if kind else None
            if kind is None or len(body) < size or count is None:
                yield None
                return
            tensor = None
            if count >= 0:
                header, stream = stream[: HEADER.size], stream[HEADER.size :]
                tensor, stream = stream[: 4 * count], stream[4 * count :]
                allowed = {Kind.WEIGHTS: exactly(4 * count)}
                if len(header) < HEADER.size or not may_come(header, allowed) or len(tensor) < 4 * count:
                    yield None
                    return
            yield _Report(local.Message(kind, number, 0.0, body), tensor)

    def _count(self, kind: local.Kind, number: int) -> int | None:
        """How many weights follow: -1 for no tensor at all, None if that cannot be."""
        if kind is local.Kind.SNAPSHOT:
            return _PART if 0 <= number < _SNAPSHOTS else None
        if kind is local.Kind.DONE:
            return number if 0 <= number <= _PART else None
        return -1


def _local_kind(real: float) -> local.Kind | None:
    with suppress(ValueError, OverflowError):
        return local.Kind(round(real))
    return None


def to_envoys(random: Random, counts: Counter[str], frames: int) -> None:
    """Send so many."""
    sent = 0
    while sent < frames:
        with closing(_Shard(random, counts)) as shard:
            while sent < frames and not shard.over:
                shard.turn()
                sent += 1


# --- to a client ---

_FROM_SERVER: Sizes = {Kind.GO: exactly(4 * _PART), Kind.STOP: exactly(0), Kind.RECEIVED: exactly(0)}
_PUSH = HEADER.size + 8 + 4 * _PART
_READY = HEADER.size


class _Server:
    """A server in the hands of the fuzzer, and a real client."""

    def __init__(self, random: Random, counts: Counter[str]) -> None:
        self._random = random
        self._counts = counts
        self._listener = listener(HOST, 0)
        self._client = Client(self._listener.getsockname()[1], patience_s=0.0)
        self._wire, self._there = self._come()
        self._welcome()
        self._latest = 0
        self._seen: list[float] = []
        _exactly(self._there, _READY)
        self.over = False

    def turn(self) -> None:
        """One word of a server, or what is none."""
        stream = self._word()
        if self._random.random() < 0.2:
            stream = worse(self._random, stream)
        with suppress(OSError):
            self._there.sendall(stream)
        for effect in self._effects(stream):
            self._counts[f"{effect} by a client"] += 1
            if effect == "computed":
                _exactly(self._there, _PUSH)
            elif effect == "stopped":
                self._end()
                assert self._client.ended() is None
            elif effect == "torn":  # as a client of the tests says; the wire cannot know
                rest(self._there)
                self._end()
                assert "the weights are torn" in str(self._client.ended())
                self._client.error = None
                gc.collect()  # what the traceback holds, such as a file of the system's
            elif effect == "refused":
                with suppress(OSError):
                    self._there.shutdown(socket.SHUT_WR)
                rest(self._there)
                self._end()
                self._refuse()
        assert self._client.seen == self._seen, f"it computed on {self._client.seen}, not {self._seen}"

    def close(self) -> None:
        """End it, whatever happened."""
        if not self.over:
            self._end()
            self._refuse()
        self._listener.close()
        self._client.join(DEADLINE_S)
        assert not self._client.is_alive(), "the client does not end"

    def _end(self) -> None:
        self.over = True
        self._wire.close()

    def _refuse(self) -> None:
        """It comes back twice, into its session and as a new worker, and is not wanted."""
        for _ in range(2):
            wire, end = self._come()
            with closing(wire):
                wire.send_json(Kind.REFUSED, "it was given up")
                rest(end)
        error = self._client.ended()
        assert isinstance(error, Refused), error

    def _come(self) -> tuple[Wire, socket.socket]:
        wire, end = _let_in(self._listener)
        wire.receive_json(wire.receive({Kind.HELLO: at_most(4096)}))
        return wire, end

    def _welcome(self) -> None:
        told: dict[str, Any] = {
            "worker": 0,
            "place": 0,
            "iterations": 0,
            "sizes": [_PART, 0],
            "taken": -1,
            "shards": [],
        }
        self._wire.send_json(Kind.WELCOME, told)

    def _word(self) -> bytes:
        kind = self._random.choice([Kind.GO] * 40 + [Kind.RECEIVED] * 6 + list(Kind))
        number = self._random.choice([self._latest] * 12 + [self._latest - 1, self._latest + 1, -1])
        weights = struct.pack(f"<{_PART}f", *[float(self._random.randrange(1000))] * _PART)
        return framed(kind, number, self._random.random(), weights if kind in (Kind.GO, Kind.WEIGHTS) else b"")

    def _effects(self, stream: bytes) -> Iterator[str]:
        while stream:
            header, stream = stream[: HEADER.size], stream[HEADER.size :]
            if len(header) < HEADER.size or not may_come(header, _FROM_SERVER):
                yield "refused"
                return
            _, code, number, real, size = HEADER.unpack(header)
            body, stream = stream[:size], stream[size:]
            if code == Kind.STOP:
                yield "stopped"
                return
            if code == Kind.RECEIVED or number != self._latest:
                if len(body) < size:
                    yield "refused"
                    return
                yield "skipped"
                continue
            if not abs(real) <= 1e9 or len(body) < size or math.isnan(real):
                yield "refused"
                return
            values = struct.unpack(f"<{_PART}f", body)
            if len(set(values)) > 1 or math.isnan(values[0]):
                yield "torn"
                return
            self._seen.append(values[0])
            self._latest += 1
            yield "computed"


def to_clients(random: Random, counts: Counter[str], frames: int) -> None:
    """Send so many."""
    sent = 0
    while sent < frames:
        with closing(_Server(random, counts)) as server:
            while sent < frames and not server.over:
                server.turn()
                sent += 1
