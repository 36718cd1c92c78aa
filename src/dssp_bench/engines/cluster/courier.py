"""Who stands in for a worker on another machine: to the server it looks like a worker's process on this one.

The server's process writes weights into memory and says go; the courier sends them off, takes what comes back into the
worker's slot, and says so when it is complete. A connection that breaks costs nothing if the worker is back soon: its
messages are numbered, each is taken once, and the answer to the latest one is sent again.
"""

import logging
import select
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dssp_bench.core.errors import ProtocolViolation
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster.wire import DEAD_AFTER_S, Head, Kind, Malformed, Sizes, Wire, at_most, exactly, raw
from dssp_bench.engines.delivery import Inbox, Ruling
from dssp_bench.engines.local import channel as local

COMPUTED = struct.Struct("<q")
"""How many nanoseconds a push's computation took; they precede the gradient."""
LONGEST_TEXT = 60_000
_LONGEST_ITERATION_S = 1e9
_LOOKS_EVERY_S = 0.25
_ELSEWHERE = 0
"""The process number of a worker that runs on another machine."""
_log = logging.getLogger(__name__)


@dataclass
class Seat:
    """A worker's number, its place and how many iterations it has made, and where it meets the server on this machine.

    `memory` is what it pulls [P], its gradient [P] and its statistics [S].
    """

    worker: WorkerId
    place: WorkerId
    iterations: int
    channel: local.Channel
    memory: Sequence[Tensor]


