"""A few thousand frames of the fuzzer, and whether it would notice."""

from collections import Counter

import pytest

from dssp_bench.engines.cluster import courier
from dssp_bench.engines.delivery import Inbox, Ruling
from tests.engines.cluster import fuzz, parties
from tests.engines.cluster.parties import NothingLeft

SEEDS = range(3)
KINDS = [
    "taken by a courier", "repeated by a courier", "ignored by a courier", "refused by a courier", "cut by a courier",
    "given up by a courier", "failed by a courier", "connections", "headers refused", "headers understood",
    "handshakes refused", "hellos refused", "passed on by an envoy", "refused by an envoy", "computed by a client",
    "refused by a client", "skipped by a client", "seeds whose memory was counted",
]  # fmt: skip


def test_whatever_is_sent_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    with NothingLeft():
        assert fuzz.fuzz(SEEDS) == 0
    told = capsys.readouterr().out
    assert {kind for kind in KINDS if f" {kind}\n" not in told} == set()
    assert "0 seeds failed" in told


def test_a_seed_is_the_same_every_time() -> None:
    first = fuzz.play(1)
    assert fuzz.play(1) == first
    assert first.total() > fuzz.FRAMES / 2


def test_so_many_frames_as_are_asked_for_are_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--frames", "1", "--first-seed", "5"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("seeds 5 to 5\n")
    assert f"{fuzz.FRAMES:,} frames, {fuzz.TO_A_COURIER:,} of them to couriers" in told


def test_a_courier_that_writes_into_a_slot_that_is_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inbox, "would_take", lambda _self, _worker, number: number > 0)
    assert "the slot was changed while the server may read it" in failure()


@pytest.mark.usefixtures("_soon")
def test_a_courier_that_takes_a_push_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Inbox.receive
    twice = {Ruling.REPEAT: Ruling.TAKE}
    monkeypatch.setattr(Inbox, "receive", lambda *message: twice.get(ruling := rule(*message), ruling))
    assert "TimeoutError" in failure(), "who asks for an answer again gets none"


@pytest.mark.usefixtures("_soon")
def test_a_courier_that_lets_anything_come_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_check", lambda _head: None)
    assert failure()


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up early, where something is known not to come."""
    for each in (fuzz, parties):
        monkeypatch.setattr(each, "DEADLINE_S", 0.2)


def failure() -> str:
    """What the first seed that fails says, with how to play it again."""
    with pytest.raises(fuzz.FuzzFailedError, match=r"python -m tests\.engines\.cluster\.fuzz \d+") as found:
        sum(map(fuzz.play, range(20)), Counter())
    return str(found.value)
