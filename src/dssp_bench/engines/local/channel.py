"""A pair of connected sockets that carry whole messages between two processes of one run."""

import json
import select
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from dssp_bench.core.messages import new

_HEADER = struct.Struct("<Bqd")
_LIMIT = 1 << 17
_LONGEST_TEXT = 60_000
_MOST_FILES = 2


class Kind(IntEnum):
    """What a message says."""

    READY = 1  # a process can begin; of a worker, number: its process, real: seconds that an iteration may well take
    GO = 2  # start (or go on)
    PUSH = 3  # number: nanoseconds of computing; real: the batch's loss
    NOT_FINITE = 4  # the same, but the gradient must not be applied
    STOP = 5  # stop at a safe point
    FAILED = 6  # body: a traceback
    SNAPSHOT = 7  # number: which snapshot
    EVALUATED = 8  # body: JSON
    STARTED = 9  # number: the monotonic moment of the run's start, nanoseconds
    DONE = 10  # body: JSON
    HANDLE = 11  # body: CUDA handles
    WARNING = 12  # body: a line for people
    LOST = 13  # number: a worker that is to be replaced; body: JSON
    REPLACEMENT = 14  # number: a worker's number; body: JSON; with its channel and its memory
    RETURN = 15  # number: the place of a worker that was given up, and for which somebody has come
    RECEIVED = 16  # a push is complete, and will be used when the server says so
    UPDATE = 17  # body: JSON; this and the following are orders to a shard, or its answers
    EXPECT = 18  # number: a worker that will come
    FORGET = 19  # number: one that has left
    GET = 20  # body: the name of a tensor to be put into shared memory; answered by DONE, number: its length
    PUT = 21  # body: the name of a tensor that is there, number: its length; answered by DONE
    RESTORE = 22  # go on from what was put


_KINDS = {kind.value: kind for kind in Kind}  # in a third of the time that Kind() takes


class Message(NamedTuple):
    """One message: its kind, a whole number, a real number and a body."""

    kind: Kind
    number: int = 0
    real: float = 0.0
    body: bytes = b""

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def text(self) -> str:
        """The body as a text."""
        return self.body.decode(errors="replace")


def _unpacked(frame: bytes) -> Message:
    kind, number, real = _HEADER.unpack_from(frame)
    return new(Message, (_KINDS[kind], number, real, frame[_HEADER.size :]))


class Channel:
    """One end of a socket pair; a message arrives whole or not at all, and a dead peer is seen at once."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, kind: Kind, number: int = 0, real: float = 0.0, body: bytes = b"") -> bool:
        """Send one message; False if the peer is gone."""
        try:
            self._socket.send(_HEADER.pack(kind, number, real) + body)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def send_json(self, kind: Kind, content: Any, number: int = 0) -> bool:
        """Send a message with a JSON body; False if the peer is gone."""
        return self.send(kind, number, 0.0, json.dumps(content).encode())

    def send_json_in_parts(self, kind: Kind, content: Any) -> bool:
        """Send JSON of any length, as messages that are numbered down to 0; False if the peer is gone."""
        text = json.dumps(content).encode()
        parts = [text[begin : begin + _LONGEST_TEXT] for begin in range(0, len(text), _LONGEST_TEXT)]
        return all(self.send(kind, left, body=part) for left, part in zip(range(len(parts))[::-1], parts, strict=True))

    def send_text(self, kind: Kind, text: str) -> bool:
        """Send a text, or as much of its end as fits into one message; False if the peer is gone."""
        return self.send(kind, body=text.encode(errors="replace")[-_LONGEST_TEXT:])

    def has_room(self) -> bool:
        """Whether a message can be sent at once, because the peer has not left too many unread."""
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        return bool(poll.poll(0))

    def has_news(self, within_s: float) -> bool:
        """Whether there is something to receive, at the latest after so long."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        return bool(poll.poll(within_s * 1000))

    def receive(self) -> Message | None:
        """Wait for the next message; None if the peer is gone."""
        try:
            frame = self._socket.recv(_LIMIT)
        except ConnectionResetError:
            return None
        return _unpacked(frame) if frame else None

    def has_message(self) -> bool:
        """Whether a message can be received at once, even if the peer is gone."""
        if not self.has_news(0):
            return False
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except ConnectionResetError:  # said once, if the peer left something unread
            return self.has_message()

    def has_ended(self) -> bool:
        """Whether the peer is gone or has hung up, although it may have left messages."""
        poll = select.poll()
        poll.register(self, 0)
        return bool(poll.poll(0))

    def hang_up(self) -> None:
        """End the conversation; both ends find that the other is gone."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


class FileChannel(Channel):
    """A channel whose messages may bring open files; those of the latest one are in `files`."""

    files: Sequence[int] = ()

    def send_files(self, kind: Kind, content: Any, number: int, files: Sequence[int]) -> bool:
        """Send a message with a JSON body, and these files; False if the peer is gone."""
        frame = _HEADER.pack(kind, number, 0.0) + json.dumps(content).encode()
        try:
            socket.send_fds(self._socket, [frame], list(files))
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> Message | None:
        """Wait for the next message; None if the peer is gone."""
        try:
            frame, self.files, _, _ = socket.recv_fds(self._socket, _LIMIT, _MOST_FILES)
        except ConnectionResetError:
            return None
        return _unpacked(frame) if frame else None


def those_with_news(channels: Sequence[Channel], within_s: float) -> list[Channel]:
    """Those of the channels on which there is something to receive, at the latest after so long."""
    poll = select.poll()
    for channel in channels:
        poll.register(channel, select.POLLIN)
    ready = {file for file, _ in poll.poll(within_s * 1000)}
    return [channel for channel in channels if channel.fileno() in ready]


def channel_pair() -> tuple[Channel, Channel]:
    """Two connected ends; each goes to one process."""
    left, right = _socket_pair()
    return Channel(left), Channel(right)


def file_channel_pair() -> tuple[FileChannel, FileChannel]:
    """The same, for messages with files."""
    left, right = _socket_pair()
    return FileChannel(left), FileChannel(right)


def channel_of(file: int) -> Channel:
    """The end that came as a file."""
    return Channel(socket.socket(fileno=file))


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
