"""Thousands of small disasters, in virtual time; each must end well, and each can be played again."""

from collections import Counter

import pytest

from tests.faults.planted import ALostAnswerIsNeverRepeated
from tests.faults.schedule import SIZES
from tests.faults.simulation import SEEDS, ScheduleFailedError, failures, main, simulate

KINDS = [
    "crashes while it computes", "crashes while it is held", "crashes with a message under way",
    "crashes with an answer under way", "crashes while it hangs", "hangs", "slows down", "joins", "told to leave",
    "given up", "messages lost", "messages repeated", "messages late", "messages refused", "pushes repeated",
    "answers repeated", "grants",
]  # fmt: skip


def test_every_schedule_ends_well_and_together_they_try_everything() -> None:
    sizes: Counter[int] = Counter()
    verdicts: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        report = simulate(seed)
        sizes[report.workers] += 1
        verdicts[report.verdict] += 1
        counts += report.counts
    assert {kind for kind in KINDS if counts[kind] < 50} == set()
    assert min(sizes[size] for size in SIZES) >= 50
    assert min(verdicts["finished"], verdicts["all lost"]) >= 100


def test_a_seed_is_the_same_story_every_time() -> None:
    for seed in range(50):
        first: list[str] = []
        again: list[str] = []
        assert simulate(seed, story=first) == simulate(seed, story=again)
        assert first == again
        assert first


def test_a_failure_says_how_to_play_it_again_and_fails_in_the_same_way_then() -> None:
    seed, failure = next(failures(ALostAnswerIsNeverRepeated, SEEDS))
    assert f"python -m tests.faults.simulation {seed}" in failure
    with pytest.raises(ScheduleFailedError) as again:
        simulate(seed, bug=ALostAnswerIsNeverRepeated)
    assert str(again.value) == failure


def test_playing_it_again_tells_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["5"]) == 0
    told = capsys.readouterr().out
    assert "worker 0 appears" in told
    assert "seed 5: finished" in told
