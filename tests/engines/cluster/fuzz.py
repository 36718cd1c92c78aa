"""Anything that can be sent, at any moment: to the decoder, to a courier, a gateway, a shard's envoy, and a client.

    python -m tests.engines.cluster.fuzz --frames 1000000     # so many, from seeds of their own
    python -m tests.engines.cluster.fuzz SEED                 # plays one seed again

What must hold: a header is decoded to what it says, or refused. A courier takes each message once and in order, when
its worker may send it, and whole; while the server may read the slot nothing touches it; answers that are asked for
again are the same; whatever else comes breaks the connection, or ends the worker's part. A gateway lets nobody in who
does not say who it is. An envoy passes on what a shard may say, whole, and a client computes on the weights of a
release, once; whatever else comes ends the shard, or breaks the connection. Nothing hangs, nothing is raised where
nobody would see it, and no memory is taken for what was not sent.
"""

import argparse
import fcntl
import json
import logging
import math
import resource
import socket
import sys
import termios
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from random import Random, SystemRandom
from typing import Any, NamedTuple

from dssp_bench.engines.cluster.courier import COMPUTED, LONGEST_TEXT, Courier
from dssp_bench.engines.cluster.wire import Head, Kind, Malformed, Sizes, Wire, at_most, exactly, head_of
from dssp_bench.engines.local import channel as local
from tests.engines.cluster.frames import HEADER, MAGIC, ODD_NUMBERS, ODD_REALS, framed, may_come, worse
from tests.engines.cluster.fuzz_peers import to_clients, to_envoys
from tests.engines.cluster.parties import (
    DEADLINE_S,
    HOST,
    KEY,
    STATISTICS,
    Entrance,
    NothingLeft,
    Station,
    rest,
    wait_for,
)

HEADERS, TO_A_COURIER, TO_A_GATEWAY, TO_AN_ENVOY, TO_A_CLIENT = 1680, 220, 10, 60, 30
"""How many frames of one seed go where."""
FRAMES = HEADERS + TO_A_COURIER + TO_A_GATEWAY + TO_AN_ENVOY + TO_A_CLIENT
MOST_MEMORY = 4 << 20
"""How many bytes a courier and a gateway may take at the same time; their slots are small."""
MOST_GROWTH_KIB = 64 << 10
"""By how much the process may have grown in the end."""
_EVERY = 10
"""One seed of so many is played while all memory that is taken is counted, which takes its time."""

_PARAMETERS = 20
_SLOT = 4 * (_PARAMETERS + STATISTICS)
_FROM_WORKER: Sizes = {
    Kind.READY: exactly(0),
    Kind.PUSH: exactly(COMPUTED.size + _SLOT),
    Kind.NOT_FINITE: exactly(COMPUTED.size),
    Kind.FAILED: at_most(LONGEST_TEXT),
}
_FROM_SERVER: Sizes = {Kind.WELCOME: at_most(1000), Kind.GO: exactly(4 * _PARAMETERS), Kind.STOP: exactly(0)}
_OF_SHARDS: Sizes = {
    Kind.RECEIVED: exactly(0),
    Kind.SHARD: at_most(4096),
    Kind.WEIGHTS: exactly(4 * _PARAMETERS),
    Kind.ORDER: at_most(1 << 17),
    Kind.REPORT: at_most(1 << 17),
}
_ALLOWED: list[Sizes] = [_FROM_WORKER, _FROM_SERVER, _OF_SHARDS, {Kind.HELLO: at_most(4096)}, {}]


class FuzzFailedError(AssertionError):
    """Something that was sent did what it must not; the message says how to send it again."""


def play(seed: int) -> Counter[str]:
    """Send all frames of one seed; returns what became of them. Raises FuzzFailedError."""
    random = Random(seed)
    crashes: list[str] = []
    before, threading.excepthook = threading.excepthook, lambda args: crashes.append(repr(args.exc_value))
    counted = seed % _EVERY == 0 and not tracemalloc.is_tracing()
    counts: Counter[str] = Counter()
    try:
        _to_the_decoder(random, counts)
        if counted:
            tracemalloc.start()
        _to_couriers(random, counts)
        _to_a_gateway(random, counts)
        to_envoys(random, counts, TO_AN_ENVOY)
        to_clients(random, counts, TO_A_CLIENT)
        if counted:
            taken = tracemalloc.get_traced_memory()[1]
            assert taken < MOST_MEMORY, f"{taken} bytes were taken at the same time"
            counts["seeds whose memory was counted"] += 1
        assert not crashes, crashes
    except Exception as error:
        raise FuzzFailedError(
            f"{type(error).__name__}: {error}{''.join(crashes)}\n"
            f"  play it again with: python -m tests.engines.cluster.fuzz {seed}"
        ) from error
    finally:
        if counted:
            tracemalloc.stop()
        threading.excepthook = before
    return counts


