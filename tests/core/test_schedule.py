"""The learning rate, on either clock."""

from dataclasses import replace

import pytest

from dssp_bench.core.schedule import LearningRate

SAMPLES = LearningRate(
    base=1.0, milestones=(2, 4), gamma=0.1, clock="samples", scale="none", workers=4, batch_size=10, examples=100
)
UPDATES = replace(SAMPLES, clock="updates")


def test_an_epoch_of_samples_is_one_pass_over_the_examples_whoever_makes_it() -> None:
    assert [SAMPLES.epoch(version=999, pushes=pushes) for pushes in (0, 5, 10, 40)] == [0, 0.5, 1, 4]


def test_an_epoch_of_updates_is_as_long_as_mxnet_counts() -> None:
    assert UPDATES.updates_per_epoch == 2  # floor(100 / 10 / 4)
    assert [UPDATES.epoch(version=version, pushes=999) for version in (0, 1, 4)] == [0, 0.5, 2]


def test_an_epoch_has_at_least_one_update() -> None:
    assert replace(UPDATES, examples=7).updates_per_epoch == 1


@pytest.mark.parametrize(("pushes", "rate"), [(1, 1.0), (20, 1.0), (21, 0.1), (40, 0.1), (41, 0.01), (900, 0.01)])
def test_on_samples_the_rate_falls_with_the_first_push_after_a_milestone(pushes: int, rate: float) -> None:
    assert SAMPLES.at(version=0, pushes=pushes) == pytest.approx(rate)


@pytest.mark.parametrize(("version", "rate"), [(0, 1.0), (3, 1.0), (4, 0.1), (7, 0.1), (8, 0.01)])
def test_on_updates_the_rate_falls_with_the_first_update_after_a_milestone(version: int, rate: float) -> None:
    assert UPDATES.at(version=version, pushes=1) == pytest.approx(rate)


def test_per_push_updates_decay_as_many_times_earlier_as_there_are_workers() -> None:
    """The same eight pushes: eight updates of an asynchronous run, two of a synchronous one with four workers."""
    assert UPDATES.at(version=8, pushes=9) == pytest.approx(0.01)
    assert UPDATES.at(version=2, pushes=9) == 1.0
    assert SAMPLES.at(version=8, pushes=9) == SAMPLES.at(version=2, pushes=9) == 1.0


def test_the_rate_can_grow_with_the_workers() -> None:
    assert replace(SAMPLES, scale="linear_workers").at(version=0, pushes=1, staleness=9) == 4.0


@pytest.mark.parametrize(("staleness", "rate"), [(0, 1.0), (1, 1.0), (2, 0.5), (8, 0.125)])
def test_the_rate_can_fall_with_staleness(staleness: int, rate: float) -> None:
    assert replace(SAMPLES, scale="inverse_staleness").at(version=0, pushes=1, staleness=staleness) == rate


def test_without_milestones_the_rate_stays() -> None:
    assert replace(SAMPLES, milestones=()).at(version=10**6, pushes=10**6) == 1.0
