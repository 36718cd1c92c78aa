"""Noise on iteration times: what each kind promises, and that it comes from the seed alone."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dssp_bench.engines.compute_time import PRESETS, Jitter, SlowState, Streams


def draws(jitter: Jitter, count: int = 20_000, seed: int = 1) -> np.ndarray:
    return np.array(list(islice(jitter.stream(seed), count)))


def test_streams_side_by_side_are_each_what_it_is_alone() -> None:
    jitters = [PRESETS["noisy"], Jitter(), Jitter(kind="trace", factors=(1.0, 2.0, 5.0)), PRESETS["stress"]]
    streams = Streams(jitters, seeds=[3, 4, 5, 6])
    order = np.random.default_rng(1).integers(len(jitters), size=2000).tolist()
    taken: dict[int, list[float]] = {worker: [] for worker in range(len(jitters))}
    for worker in order:
        taken[worker].append(streams.next(worker))
    for worker, factors in taken.items():
        assert factors == draws(jitters[worker], len(factors), seed=3 + worker).tolist()


@pytest.mark.parametrize("name", PRESETS)
def test_how_many_are_drawn_at_a_time_changes_no_stream(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = draws(PRESETS[name], 1000)
    monkeypatch.setattr("dssp_bench.engines.compute_time._BLOCK", 16)
    assert np.array_equal(draws(PRESETS[name], 1000), before)


def test_constant_times_have_no_noise() -> None:
    assert set(draws(Jitter(), 3000)) == {1.0}
    assert set(draws(Jitter(kind="lognormal", sigma=0.0), 3000)) == {1.0}


@pytest.mark.parametrize("name", PRESETS)
def test_equal_seeds_give_equal_streams_and_others_give_others(name: str) -> None:
    assert np.array_equal(draws(PRESETS[name], 3000, seed=5), draws(PRESETS[name], 3000, seed=5))
    assert not np.array_equal(draws(PRESETS[name], 3000, seed=5), draws(PRESETS[name], 3000, seed=6))


@pytest.mark.parametrize("name", PRESETS)
def test_every_factor_is_positive_and_the_median_is_near_one(name: str) -> None:
    factors = draws(PRESETS[name])
    assert factors.min() > 0
    if name != "stress":  # a Pareto's median is 2 ** (1 / alpha)
        assert np.median(factors) == pytest.approx(1.0, abs=0.12)


def test_lognormal_noise_has_its_deviation_and_its_correlation() -> None:
    logs = np.log(draws(Jitter(kind="lognormal", sigma=0.06, rho=0.96), 100_000))
    assert logs.std() == pytest.approx(0.06, rel=0.1)
    assert np.corrcoef(logs[:-1], logs[1:])[0, 1] == pytest.approx(0.96, abs=0.01)
    assert np.corrcoef(logs[:-10], logs[10:])[0, 1] == pytest.approx(0.96**10, abs=0.06)


def test_lognormal_noise_starts_in_its_stationary_state() -> None:
    firsts = [np.log(draws(Jitter(kind="lognormal", sigma=0.25, rho=0.96), 1, seed)[0]) for seed in range(500)]
    assert np.std(firsts) == pytest.approx(0.25, rel=0.15)


def test_a_shifted_exponential_is_never_below_one_and_has_its_mean() -> None:
    factors = draws(Jitter(kind="shifted_exponential", scale=0.5))
    assert factors.min() >= 1
    assert factors.mean() == pytest.approx(1.5, rel=0.02)


def test_a_pareto_has_its_tail() -> None:
    factors = draws(Jitter(kind="pareto", alpha=1.5), 100_000)
    assert factors.min() >= 1
    assert (factors > 10).mean() == pytest.approx(10**-1.5, rel=0.1)


def test_a_trace_is_repeated() -> None:
    assert draws(Jitter(kind="trace", factors=(1.0, 2.0, 5.0)), 7).tolist() == [1, 2, 5, 1, 2, 5, 1]


def test_the_slow_state_is_entered_and_left_as_often_as_it_says() -> None:
    jitter = Jitter(slow_state=SlowState(enter=0.01, leave=0.1, factor=3.0))
    slow = draws(jitter, 200_000) == 3.0
    assert slow.mean() == pytest.approx(0.01 / 0.11, rel=0.1)
    entered = np.flatnonzero(~slow[:-1] & slow[1:])
    assert slow.sum() / len(entered) == pytest.approx(10, rel=0.1)


def test_a_slow_state_that_is_left_at_once_lasts_one_iteration() -> None:
    factors = draws(Jitter(slow_state=SlowState(enter=1.0, leave=1.0, factor=2.0)), 6)
    assert factors.tolist() == [2, 1, 2, 1, 2, 1]


def test_the_slow_state_leaves_the_other_noise_alone() -> None:
    plain = Jitter(kind="lognormal", sigma=0.1)
    factors = draws(plain.model_copy(update={"slow_state": SlowState(enter=0.1, leave=0.5, factor=2.0)}), 5000)
    ratio = factors / draws(plain, 5000)
    assert set(np.round(ratio, 9)) == {1.0, 2.0}


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "uniform"}, {"sigma": -0.1}, {"rho": 1.0}, {"alpha": 0}, {"factors": ()}, {"factors": (0.0,)},
        {"sigma": float("nan")}, {"scale": float("inf")}, {"slow_state": {"leave": 0}}, {"wobble": 1},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Jitter(**fields)
