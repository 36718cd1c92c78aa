"""One connection: who is let in, and what a frame may be."""

import hmac
import json
import math
import socket
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
import torch

from dssp_bench.engines.cluster.wire import Head, Kind, Malformed, Sizes, Wire, at_most, exactly, head_of, raw
from tests.engines.cluster.parties import DEADLINE_S, HOST, KEY

OTHER_KEY = bytes(32)
SHORT_S = 0.05
MAGIC, NONCE, PROOF = 8, 32, 32
ANYTHING: Sizes = dict.fromkeys(Kind, at_most(100))
Pair = tuple[Wire, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A wire, and the bare socket at its other end."""
    with socket.create_server((HOST, 0)) as listener:
        bare = socket.create_connection(listener.getsockname())
        end, _ = listener.accept()
    bare.settimeout(DEADLINE_S)
    wire = Wire(end)
    yield wire, bare
    wire.close()
    bare.close()


def in_thread(call: Callable[[], object]) -> Callable[[], BaseException | None]:
    """Call it in a thread; gives what waits for it, and says what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def outcome() -> BaseException | None:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "it still waits"
        return raised[0] if raised else None

    return outcome


def read(bare: socket.socket, size: int) -> bytes:
    return bare.recv(size, socket.MSG_WAITALL)


def header(
    code: int = Kind.PUSH, number: int = 1, real: float = 0.5, size: int = 0, magic: bytes = b"dsspb\0\0\1"
) -> bytes:
    return struct.pack("<8sB7xqdQ", magic, code, number, real, size)


# --- the handshake ---


def test_who_knows_the_key_is_let_in_and_both_can_talk(pair: Pair) -> None:
    server, bare = pair
    worker = Wire(bare)
    introduced = in_thread(lambda: worker.introduce(KEY, DEADLINE_S))
    server.admit(KEY, DEADLINE_S)
    assert introduced() is None
    worker.send(Kind.PUSH, 3, 0.5, [b"ab", b"c"])
    head = server.receive(ANYTHING)
    assert (head, server.receive_bytes(head)) == (Head(Kind.PUSH, 3, 0.5, 3), b"abc")
    server.send_json(Kind.WELCOME, {"worker": 1})
    assert worker.receive_json(worker.receive(ANYTHING)) == {"worker": 1}


def test_a_worker_with_another_key_is_refused_and_told_what_may_be_wrong(pair: Pair) -> None:
    server, bare = pair
    introduced = in_thread(lambda: Wire(bare).introduce(OTHER_KEY, DEADLINE_S))
    with pytest.raises(Malformed, match="the peer does not know the key"):
        server.admit(KEY, DEADLINE_S)
    server.close()
    assert "another key" in str(introduced())


def test_a_server_with_another_key_is_not_trusted(pair: Pair) -> None:
    worker, bare = pair
    introduced = in_thread(lambda: worker.introduce(KEY, DEADLINE_S))
    challenge = bytes(NONCE)
    bare.sendall(b"dsspb\0\0\1" + challenge)
    answer = read(bare, NONCE + PROOF)
    theirs = answer[:NONCE]
    bare.sendall(hmac.digest(OTHER_KEY, b"server" + b"dsspb\0\0\1" + theirs + challenge, "sha256"))
    assert str(introduced()) == "the server does not know the key"


def test_a_proof_sent_back_to_who_made_it_proves_nothing(pair: Pair) -> None:
    worker, bare = pair
    introduced = in_thread(lambda: worker.introduce(KEY, DEADLINE_S))
    bare.sendall(b"dsspb\0\0\1" + bytes(NONCE))
    bare.sendall(read(bare, NONCE + PROOF)[NONCE:])
    assert str(introduced()) == "the server does not know the key"


def test_a_challenge_sent_back_is_no_answer(pair: Pair) -> None:
    server, bare = pair
    admitted = in_thread(lambda: server.admit(KEY, DEADLINE_S))
    ours = read(bare, MAGIC + NONCE)[MAGIC:]
    bare.sendall(ours + hmac.digest(KEY, b"server" + b"dsspb\0\0\1" + ours + ours, "sha256"))  # right but for its role
    assert str(admitted()) == "the peer does not know the key"


def test_a_proof_of_yesterday_is_worth_nothing_today() -> None:
    def meet(answer: bytes) -> tuple[bytes, BaseException | None]:
        with socket.create_server((HOST, 0)) as listener:
            bare = socket.create_connection(listener.getsockname())
            end, _ = listener.accept()
        server = Wire(end)
        admitted = in_thread(lambda: server.admit(KEY, DEADLINE_S))
        ours = read(bare, MAGIC + NONCE)[MAGIC:]
        theirs = bytes(NONCE)
        sent = answer or theirs + hmac.digest(KEY, b"worker" + b"dsspb\0\0\1" + ours + theirs, "sha256")
        bare.sendall(sent)
        outcome = admitted()
        server.close()
        bare.close()
        return sent, outcome

    recorded, outcome = meet(b"")
    assert outcome is None
    assert str(meet(recorded)[1]) == "the peer does not know the key"


@pytest.mark.parametrize("said", [b"", b"half an answer"], ids=["silence", "half an answer"])
def test_a_worker_that_says_too_little_is_refused_when_its_time_is_over(pair: Pair, said: bytes) -> None:
    server, bare = pair
    bare.sendall(said)
    with pytest.raises(TimeoutError):
        server.admit(KEY, SHORT_S)


@pytest.mark.parametrize("said", [b"", b"dsspb\0\0\1 and half"], ids=["silence", "half a challenge"])
def test_a_server_that_says_too_little_is_left_when_its_time_is_over(pair: Pair, said: bytes) -> None:
    worker, bare = pair
    bare.sendall(said)
    with pytest.raises(TimeoutError):
        worker.introduce(KEY, SHORT_S)


def test_a_byte_now_and_then_does_not_buy_more_time(pair: Pair) -> None:
    server, bare = pair
    admitted = in_thread(lambda: server.admit(KEY, 3 * SHORT_S))
    over = threading.Event()

    def dribble() -> None:
        for _ in range(NONCE + PROOF - 1):
            bare.sendall(b"x")
            if over.wait(SHORT_S):
                return

    dribbling = in_thread(dribble)
    assert isinstance(admitted(), TimeoutError)
    over.set()
    assert dribbling() is None


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\nServer: another\r\n\r\n",
        b"dsspb\0\0\2" + bytes(NONCE),
        b"SSH-2.0-OpenSSH_9.9" + bytes(40),
    ],
    ids=["a web server", "another version", "a shell"],
)
def test_a_worker_leaves_who_is_no_server_of_this_version(pair: Pair, greeting: bytes) -> None:
    worker, bare = pair
    bare.sendall(greeting)
    with pytest.raises(Malformed, match="no server of dssp-bench, or one of another version"):
        worker.introduce(KEY, DEADLINE_S)


