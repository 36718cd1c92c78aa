"""Constants that were put in come out again."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssp_bench.analysis.calibration import QUANTILES, delays, fit_compute, fit_jitter, quantiles_of
from dssp_bench.analysis.waiting import Floats
from dssp_bench.engines.compute_time import PRESETS, Jitter, SlowState
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.experiment.run import run
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.records.reader import RunRecords
from tests.experiment import specs
from tests.records import fake_run


def factors(jitter: Jitter, count: int = 20_000, seed: int = 3) -> Floats:
    drawn: Floats = np.array(list(islice(jitter.stream(seed), count)))
    return np.asarray(drawn / np.median(drawn), float)


@pytest.mark.parametrize("sigma", [0.002, 0.02, 0.25])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.96])
def test_log_normal_noise_is_found(sigma: float, rho: float) -> None:
    fitted = fit_jitter(factors(Jitter(kind="lognormal", sigma=sigma, rho=rho)))
    assert fitted.kind == "lognormal"
    assert fitted.sigma == pytest.approx(sigma, rel=0.1)
    assert fitted.rho == pytest.approx(rho, abs=0.02)
    assert fitted.slow_state is None


def test_a_slow_state_is_found_beside_noise() -> None:
    fitted = fit_jitter(factors(PRESETS["shared"], 50_000))
    assert (fitted.kind, fitted.slow_state is None) == ("lognormal", False)
    assert fitted.sigma == pytest.approx(0.06, rel=0.1)
    assert fitted.rho == pytest.approx(0.96, abs=0.02)
    assert fitted.slow_state is not None
    assert fitted.slow_state.factor == pytest.approx(2.0, rel=0.03)
    assert fitted.slow_state.enter == pytest.approx(0.001, rel=0.4)  # it happened some fifty times
    assert fitted.slow_state.leave == pytest.approx(0.06, rel=0.4)


def test_a_slow_state_is_found_without_noise() -> None:
    fitted = fit_jitter(factors(Jitter(slow_state=SlowState(enter=0.02, leave=0.2, factor=3.0))))
    assert fitted.kind == "constant"
    assert fitted.slow_state is not None
    assert fitted.slow_state.factor == 3.0


def test_times_that_do_not_vary_have_no_noise() -> None:
    assert fit_jitter(np.ones(500)) == Jitter()


@pytest.mark.parametrize("jitter", [PRESETS["stress"], Jitter(kind="shifted_exponential", scale=0.5)])
def test_what_no_formula_explains_is_taken_as_it_was_recorded(jitter: Jitter) -> None:
    recorded = factors(jitter, 800)
    fitted = fit_jitter(recorded)
    assert fitted.kind == "trace"
    assert list(islice(fitted.stream(1), 800)) == pytest.approx(recorded.tolist(), abs=1e-6)


def test_quantiles_of_a_fit_are_those_of_its_stream() -> None:
    for jitter in (
        Jitter(kind="lognormal", sigma=0.2, rho=0.3),
        PRESETS["shared"],
        Jitter(kind="trace", factors=(1, 2)),
    ):
        drawn = np.array(list(islice(jitter.stream(5), 200_000)))
        assert quantiles_of(jitter, (0.05, 0.95)) == pytest.approx(np.quantile(drawn, (0.05, 0.95)), rel=0.03)


def test_every_worker_has_its_own_time_and_noise(tmp_path: Path) -> None:
    workers = [
        {"slowdown": 1.0},
        {"slowdown": 2.5, "jitter": {"kind": "lognormal", "sigma": 0.1, "rho": 0.5}},
    ]
    cluster = {"workers": workers, "iteration_s": 0.02}
    result = run(specs.spec(tmp_path, "asp", "timing", cluster=cluster, stop={"pushes": 9000}))
    fits = fit_compute(RunRecords.open(result.folder), ClusterLayout.model_validate(cluster))
    assert fits[0].typical_s == pytest.approx(0.02)
    assert fits[0].jitter == Jitter()
    assert fits[1].typical_s == pytest.approx(0.05, rel=0.02)
    assert fits[1].jitter.sigma == pytest.approx(0.1, rel=0.1)
    assert fits[1].jitter.rho == pytest.approx(0.5, abs=0.05)
    assert fits[1].largest_error < 0.02
    assert len(fits[1].recorded) == len(QUANTILES)


@pytest.mark.parametrize(
    "jitter",
    [
        {"kind": "lognormal", "sigma": 0.2, "rho": 0.9},
        {"kind": "shifted_exponential", "scale": 0.5},
        {"kind": "constant", "slow_state": {"enter": 0.05, "leave": 0.3, "factor": 3.0}},
    ],
    ids=lambda jitter: jitter["kind"],
)
def test_the_mean_on_which_the_end_depends_is_as_recorded(tmp_path: Path, jitter: dict[str, Any]) -> None:
    cluster = {"workers": [{"jitter": jitter}], "iteration_s": 0.02}
    records = RunRecords.open(run(specs.spec(tmp_path, "asp", "timing", cluster=cluster, stop={"pushes": 400})).folder)
    (fit,) = fit_compute(records, ClusterLayout.model_validate(cluster)).values()
    drawn = np.array(list(islice(fit.jitter.stream(7), 200_000)))
    assert fit.typical_s * drawn.mean() == pytest.approx(records.pushes["compute_s"].mean(), rel=0.02)


def test_slow_phases_that_the_layout_tells_of_are_no_noise(tmp_path: Path) -> None:
    cluster = {
        "workers": [{"slowdown": 1.5}],
        "iteration_s": 0.02,
        "events": [{"worker": 0, "at_s": 1.0, "slowdown": 5.0, "for_s": 3.0}],
    }
    result = run(specs.spec(tmp_path, "asp", "timing", cluster=cluster, stop={"pushes": 200}))
    (fit,) = fit_compute(RunRecords.open(result.folder), ClusterLayout.model_validate(cluster)).values()
    assert fit.typical_s == pytest.approx(0.03)
    assert fit.jitter == Jitter()


def test_a_delay_is_what_lies_between_a_release_and_a_push_and_is_not_computing(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, BSP(), slowdowns=(1.0, 2.0), pushes=10).pushes
    assert {worker: len(times) for worker, times in delays(pushes).items()} == {0: 4, 1: 4}
    assert np.concatenate(list(delays(pushes).values())) == pytest.approx(0.0)
    late = pushes.assign(arrived_s=pushes["arrived_s"] + 0.25 * pushes["clock"])
    assert np.concatenate(list(delays(late).values())) == pytest.approx(0.25)
