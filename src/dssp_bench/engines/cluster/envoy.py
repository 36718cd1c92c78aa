"""A server shard on another machine: what is there, and who stands in for it where the server is.

To the server's process an envoy looks like a shard's process on the same machine: it holds the other end of the channel
and the memory that they have in common, and passes on what comes and goes. The server connects to the shard, which
listens for workers anyway; a connection that breaks is the end of the shard, and so of the run.
"""

import queue
import select
import socket
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.engines.cluster.shard import ShardDoor, ShardMemory, hold_shard
from dssp_bench.engines.cluster.wire import Kind, Malformed, Sizes, Wire, at_most, exactly, raw
from dssp_bench.engines.local import channel as local

_CONNECT_S = 10.0
_HANDSHAKE_S = 2.0
_MOST_GREETINGS = 64
_LOOKS_EVERY_S = 0.05
_LONGEST_ORDER = 1 << 17
_DESCRIPTION: Sizes = {Kind.SHARD: at_most(_LONGEST_ORDER)}


@dataclass(frozen=True)
class Description:
    """What a shard has to know; `size` is the number of its weights, `snapshots` how many copies there can be."""

    size: int
    snapshots: int
    reconnect_s: float
    optimizer: dict[str, Any]


# --- where the server is ---


class Envoy:
    """Stands in for a shard at this address; a thread of the driver."""

    def __init__(
        self,
        address: tuple[str, int],
        key: bytes,
        channel: local.Channel,
        memory: ShardMemory,
        reconnect_s: float,
        optimizer: dict[str, Any],
    ) -> None:
        self._channel = channel
        described = Description(memory.initial.numel(), len(memory.snapshots), reconnect_s, optimizer)
        try:
            self._wire = _connected(address, key)
            self._wire.send_json(Kind.SHARD, asdict(described))
            self._wire.send(Kind.WEIGHTS, body=raw([memory.initial]))
        except OSError as error:
            raise DsspBenchError(f"no server shard at {address[0]}:{address[1]}: {error.strerror or error}") from error
        self._line = _Line(self._wire, memory, Kind.ORDER, Kind.REPORT)
        self._thread = threading.Thread(target=self._run, name="envoy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Carry nothing more."""
        self._wire.hang_up()
        self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wire, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        try:
            while all(self._pass_on(file) for file, _ in poll.poll()):
                pass
        except OSError:
            pass  # the shard is gone, as the end of the channel says
        finally:
            self._wire.close()
            self._channel.close()

    def _pass_on(self, file: int) -> bool:
        if file == self._wire.fileno():
            message = self._line.receive()
            return self._channel.send(message.kind, message.number, body=message.body)
        order = self._channel.receive()
        if order is not None:
            self._line.send(order.kind, order.number, order.body)
        return order is not None


def _connected(address: tuple[str, int], key: bytes) -> Wire:
    """A connection after the handshake. Raises OSError."""
    wire = Wire(socket.create_connection(address, _CONNECT_S))
    try:
        wire.introduce(key, _CONNECT_S)
    except OSError:
        wire.close()
        raise
    return wire


# --- where the shard is ---


def serve_shard(listener: socket.socket, key: bytes, within_s: float) -> None:
    """Let the server in, who must come in time and know the key, and hold its shard until it goes. Raises OSError.

    What goes wrong here the server hears too.
    """
    wire = _admitted(listener, key, within_s)
    try:
        with wire.within(_CONNECT_S):
            described = Description(**wire.receive_json(wire.receive(_DESCRIPTION)))
            initial = torch.empty(described.size)
            wire.receive({Kind.WEIGHTS: exactly(initial.nbytes)})
            wire.receive_into(raw([initial]))
        snapshots = [torch.empty_like(initial) for _ in range(described.snapshots)]
        memory = ShardMemory(initial, snapshots, torch.empty_like(initial))
        door = ShardDoor(listener, key, described.reconnect_s, described.optimizer)
        orders = _Orders(wire, memory)
        try:
            hold_shard(orders, memory, door)
        except Exception as error:
            orders.send_text(local.Kind.FAILED, "".join(traceback.format_exception(error)))
            raise
    finally:
        wire.close()


def _admitted(listener: socket.socket, key: bytes, within_s: float) -> Wire:
    """The first that shows that it knows the key; others are closed, and hold up nobody. Raises TimeoutError."""
    admitted: queue.SimpleQueue[Wire] = queue.SimpleQueue()
    greetings = threading.BoundedSemaphore(_MOST_GREETINGS)
    deadline = time.monotonic() + within_s
    listener.settimeout(_LOOKS_EVERY_S)
    try:
        while time.monotonic() < deadline:
            with suppress(queue.Empty):
                return admitted.get_nowait()
            if not greetings.acquire(timeout=_LOOKS_EVERY_S):
                continue  # the others wait in the system's queue
            try:
                end, _ = listener.accept()
            except TimeoutError:
                greetings.release()
            except OSError:
                greetings.release()
                time.sleep(_LOOKS_EVERY_S)  # such as too many open files, which passes
            else:
                threading.Thread(target=_greet, args=(end, key, admitted, greetings), daemon=True).start()
        raise TimeoutError(f"the server did not come within {within_s:g} s")
    finally:
        listener.settimeout(None)


def _greet(
    end: socket.socket, key: bytes, admitted: "queue.SimpleQueue[Wire]", greetings: threading.BoundedSemaphore
) -> None:
    try:
        end.settimeout(None)
        wire = Wire(end)
        wire.admit(key, _HANDSHAKE_S)
        admitted.put(wire)
    except OSError:
        end.close()
    finally:
        greetings.release()


class _Orders(local.Channel):
    """The shard's end of its conversation with a server elsewhere."""

    def __init__(self, wire: Wire, memory: ShardMemory) -> None:
        self._wire = wire
        self._line = _Line(wire, memory, Kind.REPORT, Kind.ORDER)

    def fileno(self) -> int:
        """For selectors."""
        return self._wire.fileno()

    def send(self, kind: local.Kind, number: int = 0, real: float = 0.0, body: bytes = b"") -> bool:
        """Send one message, with the tensor that it is about; False if the server is gone."""
        try:
            self._line.send(kind, number, body)
        except OSError:
            return False
        return True

    def receive(self) -> local.Message | None:
        """Wait for the next order; None if the server is gone."""
        try:
            return self._line.receive()
        except OSError:
            return None


# --- at both ends ---


class _Line:
    """Messages of a local channel over a wire, each followed by the tensor that it is about, if it is about one."""

    def __init__(self, wire: Wire, memory: ShardMemory, ours: Kind, theirs: Kind) -> None:
        self._wire = wire
        self._memory = memory
        self._ours = ours
        self._theirs = theirs
        self._allowed: Sizes = {theirs: at_most(_LONGEST_ORDER)}
        self._lock = threading.Lock()  # a shard's threads say when they have made a copy

    def send(self, kind: local.Kind, number: int, body: bytes) -> None:
        """Send one message. Raises OSError."""
        tensor = self._tensor(self._ours, kind, number)
        with self._lock:
            self._wire.send(self._ours, number, float(kind), [body] if body else [])
            if tensor is not None:
                self._wire.send(Kind.WEIGHTS, body=raw([tensor]))

    def receive(self) -> local.Message:
        """Wait for the next message, and until its tensor is there. Raises OSError."""
        head = self._wire.receive(self._allowed)
        try:
            kind = local.Kind(round(head.real))
        except (ValueError, OverflowError) as error:
            raise Malformed(f"there is no message of kind {head.real}") from error
        body = self._wire.receive_bytes(head)
        tensor = self._tensor(self._theirs, kind, head.number)
        if tensor is not None:
            self._wire.receive({Kind.WEIGHTS: exactly(tensor.nbytes)})
            self._wire.receive_into(raw([tensor]))
        return local.Message(kind, head.number, body=body)

    def _tensor(self, way: Kind, kind: local.Kind, number: int) -> Tensor | None:
        """What follows a message: to the shard what is put, and from it what was asked for. Raises Malformed."""
        if kind is local.Kind.SNAPSHOT and way is Kind.REPORT:
            if not 0 <= number < len(self._memory.snapshots):
                raise Malformed(f"there is no snapshot {number}")
            return self._memory.snapshots[number]
        if (kind, way) in ((local.Kind.PUT, Kind.ORDER), (local.Kind.DONE, Kind.REPORT)):
            if not 0 <= number <= self._memory.exchange.numel():
                raise Malformed(f"{number} weights are more than a part has")
            return self._memory.exchange[:number]
        return None
