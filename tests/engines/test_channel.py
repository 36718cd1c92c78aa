"""Messages between two processes: whole, in order, and a dead peer is seen."""

import math
import os
from collections.abc import Iterator

import pytest

from dssp_bench.engines.local.channel import Channel, Kind, Message, channel_of, channel_pair, file_channel_pair

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = channel_pair()
    yield here, there
    here.close()
    there.close()


def test_a_message_arrives_as_it_was_sent(pair: Pair) -> None:
    here, there = pair
    assert here.send(Kind.PUSH, -(2**62), -1.5, b"\x00body")
    assert there.receive() == Message(Kind.PUSH, -(2**62), -1.5, b"\x00body")


def test_messages_stay_whole_and_in_order(pair: Pair) -> None:
    here, there = pair
    for number in range(20):
        here.send(Kind.SNAPSHOT, number, body=bytes(number))
    assert [len((there.receive() or Message(Kind.GO)).body) for _ in range(20)] == list(range(20))


def test_a_loss_that_is_no_number_arrives_too(pair: Pair) -> None:
    here, there = pair
    here.send(Kind.PUSH, 1, math.nan)
    message = there.receive()
    assert message is not None
    assert math.isnan(message.real)
    here.send_json(Kind.EVALUATED, {"loss": math.nan, "accuracy": 0.5}, 3)
    message = there.receive()
    assert message is not None
    assert message.number == 3
    assert math.isnan(message.json()["loss"])


def test_both_ends_talk(pair: Pair) -> None:
    here, there = pair
    there.send(Kind.READY)
    assert here.receive() == Message(Kind.READY)


@pytest.mark.parametrize("unread", [False, True])
def test_a_last_message_can_be_seen_without_receiving_it(pair: Pair, unread: bool) -> None:
    here, there = pair
    assert not there.has_message()
    here.send(Kind.STOP)
    if unread:
        there.send(Kind.PUSH)
    here.close()
    assert there.has_ended()
    assert there.has_message()
    assert there.has_message()
    assert there.receive() == Message(Kind.STOP)
    assert not there.has_message()


def test_a_peer_that_is_gone_is_seen_after_its_last_message(pair: Pair) -> None:
    here, there = pair
    here.send(Kind.FAILED, body=b"why")
    here.close()
    assert there.receive() == Message(Kind.FAILED, body=b"why")
    assert there.receive() is None
    assert there.receive() is None
    assert not there.send(Kind.GO)


def test_a_peer_that_left_messages_unread_is_gone_too(pair: Pair) -> None:
    here, there = pair
    there.send(Kind.GO)
    there.close()
    assert here.receive() == Message(Kind.GO)
    assert here.receive() is None


def test_a_peer_that_leaves_without_reading_is_gone_as_any_other(pair: Pair) -> None:
    here, there = pair
    here.send(Kind.GO)
    there.close()  # the system reports a reset
    assert here.receive() is None


@pytest.mark.parametrize("character", ["x", "ä", "漢", "🦆"])
def test_of_a_text_too_long_for_a_message_the_end_arrives(pair: Pair, character: str) -> None:
    here, there = pair
    assert here.send_text(Kind.FAILED, character * 100_000 + "the cause")
    message = there.receive()
    assert message is not None
    assert message.text().endswith(character + "the cause")


def test_a_text_that_cannot_be_encoded_arrives_all_the_same(pair: Pair) -> None:
    here, there = pair
    here.send_text(Kind.FAILED, "a file called \udcff")
    assert (there.receive() or Message(Kind.GO)).text() == "a file called ?"


def test_a_peer_that_does_not_read_has_no_room_after_a_while(pair: Pair) -> None:
    here, there = pair
    sent = 0
    while here.has_room():
        here.send(Kind.EVALUATED, body=bytes(1000))
        sent += 1
        assert sent < 10_000
    assert sent > 10
    for _ in range(sent):
        there.receive()
    assert here.has_room()
    there.close()
    assert here.has_room()  # for a message that nobody will read, so nobody waits
    assert not here.send(Kind.EVALUATED)


def test_whether_there_is_news_is_known_without_receiving_it(pair: Pair) -> None:
    here, there = pair
    assert not there.has_news(within_s=0)
    here.send(Kind.READY)
    assert there.has_news(within_s=60)
    assert there.receive() == Message(Kind.READY)
    here.close()
    assert there.has_news(within_s=60), "the end of the channel is news"
    assert there.receive() is None


def test_a_message_may_bring_a_channel_and_a_file() -> None:
    here, there = file_channel_pair()
    mine, theirs = channel_pair()
    file = os.memfd_create("test")
    os.write(file, b"memory")
    assert here.send_files(Kind.REPLACEMENT, {"former": 1}, 7, [theirs.fileno(), file])
    theirs.close()
    message = there.receive()
    assert message is not None
    assert (message.kind, message.number, message.json()) == (Kind.REPLACEMENT, 7, {"former": 1})
    channel, arrived = channel_of(there.files[0]), there.files[1]
    mine.send(Kind.GO, 5)
    assert channel.receive() == Message(Kind.GO, 5)
    assert os.pread(arrived, 10, 0) == b"memory"
    here.send(Kind.STOP)
    assert there.receive() == Message(Kind.STOP)
    assert there.files == []
    for end in (here, mine, channel):
        end.close()
    assert there.receive() is None
    there.close()
    os.close(file)
    os.close(arrived)


def test_files_for_a_peer_that_is_gone_stay_here() -> None:
    here, there = file_channel_pair()
    there.close()
    assert not here.send_files(Kind.REPLACEMENT, {}, 7, [0])
    here.close()