# --- to the decoder ---


def _to_the_decoder(random: Random, counts: Counter[str]) -> None:
    for _ in range(HEADERS):
        allowed = random.choice(_ALLOWED)
        size = random.choice([0, 1, 8, 4 * _PARAMETERS, 8 + _SLOT, 4096, LONGEST_TEXT])
        header = HEADER.pack(MAGIC, random.randrange(1, 16), random.randrange(100), random.random(), size)
        if random.random() < 0.8:
            header = worse(random, header).ljust(HEADER.size, b"\0")[: HEADER.size]
        try:
            head = head_of(header, allowed)
        except Malformed:
            counts["headers refused"] += 1
            assert not may_come(header, allowed), f"refused: {header.hex()}"
        else:
            counts["headers understood"] += 1
            assert may_come(header, allowed), f"let pass: {header.hex()}"
            assert HEADER.pack(MAGIC, *head)[16:] == header[16:] or math.isnan(head.real), f"wrong: {header.hex()}"


# --- to a courier ---


class _Effect(NamedTuple):
    """What must follow from a part of what was sent."""

    what: str
    head: Head | None = None
    body: bytes = b""


class _Game:
    """One courier, of which all is known that it may do: `taken`, and whether that is `answered`, decide.

    Nobody sends or decides before all that was sent until then is taken in, so one seed is one story.
    """

    def __init__(self, random: Random, counts: Counter[str]) -> None:
        self._random = random
        self._counts = counts
        self._station = Station(parameters=_PARAMETERS)
        self._ended = threading.Event()
        self._courier = Courier(self._station.seat, {}, DEADLINE_S, lambda _: self._ended.set())
        self._bare: socket.socket | None = None
        self._there: socket.socket | None = None
        self._taken = -1
        self._answered = False
        self._answer_waits = False
        """Whether the server decided while there was no connection."""
        self._slot: bytes | None = None
        """What the server may read now."""
        self._weights = b""
        self.over = False

    def end(self) -> None:
        """It is over, and the server must not have heard more than was expected."""
        self._courier.give_up()
        assert self.over or self._station.hear() is None, "the server heard more than was sent"

    def close(self) -> None:
        """End it, whatever happened."""
        self._courier.give_up()
        self._courier.join(DEADLINE_S)
        self._station.close()
        if self._bare:
            self._bare.close()
        assert self._ended.is_set(), "it does not end"

    def turn(self) -> None:
        """Something happens, and has the effects that it must have, and no others."""
        random = self._random
        if self._is_held() and random.random() < 0.3:
            self._answer()
        if self._bare is None or random.random() < 0.02:
            self._connect()
        if self._is_held() and random.random() < 0.4:
            self._answer()
        self._send(self._stream())

    def _is_held(self) -> bool:
        return self._taken >= 0 and not self._answered

    # --- the worker ---

    def _connect(self) -> None:
        """A new connection, also if there is one."""
        former = self._bare
        with socket.create_server((HOST, 0)) as listener:
            self._bare = socket.create_connection(listener.getsockname(), DEADLINE_S)
            self._there, _ = listener.accept()
        self._bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # so that what is sent is there
        latest = self._random.choice([None, self._taken, self._taken, self._taken + 1, -1, 0, 1 << 80])
        assert self._courier.attach(Wire(self._there), latest)
        if former:
            assert rest(former) == b"", "something came over a connection that was replaced"
            former.close()
        kind, _, size = self._header()
        assert kind == Kind.WELCOME
        assert json.loads(self._read(size))["taken"] == self._taken
        if self._answer_waits or (latest == self._taken and self._answered):
            self._expect_answer()
        self._answer_waits = False
        self._counts["connections"] += 1

    def _stream(self) -> bytes:
        """What the worker says next: what it should, what it could, or anything."""
        random = self._random
        number = self._taken + (not self._is_held())
        if random.random() < 0.15:
            number = random.choice([self._taken, self._taken - 1, self._taken + 2, *ODD_NUMBERS, 0, 1])
        computed = random.choice([0, 1, 10**9, (1 << 63) - 1] + [-1, -(1 << 63)] * (random.random() < 0.1))
        push = COMPUTED.pack(computed) + random.randbytes(_SLOT)
        frame = framed(Kind.READY, number)
        if number and random.random() < 0.97:
            frame = framed(Kind.PUSH, number, random.choice([0.5, *ODD_REALS]), push)
            if random.random() < 0.2:
                frame = framed(Kind.NOT_FINITE, number, math.nan, push[: COMPUTED.size])
        if random.random() < 0.01:
            text = random.choice([b"", b"why", b"\xff" * 9, b"x" * LONGEST_TEXT])
            frame = framed(Kind.FAILED, number, body=text)
        if random.random() < 0.25:
            frame = worse(random, frame)
        if random.random() < 0.05:
            frame += self._stream()
        return frame

    def _send(self, stream: bytes) -> None:
        """Send it, and see that all that must follow does."""
        assert self._bare is not None
        effects = list(self._effects(stream))
        last = effects[-1].what if effects else ""
        try:
            self._bare.sendall(stream)
            if last == "cut":
                self._bare.shutdown(socket.SHUT_WR)
        except OSError:
            assert last in ("refused", "given up", "failed"), f"the connection broke, and it was {last}"
        for effect in effects:
            self._counts[f"{effect.what} by a courier"] += 1
            if effect.what == "taken":
                self._expect_taken(effect)
            elif effect.what == "repeated":
                self._expect_answer()
            elif effect.what == "failed":
                message = self._station.expect(local.Kind.FAILED)
                assert message.body == effect.body.decode(errors="replace").encode()[-LONGEST_TEXT:]
        if last in ("refused", "cut", "given up", "failed"):
            assert rest(self._bare) == b"", "something came that nobody asked for"
            self._bare.close()
            self._bare = self._there = None
        else:
            wait_for(self._all_is_read, "it hangs")
        if last in ("given up", "failed"):
            assert self._station.hear() is None, "the server heard something from a worker that was given up"
            self.over = True
        assert self._slot in (None, self._slot_now()), "the slot was changed while the server may read it"

    def _effects(self, stream: bytes) -> Iterator[_Effect]:
        """What must follow, part by part; the last may be that the connection breaks."""
        taken, answered = self._taken, self._answered
        while stream:
            header, rest = stream[: HEADER.size], stream[HEADER.size :]
            if len(header) < HEADER.size:
                yield _Effect("cut")
                return
            if not may_come(header, _FROM_WORKER):
                yield _Effect("refused")
                return
            _, code, number, real, size = HEADER.unpack(header)
            head, body, stream = Head(Kind(code), number, real, size), rest[:size], rest[size:]
            failed = head.kind is Kind.FAILED
            begins = head.kind is Kind.READY
            if not failed and (number < 0 or begins != (number == 0) or (begins and not 0 <= real <= 1e9)):
                yield _Effect("refused")
                return
            if len(body) < size:
                yield _Effect("cut")
                return
            if failed:
                yield _Effect("failed", head, body)
                return
            if number == taken + 1 and (answered or taken < 0):
                if not begins and COMPUTED.unpack_from(body)[0] < 0:
                    yield _Effect("refused")
                    return
                taken, answered = number, False
                yield _Effect("taken", head, body)
            elif number > taken:
                yield _Effect("given up" if taken >= 0 else "refused")
                return
            else:
                yield _Effect("repeated" if number == taken and answered else "ignored")

    def _all_is_read(self) -> bool:
        assert self._there is not None
        waiting = bytearray(4)
        try:
            fcntl.ioctl(self._there, termios.FIONREAD, waiting)
        except (OSError, ValueError) as error:
            raise AssertionError("the connection was closed") from error
        return not any(waiting)

    # --- the server ---

    def _expect_taken(self, effect: _Effect) -> None:
        head = effect.head
        assert head is not None
        message = self._station.expect(local.Kind[head.kind.name])
        assert message.real == head.real or math.isnan(head.real)
        if head.kind is Kind.READY:
            assert message.number == 0, "it is no process of this machine"
        else:
            assert message.number == COMPUTED.unpack_from(effect.body)[0]
        if head.kind is Kind.PUSH:
            assert self._slot_now() == effect.body[COMPUTED.size :], "the slot is torn"
        self._taken, self._answered = head.number, False
        self._slot = self._slot_now()
        self._station.weights.fill_(math.nan)

    def _answer(self) -> None:
        """The server lets the worker go on; from now on it does not read the slot."""
        version = float(self._random.randrange(1 << 20))
        self._slot, self._answered = None, True
        self._station.release(version)
        self._weights = self._station.weights.numpy().tobytes()
        if self._bare:
            self._expect_answer()
        self._answer_waits = self._bare is None

    def _expect_answer(self) -> None:
        kind, number, size = self._header()
        assert (kind, number) == (Kind.GO, self._taken)
        assert self._read(size) == self._weights, "these are not the weights of the release"

    def _header(self) -> tuple[int, int, int]:
        _, kind, number, _, size = HEADER.unpack(self._read(HEADER.size))
        return kind, number, size

    def _read(self, size: int) -> bytes:
        assert self._bare is not None
        content = b""
        while len(content) < size:
            part = self._bare.recv(size - len(content))
            assert part, "the connection was closed"
            content += part
        return content

    def _slot_now(self) -> bytes:
        return self._station.gradient.numpy().tobytes() + self._station.statistics.numpy().tobytes()