def test_another_program_that_comes_is_refused(pair: Pair) -> None:
    server, bare = pair
    bare.sendall(b"GET / HTTP/1.1\r\nHost: example\r\nUser-Agent: a program that is not this one\r\n\r\n")
    with pytest.raises(Malformed, match="does not know the key"):
        server.admit(KEY, DEADLINE_S)


@pytest.mark.parametrize("after", [0, 1, NONCE, NONCE + PROOF - 1])
def test_who_goes_during_the_handshake_is_not_waited_for(pair: Pair, after: int) -> None:
    server, bare = pair
    bare.sendall(bytes(after))
    bare.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        server.admit(KEY, DEADLINE_S)


def test_after_the_handshake_there_is_no_hurry(pair: Pair) -> None:
    server, bare = pair
    worker = Wire(bare)
    introduced = in_thread(lambda: worker.introduce(KEY, DEADLINE_S))
    server.admit(KEY, DEADLINE_S)
    introduced()
    assert bare.gettimeout() is None
    with worker.within(DEADLINE_S):
        assert bare.gettimeout() == DEADLINE_S
    assert bare.gettimeout() is None


# --- frames ---


def test_a_header_is_what_was_sent() -> None:
    assert head_of(header(Kind.PUSH, -5, -0.5, 7), ANYTHING) == Head(Kind.PUSH, -5, -0.5, 7)
    assert math.isnan(head_of(header(real=math.nan), ANYTHING).real)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (header(magic=b"dsspb\0\0\2"), "no frame of dssp-bench, or of another version"),
        (header(magic=b"GET / HT"), "no frame of dssp-bench, or of another version"),
        (header(code=0), "no frame of dssp-bench, or of another version"),
        (header(code=255), "no frame of dssp-bench, or of another version"),
        (header(code=Kind.STOP), "STOP was not to come"),
        (header(size=3), "PUSH came with 3 bytes"),
        (header(size=2**64 - 1), f"PUSH came with {2**64 - 1} bytes"),
        (header(code=Kind.FAILED, size=101), "FAILED came with 101 bytes"),
    ],
)
def test_a_header_that_may_not_come_now_is_refused(frame: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        head_of(frame, {Kind.PUSH: exactly(4), Kind.FAILED: at_most(100)})


def test_a_size_is_refused_before_anything_is_made_for_it(pair: Pair) -> None:
    wire, bare = pair
    bare.sendall(header(size=2**40))
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            wire.receive(ANYTHING)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_what_is_let_pass_takes_no_more_memory_than_a_part_of_it(pair: Pair) -> None:
    wire, bare = pair
    size = 3 * 2**20 + 5
    sending = in_thread(lambda: bare.sendall(bytes(size) + b"end"))
    tracemalloc.start()
    try:
        wire.skip(size)
        assert tracemalloc.get_traced_memory()[1] < size + 2**20 + 100_000  # the sender's own bytes count, too
    finally:
        tracemalloc.stop()
    assert wire.receive_bytes(Head(Kind.FAILED, 0, 0.0, 3)) == b"end"
    assert sending() is None


def test_bytes_go_where_they_belong_however_they_arrive(pair: Pair) -> None:
    wire, bare = pair
    first, empty, second = torch.zeros(3), torch.zeros(0), torch.zeros(2)
    content = torch.arange(5, dtype=torch.float32).numpy().tobytes()

    def in_pieces() -> None:
        for byte in content:
            bare.sendall(bytes([byte]))

    sending = in_thread(in_pieces)
    wire.receive_into(raw([first, empty, second]))
    assert (first.tolist(), second.tolist()) == ([0, 1, 2], [3, 4])
    assert sending() is None


def test_a_peer_that_goes_in_the_middle_is_noticed(pair: Pair) -> None:
    wire, bare = pair
    bare.sendall(header()[:-1])
    bare.close()
    with pytest.raises(ConnectionResetError):
        wire.receive(ANYTHING)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b"[" * 4000, b'{"a":' * 700, b"9" * 5000, b"nul"],
    ids=["nothing", "half", "no text", "deep list", "deep mapping", "long number", "half a word"],
)
def test_what_is_no_json_is_malformed(pair: Pair, text: bytes) -> None:
    wire, bare = pair
    bare.sendall(text)
    with pytest.raises(Malformed, match="HELLO came without JSON"):
        wire.receive_json(Head(Kind.HELLO, 0, 0.0, len(text)))


def test_json_arrives_as_it_was_sent(pair: Pair) -> None:
    wire, bare = pair
    Wire(bare).send_json(Kind.WELCOME, {"sizes": [1, 0], "name": "ä"})
    head = wire.receive(ANYTHING)
    assert wire.receive_json(head) == json.loads('{"sizes": [1, 0], "name": "ä"}')


def test_who_hangs_up_wakes_who_waits_in_another_thread(pair: Pair) -> None:
    wire, _ = pair
    waiting = in_thread(lambda: wire.receive(ANYTHING))
    file = wire.fileno()
    wire.hang_up()
    assert isinstance(waiting(), ConnectionResetError)
    assert wire.fileno() == file, "its file must not become another's while somebody may wait for it"
    wire.close()
    assert wire.fileno() == -1
    wire.hang_up()  # which does nothing any more
