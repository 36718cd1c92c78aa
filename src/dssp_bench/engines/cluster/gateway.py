"""Where workers from other machines come in: one listening port, and a courier for each of them."""

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster.courier import Courier, Seat
from dssp_bench.engines.cluster.wire import Kind, Sizes, Wire, at_most

_LONGEST_HELLO = 4096
_HELLO: Sizes = {Kind.HELLO: at_most(_LONGEST_HELLO)}
_HANDSHAKE_S = 2.0
_HELLO_S = 5.0
_MOST_GREETINGS = 64
_RETURN_S = 10.0
_FAREWELL_S = 2.0
_ASK_EVERY_S = 1.0
_log = logging.getLogger(__name__)


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free. Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_MOST_GREETINGS)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            problem = f"{port} cannot be listened at: {why}"
            raise ConfigurationError("engine.port", problem, "0 takes any that is free") from error
        problem = f"{host} is not an address of this machine: {why}"
        raise ConfigurationError("engine.host", problem, "auto finds one") from error


class Hello(BaseModel):
    """Who comes: a worker that wants a place (any, if it names none), or one whose connection broke, in its session.

    The worker names its session itself, so that it is known again if it never heard that it was let in. `latest` is the
    number of its latest message, -1 if it has said nothing in its place yet; one that has no place says none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    session: Annotated[str, Field(min_length=16, max_length=64)]
    place: Annotated[int, Field(ge=0)] | None = None
    latest: Annotated[int, Field(ge=-1)] | None = None


class Gateway:
    """Lets workers in at a listener, refuses who does not know the key, and brings workers and couriers together.

    `welcome` is what every worker is told, as JSON. `on_return` is called, in a thread, with a place whose worker had
    been given up when somebody wants to take it; if the run can use it, a worker will be expected there soon.
    `on_end` is called with the worker and its place when a courier has nothing more to carry.
    """

    def __init__(
        self,
        listener: socket.socket,
        key: bytes,
        welcome: dict[str, Any],
        reconnect_s: float,
        on_return: Callable[[WorkerId], None],
        on_end: Callable[[WorkerId, WorkerId], None] = lambda _worker, _place: None,
    ) -> None:
        self._key = key
        self._welcome = {**welcome, "shards": []}
        self._reconnect_s = reconnect_s
        self._on_return = on_return
        self._on_end = on_end
        self._couriers: dict[WorkerId, Courier] = {}
        self._news = threading.Condition()
        self._closed = False
        self._places: set[WorkerId] = set()
        self._greeted: set[Wire] = set()
        self._greetings = threading.BoundedSemaphore(_MOST_GREETINGS)
        self._listener = listener

    def open(self, shards: Sequence[tuple[str, int]] = ()) -> None:
        """Begin to let workers in; those who knocked before have waited. They are told where the server's shards are.

        A shard without a host is on this machine.
        """
        self._welcome["shards"] = list(shards)
        threading.Thread(target=self._listen, name="gateway", daemon=True).start()

    def expect(self, seat: Seat) -> None:
        """Let a worker come that takes this seat; whoever was at its place is lost, and ends before that."""
        with self._news:
            former = [courier for courier in self._couriers.values() if courier.place == seat.place]
        for courier in former:
            courier.give_up()
            courier.join(1.0)
        with self._news:
            self._places.add(seat.place)
            self._couriers[seat.worker] = Courier(seat, self._welcome, self._reconnect_s, self._ended)
            self._news.notify_all()

    def give_up(self, place: WorkerId, why: str = "") -> None:
        """The worker at this place is known to be dead: do not wait for it to come, or to come back.

        Who has never been here is given up if it is known why. That ends the run, unless it was to replace somebody,
        who could be lost too.
        """
        with self._news:
            couriers = [courier for courier in self._couriers.values() if courier.place == place]
        for courier in couriers:
            if courier.session:
                courier.give_up()
            elif why:
                _log.warning("worker %d died before it came: %s", courier.worker, why)
                courier.give_up(why if courier.worker == place else "")

    @property
    def missing(self) -> list[WorkerId]:
        """The places for which nobody has come."""
        with self._news:
            return sorted(courier.place for courier in self._couriers.values() if courier.session is None)

    def close(self) -> None:
        """Let nobody in any more, and break all connections."""
        with self._news:
            self._closed = True
            couriers = list(self._couriers.values())
            for wire in self._greeted:
                wire.hang_up()
            self._news.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # which wakes who accepts
        self._listener.close()
        deadline = time.monotonic() + _FAREWELL_S
        for courier in couriers:
            if courier.is_connected:  # its worker may be about to push, and hears afterwards that it is over
                courier.join(max(0.0, deadline - time.monotonic()))
        for courier in couriers:
            courier.give_up()
        for courier in couriers:
            courier.join(1.0)

    # --- who comes ---

    def _listen(self) -> None:
        while True:
            self._greetings.acquire()  # the others wait in the system's queue, which is short
            try:
                end, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                self._greetings.release()
                time.sleep(0.1)  # such as too many open files, which passes
                continue
            threading.Thread(target=self._receive, args=(end,), daemon=True).start()

    def _receive(self, end: socket.socket) -> None:
        try:
            wire = Wire(end)
        except OSError:
            end.close()
            self._greetings.release()
            return
        with self._news:
            self._greeted.add(wire)
            if self._closed:
                wire.hang_up()
        handed_over = False
        try:
            handed_over = self._introduce(wire, self._greet(wire))
        except (OSError, ValidationError) as error:
            _log.debug("a connection was refused: %s", error)
        finally:
            with self._news:
                self._greeted.discard(wire)
            if not handed_over:
                wire.close()
            self._greetings.release()

    def _greet(self, wire: Wire) -> Hello:
        wire.admit(self._key, _HANDSHAKE_S)
        with wire.within(_HELLO_S):
            return Hello.model_validate(wire.receive_json(wire.receive(_HELLO)))

    def _introduce(self, wire: Wire, hello: Hello) -> bool:
        """Bring the worker to its courier, or tell it why not; False if the connection is of no more use."""
        with self._news:
            courier = self._in_session(hello.session)
            why = "it was given up"
            if courier is None and hello.latest is None:
                courier, why = self._for_place(hello.session, hello.place)
        if courier is None:
            wire.send_json(Kind.REFUSED, why)
            return False
        return courier.attach(wire, hello.latest)

    def _in_session(self, session: str) -> Courier | None:
        return next((courier for courier in self._couriers.values() if courier.session == session), None)

    def _for_place(self, session: str, place: WorkerId | None) -> tuple[Courier | None, str]:
        courier = self._claim(session, place)
        if courier is None and (vacant := self._vacant(place)) is not None:
            self._wait_for(vacant)
            courier = self._in_session(session) or self._claim(session, vacant)  # it may have asked twice
        if courier is not None:
            return courier, ""
        if place is not None and place not in self._places:
            return None, f"there is no place {place}; there are {', '.join(map(str, sorted(self._places)))}"
        return None, "all places are taken" if place is None else f"place {place} is taken"

    def _wait_for(self, vacant: WorkerId) -> None:
        """Until somebody is expected there; asked again, as the server may learn only now that it lost its worker."""
        for _ in range(round(_RETURN_S / _ASK_EVERY_S)):
            self._on_return(vacant)
            if self._news.wait_for(lambda: self._closed or vacant not in self._vacancies(), _ASK_EVERY_S):
                return

    def _claim(self, session: str, place: WorkerId | None) -> Courier | None:
        for courier in self._couriers.values():
            if courier.session is None and place in (None, courier.place):
                courier.session = session
                return courier
        return None

    def _vacant(self, place: WorkerId | None) -> WorkerId | None:
        vacancies = self._vacancies()
        if place is None:
            return min(vacancies, default=None)
        return place if place in vacancies else None

    def _vacancies(self) -> set[WorkerId]:
        return self._places - {courier.place for courier in self._couriers.values()}

    def _ended(self, courier: Courier) -> None:
        with self._news:
            self._couriers.pop(courier.worker, None)
        self._on_end(courier.worker, courier.place)