class Courier:
    """Carries one worker's messages between the server's process and whatever connection the worker has just now.

    `welcome` is what a worker that begins is told. `ended` is called when there is nothing more to carry, with the
    courier, in its thread.
    """

    def __init__(
        self, seat: Seat, welcome: dict[str, Any], reconnect_s: float, ended: Callable[["Courier"], None]
    ) -> None:
        self.worker = seat.worker
        self.place = seat.place
        self.session: str | None = None
        weights, gradient, statistics = seat.memory
        self._channel = seat.channel
        self._weights = raw([weights])
        self._slot = raw([gradient, statistics])
        self._welcome = welcome
        self._own = {
            "worker": seat.worker,
            "place": seat.place,
            "iterations": seat.iterations,
            "sizes": [weights.numel(), statistics.numel()],
        }
        size = COMPUTED.size + sum(part.nbytes for part in self._slot)
        self._allowed: Sizes = {
            Kind.READY: exactly(0),
            Kind.PUSH: exactly(size),
            Kind.NOT_FINITE: exactly(COMPUTED.size),
            Kind.FAILED: at_most(LONGEST_TEXT),
        }
        self._reconnect_s = reconnect_s
        self._ended = ended
        self._inbox: Inbox[int] = Inbox()
        self._taken = -1
        self._news = threading.Condition()
        self._next: tuple[Wire, int | None] | None = None
        self._wire: Wire | None = None
        self._over = False
        self._why = ""
        self._thread = threading.Thread(target=self._run, name=f"courier of worker {self.worker}", daemon=True)
        self._thread.start()

    def attach(self, wire: Wire, latest: int | None) -> bool:
        """Go on over this connection; the worker may have no answer to its latest message. False if it is over."""
        with self._news:
            if self._over:
                return False
            if self._next:
                self._next[0].close()
            self._next = wire, latest
            self._break()
        return True

    def give_up(self, why: str = "") -> None:
        """Carry nothing more: the worker is known to be dead, or the run is over. The server is told a reason."""
        with self._news:
            self._over = True
            self._why = why
            self._break()

    @property
    def is_connected(self) -> bool:
        """Whether its worker can hear it now."""
        with self._news:
            return (self._wire or self._next) is not None

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout_s)

    def _break(self) -> None:
        if self._wire is not None:
            self._wire.hang_up()
        self._news.notify_all()

    # --- its thread ---

    def _run(self) -> None:
        patience = None  # the engine knows how long a worker may take to come
        try:
            while (connection := self._next_connection(patience)) is not None:
                wire, latest = connection
                try:
                    self._greet(wire, latest)
                    self._carry(wire)
                    return
                except OSError as error:  # Malformed is one, too
                    _log.debug("worker %d: %s", self.worker, error)
                    told = isinstance(error, ConnectionError)  # else the other end was silent for long
                except ProtocolViolation as error:
                    _log.warning("%s; it is given up", error)
                    return
                finally:
                    with self._news:
                        self._wire = None
                        wire.close()
                patience = max(0.0, self._reconnect_s - (0.0 if told else DEAD_AFTER_S))
        finally:
            self._end()

    def _next_connection(self, within_s: float | None) -> tuple[Wire, int | None] | None:
        deadline = None if within_s is None else time.monotonic() + within_s
        with self._news:
            while not (self._next or self._over):
                left_s = _LOOKS_EVERY_S if deadline is None else min(_LOOKS_EVERY_S, deadline - time.monotonic())
                if left_s <= 0 or self._is_pointless(deadline):
                    return None
                self._news.wait(left_s)
            if self._next is None or self._over:
                return None
            connection, self._next = self._next, None
            self._wire = connection[0]  # which is the one to break from now on
            return connection

    def _is_pointless(self, deadline: float | None) -> bool:
        """Whether the server is gone, and has left no last word for a worker that has been here."""
        return self._channel.has_ended() and (deadline is None or not self._channel.has_message())

    def _end(self) -> None:
        with self._news:
            self._over = True
            if self._next:
                self._next[0].close()
        try:
            self._ended(self)  # first, since nobody takes its place before the server knows
        finally:
            if self._why:
                self._channel.send_text(local.Kind.FAILED, self._why)
            self._channel.close()

    def _greet(self, wire: Wire, latest: int | None) -> None:
        wire.send_json(Kind.WELCOME, self._welcome | self._own | {"taken": self._taken})
        if latest is not None and latest <= self._taken:
            self._rule(wire, latest)

    def _carry(self, wire: Wire) -> None:
        """Until one side has nothing more to say. Raises OSError if the connection breaks."""
        poll = select.poll()
        poll.register(wire, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        while True:
            news = poll.poll(1000 * _LOOKS_EVERY_S)
            if not news and wire.silence_s > DEAD_AFTER_S:
                raise TimeoutError(f"nothing was heard for {DEAD_AFTER_S:g} s")
            for file, _ in news:
                if not (self._from_worker(wire) if file == wire.fileno() else self._from_server(wire)):
                    return

    def _from_server(self, wire: Wire) -> bool:
        # If the server hung up with a message of ours unread, its last word is heard after the loss of the channel.
        message = self._channel.receive() or self._channel.receive()
        if message is None:
            return False  # nobody waits for this worker any more
        if message.kind is local.Kind.STOP:
            wire.send(Kind.STOP)
            return False
        if message.kind is local.Kind.RECEIVED:
            wire.send(Kind.RECEIVED, self._taken)
            return True
        self._inbox.answer(self.worker, message.number)
        self._answer(wire)
        return True

    def _answer(self, wire: Wire) -> None:
        """Send what the latest message is answered: the weights stay as they are until the next one is taken."""
        since_start = time.monotonic_ns() - self._inbox.answer_again(self.worker)
        wire.send(Kind.GO, self._taken, since_start / 1e9, self._weights)

    def _from_worker(self, wire: Wire) -> bool:
        head = wire.receive(self._allowed)
        if head.kind is Kind.FAILED:
            self._channel.send_text(local.Kind.FAILED, wire.receive_bytes(head).decode(errors="replace"))
            return False
        _check(head)
        computed = 0
        if self._inbox.would_take(self.worker, head.number):
            computed = self._take_in(wire, head)
        else:
            wire.skip(head.size)
        ruling = self._rule(wire, head.number)
        if ruling is Ruling.REFUSE:
            raise Malformed(f"{head.kind.name} came from a worker that is not ready yet")
        if ruling is not Ruling.TAKE:
            return True
        if head.kind is Kind.READY:
            self._channel.send(local.Kind.READY, _ELSEWHERE, head.real)
        else:
            kind = local.Kind.PUSH if head.kind is Kind.PUSH else local.Kind.NOT_FINITE
            self._channel.send(kind, computed, head.real)
        return True  # also if the server is gone, whose last word is to be passed on yet

    def _take_in(self, wire: Wire, head: Head) -> int:
        """Put a push's body into the slot, which the server does not read now; returns how long it was computed."""
        if head.kind is Kind.READY:
            return 0
        computed = bytearray(COMPUTED.size)
        wire.receive_into([memoryview(computed)])
        if head.kind is Kind.PUSH:
            wire.receive_into(self._slot)
        (nanoseconds,) = COMPUTED.unpack(computed)
        if nanoseconds < 0:
            raise Malformed("no computation takes less than no time")
        return int(nanoseconds)

    def _rule(self, wire: Wire, number: int) -> Ruling:
        ruling = self._inbox.receive(self.worker, number)
        if ruling is Ruling.TAKE:
            self._taken = number
        elif ruling is Ruling.REPEAT:
            self._answer(wire)
        return ruling


def _check(head: Head) -> None:
    """The first message says that a worker is ready, and no other does. Raises Malformed."""
    if (head.kind is Kind.READY) != (head.number == 0) or head.number < 0:
        raise Malformed(f"{head.kind.name} came as message {head.number}")
    if head.kind is Kind.READY and not 0 <= head.real <= _LONGEST_ITERATION_S:
        raise Malformed(f"no iteration takes {head.real} s")
