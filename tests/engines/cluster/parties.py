"""The two parties between which a courier carries: a server in the hands of a test, and a real client in a thread.

Whatever they exchange tells where it belongs. The weights are the number of pushes that the server has taken, and a
gradient is a number of its iteration, each in every entry; so an answer, or a push, that is torn, lost, repeated or
somebody else's shows. Each party spoils its memory while the other may not read it.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor

from dssp_bench.core.errors import WorkerFailed
from dssp_bench.core.messages import WorkerId
from dssp_bench.core.server import Slot
from dssp_bench.engines.cluster.client import Assignment, join
from dssp_bench.engines.cluster.courier import Seat
from dssp_bench.engines.cluster.gateway import Gateway, listener
from dssp_bench.engines.layout import ClusterLayout, WorkerLayout
from dssp_bench.engines.local.channel import Kind, Message, channel_pair
from dssp_bench.worker import Worker

KEY = bytes(range(32))
HOST = "127.0.0.1"
PARAMETERS, STATISTICS = 300, 7
DEADLINE_S = 30.0
"""How long anything that must happen may take; nothing is said of how soon it does."""

_LAYOUT = ClusterLayout(workers=(WorkerLayout(), WorkerLayout(), WorkerLayout()))
_SPOILT = -7.0


class Station:
    """Where the server meets one worker, and where a courier takes its seat."""

    def __init__(
        self,
        worker: WorkerId = 0,
        place: WorkerId | None = None,
        iterations: int = 0,
        parameters: int = PARAMETERS,
        statistics: int = STATISTICS,
    ) -> None:
        self._channel, there = channel_pair()
        self.weights, self.gradient, self.statistics = map(torch.zeros, (parameters, parameters, statistics))
        memory = [self.weights, self.gradient, self.statistics]
        self.seat = Seat(worker, worker if place is None else place, iterations, there, memory)

    def hear(self) -> Message | None:
        """The worker's next message; None if it is lost."""
        assert self._channel.has_news(DEADLINE_S), "the server hears nothing"
        return self._channel.receive()

    def expect(self, kind: Kind) -> Message:
        """The worker's next message, of this kind."""
        message = self.hear()
        assert message is not None, f"the worker is lost, and not {kind.name}"
        assert message.kind is kind, message
        return message

    def hears_nothing(self) -> bool:
        """Whether nothing has come that was not heard."""
        return not self._channel.has_news(0)

    def release(self, version: float) -> None:
        """Let the worker go on, on weights that are all this number."""
        self.weights.fill_(version)
        self._channel.send(Kind.GO, time.monotonic_ns())

    def confirm(self) -> None:
        """As a shard, let the worker know that its message is complete."""
        self._channel.send(Kind.RECEIVED)

    def take(self, push: int) -> None:
        """The worker's next message must be this push, whole; what may not be read any more is spoilt then."""
        message = self.expect(Kind.PUSH)
        assert message.real == push, f"push {push} was to come, and it is {message.real:g}"
        assert self.gradient.eq(gradient_of(push)).all(), "the slot is torn"
        assert self.statistics.eq(-gradient_of(push)).all(), "the slot is torn"
        for tensor in (self.weights, self.gradient, self.statistics):
            tensor.fill_(_SPOILT)

    def serve(self, pushes: int, first: int = 1) -> None:
        """Be the server of a run of so many pushes, of which the first has this number."""
        self.expect(Kind.READY)
        for push in range(first, first + pushes):
            self.release(push - 1)
            self.take(push)
        self.dismiss()

    def dismiss(self) -> None:
        """It is over for this worker."""
        self._channel.send(Kind.STOP)
        self.close()

    def close(self) -> None:
        """The server knows of this worker no more."""
        self._channel.close()

    def fileno(self) -> int:
        """For polling."""
        return self._channel.fileno()


class Entrance(Gateway):
    """A gateway at a port of this machine that is free; who comes back, and who ends, may be told."""

    def __init__(
        self,
        reconnect_s: float = DEADLINE_S,
        on_return: Callable[[WorkerId], None] = lambda _place: None,
        on_end: Callable[[WorkerId, WorkerId], None] = lambda _worker, _place: None,
    ) -> None:
        entrance = listener(HOST, 0)
        self.port: int = entrance.getsockname()[1]
        super().__init__(entrance, KEY, {}, reconnect_s, on_return, on_end)


class Client(threading.Thread):
    """A real client on a network that does not exist; `error` is why it failed, and `seen` the weights that it used."""

    def __init__(
        self,
        port: int,
        place: WorkerId | None = None,
        key: bytes = KEY,
        patience_s: float = DEADLINE_S,
        before: Callable[[int], None] = lambda _iteration: None,
    ) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self.seen: list[float] = []
        self.welcomes: list[Mapping[str, Any]] = []
        self._before = before
        self._arguments = (HOST, port), key, place, self._assign, patience_s
        self.start()

    def run(self) -> None:
        """Work, and remember what went wrong."""
        try:
            join(*self._arguments)
        except Exception as error:
            self.error = error

    def ended(self) -> Exception | None:
        """Wait until it is home; returns why it failed, if it did."""
        self.join(DEADLINE_S)
        assert not self.is_alive(), "the client does not end"
        if self.error is not None and not isinstance(self.error, WorkerFailed):
            raise self.error
        return self.error

    def _assign(self, welcome: Mapping[str, Any]) -> Assignment:
        self.welcomes.append(welcome)
        return Assignment(self._make, _LAYOUT, "cpu", 1)

    def _make(self, worker: WorkerId, device: str, weights: Tensor, slot: Slot, iterations: int) -> Worker:
        return cast(Worker, _Diligent(self, weights, slot, iterations))


class _Diligent:
    """Pushes the number of its iteration in every entry, once it has seen that all weights are one number."""

    def __init__(self, client: Client, weights: Tensor, slot: Slot, iterations: int) -> None:
        self._client = client
        self._weights = weights
        self._slot = slot
        self._iterations = iterations

    def compute_gradient(self) -> Tensor:
        """The next iteration's; its loss is its number."""
        lowest, highest = (float(weight) for weight in torch.aminmax(self._weights))
        assert lowest == highest, "the weights are torn"
        self._client.seen.append(lowest)
        self._iterations += 1
        self._client._before(self._iterations)
        self._weights.fill_(_SPOILT)
        self._slot.gradient.fill_(gradient_of(self._iterations))
        self._slot.statistics.fill_(-gradient_of(self._iterations))
        return torch.tensor(float(self._iterations))

    def is_finite(self) -> bool:
        """Always."""
        return True


def gradient_of(push: int) -> float:
    """What every entry of this push's gradient is."""
    return 1000.0 + push


def wait_for(what: Callable[[], object], or_else: str) -> None:
    """Until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    pause_s = 0.0
    while not what():
        assert time.monotonic() < deadline, or_else
        time.sleep(pause_s)
        pause_s = min(0.001, pause_s + 1e-5)


def rest(bare: socket.socket) -> bytes:
    """Everything that comes until the other end closes the connection."""
    content = b""
    with suppress(ConnectionError):
        while part := bare.recv(1 << 16):
            content += part
    return content


def open_files() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


class NothingLeft:
    """Inside, threads and files may come; in the end there must be none more than before."""

    def __enter__(self) -> None:
        self._threads = set(threading.enumerate())
        self._files = open_files()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            wait_for(lambda: not self._more_threads(), "threads are left")
            wait_for(lambda: open_files() <= self._files, "files are left open")

    def _more_threads(self) -> set[threading.Thread]:
        return set(threading.enumerate()) - self._threads
