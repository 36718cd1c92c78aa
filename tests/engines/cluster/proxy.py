"""A TCP proxy between a client and a gateway, which does to connections what networks do to them.

Each connection has a fate: it is cut after so many bytes in one direction, what comes then is swallowed first, or one
end is never told. What passed is kept.
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from tests.engines.cluster.parties import HOST

Way = Literal["up", "down"]
"""To the server, or to the worker."""
End = Literal["closed", "reset", "swallowed", "half open"]
"""How a connection is cut: both ends are told; at once, whatever they have not read; both, after what comes next was
swallowed; or only the worker's is."""
_SILENCE_S = 0.003
_LARGE = 1 << 16


@dataclass(frozen=True)
class Fate:
    """What happens to one connection: after so many bytes on one way it ends; pieces pass, each after a pause."""

    way: Way = "up"
    after: int | None = None
    end: End = "closed"
    piece: int = _LARGE
    pause_s: float = 0.0


UNHARMED = Fate()


@dataclass
class Passed:
    """What came through one connection."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)


class Proxy:
    """Stands before a port. The first connections have these fates, and the later ones are unharmed."""

    def __init__(self, port: int, fates: Sequence[Fate] = ()) -> None:
        self._target = port
        self._fates = list(fates)
        self._kept: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[Passed] = []
        self.blocked = False
        """Whether new connections are cut at once."""
        self._start(self._listen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._kept:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._kept:
            end.close()

    def cut(self) -> None:
        """Cut what is connected now."""
        for end in self._kept:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.blocked:
                client.close()
                continue
            fate = self._fates.pop(0) if self._fates else UNHARMED
            try:
                server = socket.create_connection((HOST, self._target))
            except OSError:
                client.close()
                continue
            passed = Passed()
            self.connections.append(passed)
            self._kept += [client, server]
            self._start(self._carry, client, server, fate, passed)

    def _carry(self, client: socket.socket, server: socket.socket, fate: Fate, passed: Passed) -> None:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            self._pass_on(client, server, fate, passed)
        for end in [client] if fate.end == "half open" and fate.after is not None else [client, server]:
            if fate.end == "reset":
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, client: socket.socket, server: socket.socket, fate: Fate, passed: Passed) -> None:
        """Until one end closes, or the connection's fate is fulfilled."""
        swallowed = False
        while fate.end == "swallowed" or not _fulfilled(fate, passed):
            ready, _, _ = select.select([client, server], [], [], _SILENCE_S if swallowed else None)
            if not ready:
                return
            for source in ready:
                way, target, so_far = ("up", server, passed.up) if source is client else ("down", client, passed.down)
                data = source.recv(_LARGE)
                if not data:
                    return
                if fate.way == way and fate.after is not None:
                    kept = data[: fate.after - len(so_far)]
                    swallowed |= len(kept) < len(data)
                    data = kept
                so_far += data
                for start in range(0, len(data), fate.piece):
                    time.sleep(fate.pause_s)
                    target.sendall(data[start : start + fate.piece])


def _fulfilled(fate: Fate, passed: Passed) -> bool:
    return fate.after is not None and len(passed.up if fate.way == "up" else passed.down) >= fate.after
