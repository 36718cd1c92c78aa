"""The published numbers: what is printed, what was read off, and what the folder's README promises of it."""

from itertools import pairwise
from statistics import mean, median

import pytest

from dssp_bench.reference.published import (
    RIGHT_PANELS,
    PublishedRun,
    published_curve,
    published_runs,
    published_thresholds,
    table1,
)


def test_table_1_as_printed() -> None:
    rows = {(row.paradigm, row.threshold): row.seconds_to for row in table1()}
    assert rows == {
        ("bsp", None): {0.67: 6159.2, 0.68: None},
        ("asp", None): {0.67: 2993.1, 0.68: 3017.2},
        ("ssp", 3): {0.67: 5678.2, 0.68: None},
        ("ssp", 6): {0.67: 5703.8, 0.68: 6908.2},
        ("ssp", 15): {0.67: 5564.9, 0.68: 7255.6},
        ("dssp", 3): {0.67: 3016.4, 0.68: 3046.3},
    }


def test_every_run_has_its_curve() -> None:
    assert len(published_runs()) == 18
    for run in published_runs():
        assert published_curve(run.figure, run.paradigm, run.threshold).seconds


def test_a_curve_grows_in_time_and_has_few_enough_points() -> None:
    figures = [(run.figure, run.paradigm, run.threshold) for run in published_runs()]
    figures += [(right, "dssp", None) for right in RIGHT_PANELS.values()]
    figures += [(right, "ssp", s) for right in RIGHT_PANELS.values() for s in published_thresholds(right)]
    assert len(figures) == 60
    for figure in figures:
        curve = published_curve(*figure)
        assert 139 <= len(curve.seconds) == len(curve.accuracy) <= 150
        assert all(earlier < later for earlier, later in pairwise(curve.seconds))
        assert all(0 < accuracy < 0.7 for accuracy in curve.accuracy)


@pytest.mark.parametrize("run", published_runs(), ids=lambda run: f"{run.figure}-{run.paradigm}-{run.threshold}")
def test_a_thinned_curve_agrees_with_what_was_read_off_the_whole_one(run: PublishedRun) -> None:
    curve = published_curve(run.figure, run.paradigm, run.threshold)
    assert 0.995 * run.end_s < curve.seconds[-1] < run.end_s
    assert run.max_accuracy - 0.008 < max(curve.accuracy) < run.max_accuracy
    tail = [a for at, a in zip(curve.seconds, curve.accuracy, strict=True) if at >= 0.97 * curve.seconds[-1]]
    assert median(tail) == pytest.approx(run.tail_accuracy, abs=0.001)


@pytest.mark.parametrize("left", RIGHT_PANELS)
def test_the_average_ssp_ends_at_the_average_of_the_ends(left: str) -> None:
    right = RIGHT_PANELS[left]
    assert published_thresholds(right) == tuple(range(3, 16))
    ends = [published_curve(right, "ssp", threshold).seconds[-1] for threshold in range(3, 16)]
    assert mean(ends) == pytest.approx(published_curve(left, "ssp_average").seconds[-1], rel=0.005)


@pytest.mark.parametrize("left", RIGHT_PANELS)
def test_both_readings_of_the_same_dssp_run_agree(left: str) -> None:
    here, there = published_curve(left, "dssp"), published_curve(RIGHT_PANELS[left], "dssp")
    assert here.seconds[-1] == pytest.approx(there.seconds[-1], rel=0.006)


def test_updates_per_iteration_follow_from_the_moment_at_which_the_rate_fell() -> None:
    for run in published_runs():
        if run.updates_per_iteration is not None and run.rate_drop_s is not None:
            first_jump = 1820 if (run.figure, run.paradigm) == ("fig4", "asp") else run.rate_drop_s
            assert 2 / 3 * run.end_s / first_jump == pytest.approx(run.updates_per_iteration, abs=0.02)


def test_a_curve_that_was_not_drawn_is_refused() -> None:
    with pytest.raises(LookupError, match="no curve of ssp with threshold 4 in fig4"):
        published_curve("fig4", "ssp", 4)
