"""The bootstrap, on cases whose answer is known."""

import math

import numpy as np
import pytest

from dssp_bench.analysis.bootstrap import RESAMPLES, interval, means, resamples


def test_the_same_question_has_the_same_answer() -> None:
    assert resamples([1, 2, 3]).shape == (RESAMPLES, 3)
    np.testing.assert_array_equal(resamples([1, 2, 3]), resamples([1, 2, 3]))


def test_other_seeds_are_drawn_by_themselves() -> None:
    assert (resamples([1, 2, 3]) != resamples([1, 2, 4])).any()


def test_of_many_seeds_the_interval_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(10.0, 2.0, 400)
    low, high = interval(means(values, resamples(range(400))))
    half_width = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half_width, abs=0.02)
    assert high == pytest.approx(values.mean() + half_width, abs=0.02)


def test_of_three_seeds_the_interval_reaches_from_the_worst_to_the_best() -> None:
    assert interval(means([3.0, 1.0, 8.0], resamples([1, 2, 3]))) == (1.0, 8.0)


def test_of_three_seeds_the_interval_holds_the_truth_three_times_of_four() -> None:
    samples = np.random.default_rng(2).normal(size=(2000, 3))
    rows = resamples([1, 2, 3])[:500]
    intervals = [interval(means(sample, rows)) for sample in samples]
    assert np.mean([low < 0 < high for low, high in intervals]) == pytest.approx(0.75, abs=0.03)


def test_a_seed_that_never_arrives_leaves_the_upper_end_open() -> None:
    low, high = interval(means([3.0, 1.0, math.inf], resamples([1, 2, 3])))
    assert (low, high) == (1.0, math.inf)


def test_equal_values_leave_nothing_open() -> None:
    assert interval(means([2.0, 2.0, 2.0], resamples([1, 2, 3]))) == (2.0, 2.0)
