"""The soak: it counts, and it notices."""

import time

import pytest

from tests.faults.soak import KINDS, Kind, main, soak


def test_a_soak_plays_at_least_one_turn_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--minutes", "0", "--first-seed", "77", "--kind", "simulated"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "seeds from 77 on"
    assert last.startswith("500 simulated schedules; 0 failed; ")
    assert " pushes" in last


def test_a_schedule_that_fails_is_told_with_its_seed_and_the_others_are_played(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def third_fails(seed: int) -> dict[str, int]:
        if seed == 12:
            raise AssertionError("lost")
        return {"good": 1}

    assert soak(0, 10, [Kind("planned", third_fails, at_once=5)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told == ["FAILED planned, seed 12: lost", "5 planned schedules; 1 failed; 4 good"]


def test_kinds_have_the_time_in_proportion_to_their_shares(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def of_a_second(seed: int) -> dict[str, int]:
        nonlocal now
        now += 1.0
        return {}

    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert soak(1, 0, [Kind("rare", of_a_second), Kind("frequent", of_a_second, share=2.0)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == ["20 rare schedules; 0 failed", "40 frequent schedules; 0 failed"]
    assert {kind.name: kind.share for kind in KINDS} == {"simulated": 1.0, "kill": 2.0}