def _to_couriers(random: Random, counts: Counter[str]) -> None:
    sent = 0
    while sent < TO_A_COURIER:
        with closing(_Game(random, counts)) as game:
            while sent < TO_A_COURIER and not game.over:
                game.turn()
                sent += 1
            game.end()


# --- to a gateway ---

_SESSION = "the session of the only worker"
_ENOUGH = {"session": _SESSION, "place": 0}


def _to_a_gateway(random: Random, counts: Counter[str]) -> None:
    station = Station(parameters=_PARAMETERS)
    gateway = Entrance()
    gateway.expect(station.seat)
    gateway.open()
    try:
        for _ in range(TO_A_GATEWAY):
            _knock(random, gateway.port, counts)
        assert gateway.missing == [0], "somebody was let in"
        assert station.hears_nothing()
    finally:
        gateway.close()
        station.close()


def _knock(random: Random, port: int, counts: Counter[str]) -> None:
    with socket.create_connection((HOST, port), DEADLINE_S) as bare:
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if random.random() < 0.3:
            said = random.randbytes(random.choice([0, 1, 63, 64, 65, 1000]))
            counts["handshakes refused"] += 1
        else:
            Wire(bare).introduce(KEY, DEADLINE_S)
            bare.settimeout(DEADLINE_S)
            said = _wrong_hello(random)
            counts["hellos refused"] += 1
        with suppress(OSError):  # it is refused already
            bare.sendall(said)
            bare.shutdown(socket.SHUT_WR)
        told = rest(bare)
        assert len(told) <= len(MAGIC) + 32, f"it was told {told!r}"


