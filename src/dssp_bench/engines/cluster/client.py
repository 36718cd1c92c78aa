"""A worker that was started somewhere else: it connects to the run's gateway, takes a place and computes.

It comes back by itself: into its session if only the connection broke, and as a new worker if it was given up.
"""

import logging
import secrets
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dssp_bench.core.errors import DsspBenchError, WorkerFailed
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster.courier import COMPUTED, LONGEST_TEXT
from dssp_bench.engines.cluster.gateway import Hello
from dssp_bench.engines.cluster.wire import Head, Kind, Malformed, Sizes, Wire, at_most, exactly, raw
from dssp_bench.engines.delivery import Outbox
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.local import channel as local
from dssp_bench.engines.local.processes import WorkerFactory, WorkerJob, work

_HANDSHAKE_S = 10.0
_CONNECT_S = 3.0
_WELCOME_S = 20.0  # a gateway may wait for half as long until the server has a place
_AGAIN_S = 0.2
_SERVER_KNOWS_WITHIN_S = 20.0  # of who was lost, or who comes, and its shards too
_LONGEST_WELCOME = 1 << 20
_LONGEST_RUN_S = 1e9
_GREETING: Sizes = {Kind.WELCOME: at_most(_LONGEST_WELCOME), Kind.REFUSED: at_most(4096)}
_log = logging.getLogger(__name__)


@dataclass
class Assignment:
    """What a worker makes of its welcome: how to compute, and where."""

    factory: WorkerFactory
    layout: ClusterLayout
    device: str
    threads: int


class Unreachable(WorkerFailed):
    """There is no connection to the run, and there will be none."""


class Refused(Unreachable):
    """The run has no use for this worker."""


def join(
    address: tuple[str, int],
    key: bytes,
    place: WorkerId | None,
    assign: Callable[[Mapping[str, Any]], Assignment],
    patience_s: float,
) -> None:
    """Work for the run at this address until it is over. Raises DsspBenchError.

    A server that cannot be reached is asked again for `patience_s`, at the beginning and after a connection broke.
    """
    link = _Link(address, key, patience_s)
    link.come(Hello(session=_new_session(), place=place))
    while True:
        number, own_place = link.welcome["worker"], link.welcome["place"]
        _log.info("working for the run at %s:%d as worker %d, in place %d", *address, number, own_place)
        if _work_until_let_go(link, assign):
            _log.info("the run is over")
            return
        _log.warning("worker %d was given up; coming back as a new one", number)
        insist_s = _SERVER_KNOWS_WITHIN_S if link.welcome["shards"] else 0.0  # if it was a shard that gave it up
        try:
            link.come(Hello(session=_new_session(), place=own_place), insist_s)
        except Refused as error:
            raise Refused(f"worker {number} was given up, and {error}") from error


def _work_until_let_go(link: "_Link", assign: Callable[[Mapping[str, Any]], Assignment]) -> bool:
    """Whether the run is over; else this worker was given up. What goes wrong here the server hears too."""
    welcome = link.welcome
    shards = [link.to(host, port) for host, port in welcome["shards"]]
    try:
        assignment = assign(welcome)
        for shard in shards:  # who may hear a little later than we that we are to come
            shard.come(Hello(session=_new_session(), place=welcome["worker"]), insist_s=_SERVER_KNOWS_WITHIN_S)
        channel = RemoteChannel([link, *shards])
        work(
            WorkerJob(
                welcome["worker"], welcome["place"], channel, assignment.device, channel, assignment.layout,
                assignment.factory, assignment.threads, welcome["iterations"],
            )
        )  # fmt: skip
        return channel.stopped
    except Unreachable:
        raise
    except DsspBenchError as error:
        link.tell(str(error))
        raise
    except Exception as error:
        failure = "".join(traceback.format_exception(error))
        link.tell(failure)
        raise WorkerFailed(failure) from error
    finally:
        for each in (link, *shards):
            each.close()


def _new_session() -> str:
    return secrets.token_hex(16)


