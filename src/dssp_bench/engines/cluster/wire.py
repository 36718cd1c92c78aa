"""One connection between two processes of a run: both ends have shown that they know the run's key, then frames follow.

A frame is a header of fixed size and, for some kinds, raw bytes. How many is known before they are read, from the kind
and from what the peer may say, and they go straight to where they belong; so nobody can make the other end allocate
memory, and nothing is ever unpickled. The bytes are neither encrypted nor signed after the handshake: that is left to
the network (`docs/cluster.md`).
"""

import hmac
import json
import secrets
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any, NamedTuple

from torch import Tensor

_MAGIC = b"dsspb\x00\x00\x01"  # the last byte is the version of what follows
_HEADER = struct.Struct("<8sBxxxxxxxqdQ")
_HEARD = struct.Struct("=52x2I")  # in Linux's tcp_info: milliseconds since data and an acknowledgement came
_NONCE = 32
_PROOF = 32
KEY_BYTES = 32
_SCRATCH = 1 << 20
DEAD_AFTER_S = 4
"""A peer that acknowledges nothing for so long is gone; TCP asks it every second if there is nothing to send."""


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1  # worker: who it is; body: JSON
    WELCOME = 2  # server: what it is to do; body: JSON
    REFUSED = 3  # server: why not; body: a text
    READY = 4  # worker: it can begin; real: seconds that an iteration may well take
    GO = 5  # server: start an iteration; number: of the answered message; real: seconds since the start; body: weights
    PUSH = 6  # worker: number: of the message; real: the batch's loss; body: computing time, gradient, statistics
    NOT_FINITE = 7  # the same, but the gradient must not be applied and is not sent
    STOP = 8  # server: it is over
    FAILED = 9  # worker: it raised; body: a traceback
    RECEIVED = 10  # a shard of the server: the message of this number is complete
    SHARD = 11  # server: what a shard has to know; body: JSON
    WEIGHTS = 12  # server: what a shard begins with; body: its part of the weights
    ORDER = 13  # server, to a shard: a message of the local channel, number and body its own; real: its kind
    REPORT = 14  # a shard, to the server: the same


_KINDS = {kind.value: kind for kind in Kind}
Sizes = Mapping[Kind, range]
"""How many bytes a frame may have, by kind; any other kind is refused."""


class Malformed(ConnectionError):
    """The peer sent what it may not send; the connection is of no more use."""


class Head(NamedTuple):
    """A frame without its body of `size` bytes."""

    kind: Kind
    number: int
    real: float
    size: int


def head_of(header: bytes | bytearray, allowed: Sizes) -> Head:
    """Decode a header. Raises Malformed for one that the peer may not send."""
    magic, code, number, real, size = _HEADER.unpack(header)
    kind = _KINDS.get(code)
    if magic != _MAGIC or kind is None:
        raise Malformed("this is no frame of dssp-bench, or of another version")
    if kind not in allowed:
        raise Malformed(f"{kind.name} was not to come")
    if size not in allowed[kind]:
        raise Malformed(f"{kind.name} came with {size} bytes")
    return Head(kind, number, real, size)


