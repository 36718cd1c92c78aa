"""A worker that was started somewhere else: it connects to the run's gateway, takes a place and computes.

It comes back by itself: into its session if only the connection broke, and as a new worker if it was given up.
"""

import logging
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dssp_bench.core.errors import WorkerFailed
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster.courier import COMPUTED, LONGEST_TEXT
from dssp_bench.engines.cluster.gateway import Hello
from dssp_bench.engines.cluster.wire import Kind, Sizes, Wire, at_most, exactly, raw
from dssp_bench.engines.delivery import Outbox
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.local import channel as local
from dssp_bench.engines.local.processes import WorkerFactory, WorkerJob, work

_HANDSHAKE_S = 10.0
_CONNECT_S = 3.0
_AGAIN_S = 0.2
_LONGEST_WELCOME = 1 << 20
_GREETING: Sizes = {Kind.WELCOME: at_most(_LONGEST_WELCOME), Kind.REFUSED: at_most(4096)}
_log = logging.getLogger(__name__)


@dataclass
class Assignment:
    """What a worker makes of its welcome: how to compute, and where."""

    factory: WorkerFactory
    layout: ClusterLayout
    device: str
    threads: int


class Refused(WorkerFailed):
    """The run has no use for this worker."""


def join(
    address: tuple[str, int],
    key: bytes,
    place: WorkerId | None,
    assign: Callable[[Mapping[str, Any]], Assignment],
    patience_s: float,
) -> None:
    """Work for the run at this address until it is over. Raises WorkerFailed.

    A server that cannot be reached is asked again for `patience_s`, at the beginning and after a connection broke.
    """
    link = _Link(address, key, patience_s)
    link.come(Hello(place=place))
    while True:
        welcome = link.welcome
        assignment = assign(welcome)
        parameters, statistics = welcome["sizes"]
        channel = RemoteChannel(link, [torch.zeros(n) for n in (parameters, parameters, statistics)])
        job = WorkerJob(
            welcome["worker"], welcome["place"], channel, assignment.device, channel, assignment.layout,
            assignment.factory, assignment.threads, welcome["iterations"],
        )  # fmt: skip
        try:
            work(job)
        except WorkerFailed:
            raise
        except Exception as error:
            channel.tell("".join(traceback.format_exception(error)))
            raise WorkerFailed(f"worker {job.worker} failed") from error
        if channel.stopped:
            return
        _log.warning("worker %d was given up; it comes back as a new one", welcome["worker"])
        link.come(Hello(place=welcome["place"]))


class _Link:
    """The connection of the moment, and how to get another."""

    def __init__(self, address: tuple[str, int], key: bytes, patience_s: float) -> None:
        self._address = address
        self._key = key
        self._patience_s = patience_s
        self._wire: Wire | None = None
        self._known = False
        self.welcome: dict[str, Any] = {}

    @property
    def wire(self) -> Wire:
        """The connection. Raises ConnectionError if there is none."""
        if self._wire is None:
            raise ConnectionError("there is no connection")
        return self._wire

    def come(self, hello: Hello) -> None:
        """Connect, and say who we are. Raises Refused, and WorkerFailed if the server cannot be reached."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                self._come(hello)
                self._known = True
                return
            except OSError as error:
                if self._over(error):
                    raise WorkerFailed("the run is over, or its server has died: nobody listens there now") from error
                if time.monotonic() >= deadline:
                    host, port = self._address
                    raise WorkerFailed(f"cannot join the run at {host}:{port}: {error}") from error
            time.sleep(_AGAIN_S)

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
            with wire.within(self._patience_s):
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
        self.welcome = content

    def close(self) -> None:
        """Hang up."""
        if self._wire is not None:
            self._wire.close()


class RemoteChannel(local.Channel):
    """A worker's end of its conversation with the server, with the memory whose contents go along.

    On a go it holds the weights that were pulled, and a push takes the gradient with it. A connection that breaks is
    replaced while nobody notices, if the server still wants this worker.
    """

    def __init__(self, link: _Link, tensors: list[Tensor]) -> None:
        self._link = link
        self._tensors = tensors
        weights, gradient, statistics = tensors
        self._weights = raw([weights])
        self._slot = raw([gradient, statistics])
        size = sum(part.nbytes for part in self._weights)
        self._allowed: Sizes = {Kind.GO: exactly(size), Kind.STOP: exactly(0)}
        self._outbox = Outbox()
        self._latest: tuple[Kind, float, bytes] | None = None
        self.stopped = False

    def views(self) -> list[Tensor]:
        """Weights [P], gradient [P] and statistics [S]."""
        return self._tensors

    def send(self, kind: local.Kind, number: int = 0, real: float = 0.0, body: bytes = b"") -> bool:
        """Send one message; False if the server does not want it any more."""
        wire_kind = {local.Kind.PUSH: Kind.PUSH, local.Kind.NOT_FINITE: Kind.NOT_FINITE}.get(kind, Kind.READY)
        self._latest = (wire_kind, real, b"" if wire_kind is Kind.READY else COMPUTED.pack(number))
        self._outbox.send()
        try:
            self._send_latest()
        except OSError:
            return self._come_back()
        return True

    def tell(self, failure: str) -> None:
        """Let the server know why this worker ends, if it is there."""
        with suppress(OSError):
            self._link.wire.send(Kind.FAILED, body=[failure.encode(errors="replace")[-LONGEST_TEXT:]])

    def receive(self) -> local.Message | None:
        """Wait for the server's next word; None if it does not want this worker any more."""
        while True:
            try:
                head = self._link.wire.receive(self._allowed)
                if head.kind is Kind.STOP:
                    self.stopped = True
                    self._link.close()
                    return local.Message(local.Kind.STOP)
                if head.number != self._outbox.unanswered:
                    self._link.wire.skip(head.size)  # it has come before, over a connection that broke
                    continue
                self._link.wire.receive_into(self._weights)
                self._outbox.receive(head.number)
                return local.Message(local.Kind.GO, time.monotonic_ns() - round(head.real * 1e9))
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
        self._link.wire.send(kind, self._outbox.unanswered, real, body)

    def _come_back(self) -> bool:
        """Into the same session, where both sides know what the other has; False if it was given up."""
        unanswered = self._outbox.unanswered
        while True:
            try:
                self._link.come(Hello(session=self._link.welcome["session"], unanswered=unanswered))
                if unanswered is not None and unanswered > self._link.welcome["taken"]:
                    self._send_latest()
                return True
            except Refused:
                return False
            except OSError:
                continue