class _Link:
    """The connection of the moment, and how to get another."""

    def __init__(self, address: tuple[str, int], key: bytes, patience_s: float) -> None:
        self._address = address
        self._key = key
        self._patience_s = patience_s
        self._wire: Wire | None = None
        self._known = False
        self._complained = False
        self.session = ""
        self.welcome: dict[str, Any] = {}

    @property
    def wire(self) -> Wire:
        """The connection. Raises ConnectionError if there is none."""
        if self._wire is None:
            raise ConnectionError("there is no connection")
        return self._wire

    def come(self, hello: Hello, insist_s: float = 0.0) -> None:
        """Connect, and say who we are. Raises Refused, and WorkerFailed if the server cannot be reached.

        Who is refused asks again for `insist_s`.
        """
        began = time.monotonic()
        deadline = began + self._patience_s
        while True:
            try:
                self._come(hello)
                self._known = True
                return
            except Refused:
                if time.monotonic() >= began + insist_s:
                    raise
            except OSError as error:
                if self._over(error):
                    raise Unreachable("the run is over, or its server has died: nobody listens there now") from error
                host, port = self._address
                why = f"cannot join the run at {host}:{port}: {error.strerror or error}"
                if time.monotonic() >= deadline:
                    raise Unreachable(why) from error
                self._complain(error, f"{why}; trying for {self._patience_s:g} s")
            time.sleep(_AGAIN_S)

    def _complain(self, error: OSError, why: str) -> None:
        """Say once what waiting will hardly change, such as another key; a server that is not there yet may come."""
        if not self._complained and isinstance(error, Malformed | socket.gaierror):
            self._complained = True
            _log.warning("%s", why)

    def _over(self, error: OSError) -> bool:
        """A server that we have met and that is gone does not come back at the same address with the same key."""
        return self._known and isinstance(error, ConnectionRefusedError)

    def _come(self, hello: Hello) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        wire = Wire(socket.create_connection(self._address, _CONNECT_S))
        try:
            wire.introduce(self._key, _HANDSHAKE_S)
            with wire.within(_WELCOME_S):
                wire.send(Kind.HELLO, body=[hello.model_dump_json().encode()])
                head = wire.receive(_GREETING)
                content = wire.receive_json(head)
        except BaseException:
            wire.close()
            raise
        if head.kind is Kind.REFUSED:
            wire.close()
            raise Refused(str(content))
        self._wire = wire
        self.session = hello.session
        self.welcome = content

    def to(self, host: str, port: int) -> "_Link":
        """A connection to another address, or to another port of the same machine, with the same key."""
        return _Link((host or self._address[0], port), self._key, self._patience_s)

    def tell(self, failure: str) -> None:
        """Let the server know why this worker ends, if it is there."""
        with suppress(OSError):
            self.wire.send(Kind.FAILED, body=[failure.encode(errors="replace")[-LONGEST_TEXT:]])

    def close(self) -> None:
        """Hang up."""
        if self._wire is not None:
            self._wire.close()


class RemoteChannel(local.Channel):
    """A worker's end of its conversation with the server, with the memory whose contents go along.

    On a go it holds the weights that were pulled, and a push takes the gradient with it. A connection that breaks is
    replaced while nobody notices, if the server still wants this worker. The first link is to the server, the others
    are to its shards, each of which has a part of the weights; the server hears of a push when they have theirs.
    """

    def __init__(self, links: Sequence[_Link]) -> None:
        parameters = [link.welcome["sizes"][0] for link in links]
        weights, gradient = torch.zeros(sum(parameters)), torch.zeros(sum(parameters))
        statistics = torch.zeros(links[0].welcome["sizes"][1])
        self._tensors = [weights, gradient, statistics]
        slots = [[part] for part in _split(gradient, parameters)]
        slots[0].append(statistics)
        lines = [_Line(*each) for each in zip(links, _split(weights, parameters), slots, strict=True)]
        self._server, *self._shards = lines
        self.stopped = False

    def views(self) -> list[Tensor]:
        """Weights [P], gradient [P] and statistics [S]."""
        return self._tensors

    def send(self, kind: local.Kind, number: int = 0, real: float = 0.0, body: bytes = b"") -> bool:
        """Send one message; False if the server does not want it any more."""
        wire_kind = {local.Kind.PUSH: Kind.PUSH, local.Kind.NOT_FINITE: Kind.NOT_FINITE}.get(kind, Kind.READY)
        computed = b"" if wire_kind is Kind.READY else COMPUTED.pack(number)
        for shard in self._shards:
            shard.send(wire_kind, real, computed)
        if not self._shards_agree(_Line.has_received):
            return False
        self._server.send(wire_kind, real, computed)
        return True

    def receive(self) -> local.Message | None:
        """Wait for the server's next word; None if it does not want this worker any more."""
        head = self._server.receive()
        if head is None:
            return None
        if head.kind is Kind.STOP:
            self.stopped = True
            return local.Message(local.Kind.STOP)
        if not self._shards_agree(_Line.receive):
            return None
        return local.Message(local.Kind.GO, time.monotonic_ns() - round(head.real * 1e9))

    def _shards_agree(self, want: Callable[["_Line"], object]) -> bool:
        """Whether all shards want this worker yet; those that do not were told so by the server, as we will be."""
        with suppress(Unreachable):
            if all(want(shard) for shard in self._shards):
                return True
        self.stopped = self._server.receive() is not None
        return False