def _wrong_hello(random: Random) -> bytes:
    deep = random.randrange(1, 2000)
    body = random.choice(
        [
            b"[" * deep, b'{"session":' * (deep // 3), b"9" * deep, b"\xff" * deep, random.randbytes(deep), b"",
            json.dumps(_ENOUGH | {"place": random.choice([-1, 0.0, "0", True, [], {}, 1e999])}).encode(),
            json.dumps(_ENOUGH | {"session": random.choice(["", "x" * 65, None, 5, [_SESSION]])}).encode(),
            json.dumps(_ENOUGH | {"latest": random.choice([-2, 0.5, "0", True])}).encode(),
            json.dumps(_ENOUGH | {random.choice(["key", "Session", ""]): 0}).encode(),
        ]
    )  # fmt: skip
    if random.random() < 0.3:
        kind = random.choice([kind for kind in Kind if kind is not Kind.HELLO])
        return framed(kind, body=json.dumps(_ENOUGH).encode())
    frame = framed(Kind.HELLO, body=body)
    return frame[: random.randrange(len(frame))] if random.random() < 0.1 else frame


# --- the command ---


def fuzz(seeds: Sequence[int]) -> int:
    """Play these seeds, and say what became of all; returns the exit code."""
    counts: Counter[str] = Counter()
    failed, grown_from, began = 0, 0, time.monotonic()
    with NothingLeft():
        for played, seed in enumerate(seeds):
            try:
                counts += play(seed)
            except FuzzFailedError as error:
                failed += 1
                print(f"FAILED {seed}: {error}", flush=True)
            if played == 2 * _EVERY:
                grown_from = _most_memory()
    grown = _most_memory() - grown_from if grown_from else 0
    for name, count in sorted(counts.items()):
        print(f"{count:12,} {name}")
    print(
        f"{len(seeds) * FRAMES:,} frames, {len(seeds) * TO_A_COURIER:,} of them to couriers, in "
        f"{time.monotonic() - began:.0f} s; {failed} seeds failed; the process grew by {grown} KiB"
    )
    return 1 if failed or grown > MOST_GROWTH_KIB else 0


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, and play."""
    parser = argparse.ArgumentParser(description="Sends anything at any moment.")
    parser.add_argument("seeds", type=int, nargs="*", metavar="SEED", help="to be played again")
    parser.add_argument("--frames", type=int, default=100_000, help="how many, if no seed is given (default: 100000)")
    parser.add_argument("--first-seed", type=int, default=None, help="where to begin (default: anywhere)")
    options: Any = parser.parse_args(arguments)
    first = SystemRandom().randrange(10**12) if options.first_seed is None else options.first_seed
    seeds = options.seeds or range(first, first + math.ceil(options.frames / FRAMES))
    print(f"seeds {seeds[0]} to {seeds[-1]}", flush=True)
    return fuzz(seeds)


if __name__ == "__main__":
    logging.getLogger("dssp_bench").setLevel(logging.ERROR)  # it warns of every worker that is given up
    sys.exit(main())