class Wire:
    """One end of a connection. What fails raises OSError, also if the peer is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._header = bytearray(_HEADER.size)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _notice_silence(end)

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    @property
    def silence_s(self) -> float:
        """Seconds since anything came from the other machine, whose system is asked every second if there is no news.

        This system would close the connection itself, but counts anew from whatever it is given to send.
        """
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _HEARD.size)
        milliseconds: int = min(_HEARD.unpack(info))
        return milliseconds / 1000

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Whoever waits for the peer inside waits no longer than this."""
        self._socket.settimeout(seconds)
        try:
            yield
        finally:
            if self._socket.fileno() >= 0:
                self._socket.settimeout(None)

    def send(self, kind: Kind, number: int = 0, real: float = 0.0, body: Sequence[memoryview | bytes] = ()) -> None:
        """Send one frame; its body is what the parts hold, one after the other."""
        size = sum(map(len, body))
        header = _HEADER.pack(_MAGIC, kind, number, real, size)
        if not size:
            self._socket.sendall(header)
            return
        self._socket.sendall(header, socket.MSG_MORE)  # no packet of its own
        for part in body:
            self._socket.sendall(part)

    def send_json(self, kind: Kind, content: Any) -> None:
        """Send one frame with a JSON body."""
        self.send(kind, body=[json.dumps(content).encode()])

    def receive(self, allowed: Sizes) -> Head:
        """Wait for the next header. Raises Malformed."""
        self.receive_into([memoryview(self._header)])
        return head_of(self._header, allowed)

    def receive_into(self, targets: Sequence[memoryview]) -> None:
        """Fill all of these with what comes next."""
        for target in targets:
            while target.nbytes:
                count = self._socket.recv_into(target, target.nbytes, socket.MSG_WAITALL)
                if count == 0:
                    raise ConnectionResetError("the connection was closed")
                target = target[count:]

    def receive_json(self, head: Head) -> Any:
        """The JSON body of a frame, whose size was found to be allowed. Raises Malformed."""
        try:
            return json.loads(self.receive_bytes(head))
        except (ValueError, RecursionError) as error:
            raise Malformed(f"{head.kind.name} came without JSON") from error

    def receive_bytes(self, head: Head) -> bytes:
        """The body of a frame, whose size was found to be allowed."""
        body = bytearray(head.size)
        self.receive_into([memoryview(body)])
        return bytes(body)

    def skip(self, size: int) -> None:
        """Let so many bytes pass."""
        scratch = memoryview(bytearray(min(size, _SCRATCH)))
        while size:
            self.receive_into([scratch[:size]])
            size -= min(size, len(scratch))

    def hang_up(self) -> None:
        """End the conversation; who waits in another thread for the peer is woken, and is the one to close this end."""
        with suppress(OSError):  # it is over already, at one end or the other
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self.hang_up()
        self._socket.close()

    # --- the handshake ---

    def admit(self, key: bytes, within_s: float) -> None:
        """As a server, see whether the peer knows the key, and show that we do. Raises OSError if it does not."""
        deadline = time.monotonic() + within_s
        ours = secrets.token_bytes(_NONCE)
        self._socket.settimeout(within_s)
        self._socket.sendall(_MAGIC + ours)
        answer = self._receive_by(deadline, _NONCE + _PROOF)
        theirs, proof = answer[:_NONCE], answer[_NONCE:]
        if not hmac.compare_digest(proof, _proof(key, b"worker", ours, theirs)):
            raise Malformed("the peer does not know the key")
        self._socket.sendall(_proof(key, b"server", theirs, ours))
        self._socket.settimeout(None)

    def introduce(self, key: bytes, within_s: float) -> None:
        """As a worker, show that we know the key, and see whether the peer does. Raises OSError if it does not."""
        deadline = time.monotonic() + within_s
        self._socket.settimeout(within_s)
        challenge = self._receive_by(deadline, len(_MAGIC) + _NONCE)
        magic, theirs = challenge[: len(_MAGIC)], challenge[len(_MAGIC) :]
        if magic != _MAGIC:
            raise Malformed("there is no server of dssp-bench, or one of another version")
        ours = secrets.token_bytes(_NONCE)
        self._socket.sendall(ours + _proof(key, b"worker", theirs, ours))
        try:
            answer = self._receive_by(deadline, _PROOF)
        except ConnectionError as error:
            raise Malformed("the server hung up when we had answered: does it have another key?") from error
        if not hmac.compare_digest(answer, _proof(key, b"server", ours, theirs)):
            raise Malformed("the server does not know the key")
        self._socket.settimeout(None)

    def _receive_by(self, deadline: float, size: int) -> bytes:
        """So many bytes, however slowly they come, but not later than that."""
        got = b""
        while len(got) < size:
            self._socket.settimeout(max(1e-3, deadline - time.monotonic()))
            part = self._socket.recv(size - len(got))
            if not part:
                raise ConnectionResetError("the connection was closed during the handshake")
            got += part
        return got


def raw(tensors: Sequence[Tensor]) -> list[memoryview]:
    """The memory of flat float32 tensors on the CPU, without those that are empty."""
    return [memoryview(tensor.numpy().data).cast("B") for tensor in tensors if tensor.numel()]


def exactly(size: int) -> range:
    """Bodies of this size and no other."""
    return range(size, size + 1)


def at_most(size: int) -> range:
    """Bodies of up to this size."""
    return range(size + 1)


def _proof(key: bytes, role: bytes, challenge: bytes, own: bytes) -> bytes:
    """What only somebody who knows the key can answer to a challenge, and only in this role."""
    return hmac.digest(key, role + _MAGIC + challenge + own, "sha256")


def _notice_silence(end: socket.socket) -> None:
    """Have the system close a connection whose other end acknowledges nothing, as after a cut or a power failure."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, DEAD_AFTER_S - 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * DEAD_AFTER_S)