def _split(tensor: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    return torch.split(tensor, list(sizes))


class _Line:
    """The conversation with the server or with one of its shards, about one part of the weights."""

    def __init__(self, link: _Link, weights: Tensor, slot: Sequence[Tensor]) -> None:
        self.link = link
        self._weights = raw([weights])
        self._slot = raw(slot)
        size = sum(part.nbytes for part in self._weights)
        self._allowed: Sizes = {Kind.GO: exactly(size), Kind.STOP: exactly(0), Kind.RECEIVED: exactly(0)}
        self._outbox = Outbox()
        self._latest: tuple[Kind, float, bytes] | None = None
        self._received = -1  # the latest message that is known to have arrived

    def send(self, kind: Kind, real: float, computed: bytes) -> None:
        """Send a new message, as well as the connection allows."""
        self._latest = kind, real, computed
        self._outbox.send()
        with suppress(OSError):  # whoever waits for the answer finds the last word, which may be stop, or comes back
            self._send_latest()

    def has_received(self) -> bool:
        """Wait until the latest message is complete at the other end; False if it is not wanted any more."""
        while self._received != self._outbox.unanswered:
            try:
                head = self.link.wire.receive(self._allowed)
                self.link.wire.skip(head.size)
                if head.kind is Kind.RECEIVED:
                    self._received = head.number
                elif head.kind is Kind.STOP:
                    return False
            except OSError:
                if not self._come_back():
                    return False
        return True

    def receive(self) -> Head | None:
        """Wait for a go, or for a stop; None if we are not wanted any more."""
        while True:
            try:
                head = self.link.wire.receive(self._allowed)
                if head.kind is Kind.STOP:
                    return head
                if head.kind is Kind.RECEIVED or head.number != self._outbox.unanswered:
                    self.link.wire.skip(head.size)  # it has come before, over a connection that broke
                    continue
                if not abs(head.real) <= _LONGEST_RUN_S:
                    raise Malformed(f"no run is {head.real} s old")
                self.link.wire.receive_into(self._weights)
                self._outbox.receive(head.number)
                return head
            except OSError:
                if not self._come_back():
                    return None

    def _send_latest(self) -> None:
        assert self._latest is not None
        assert self._outbox.unanswered is not None
        kind, real, computed = self._latest
        body: list[memoryview | bytes] = [computed] if computed else []
        if kind is Kind.PUSH:
            body += self._slot
        self.link.wire.send(kind, self._outbox.unanswered, real, body)

    def _come_back(self) -> bool:
        """Into the same session, where both sides know what the other has; False if it was given up."""
        while True:
            try:
                self.link.come(Hello(session=self.link.session, latest=self._outbox.latest))
                if self._outbox.latest > self.link.welcome["taken"]:
                    self._send_latest()
                else:
                    self._received = self.link.welcome["taken"]
                return True
            except Refused:
                return False
            except OSError:
                continue
