"""From a recorded run to the constants of the simulator: how long iterations take, and how much they vary.

A worker's times are taken as a typical time, times noise, so that their mean, on which a run's end depends, is as
recorded. The noise is log-normal and correlated from one iteration to the next, with a slow state where there clearly
is one; where that does not fit, it is the recorded noise itself.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd

from dssp_bench.analysis.waiting import Floats
from dssp_bench.core.messages import SECOND
from dssp_bench.engines.compute_time import Jitter, SlowState
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.records.reader import RunRecords

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_CONSTANT = 1e-4  # noise of less than this is none
_SLOW = 1.5  # times the median, at least, is slow
_CLEARLY = 4.0  # standard deviations of the noise beside it
_FEWEST_SLOW = 4
_CLOSE = 0.03  # how far a fitted quantile may be off, beyond what chance explains
_CHANCE = 3.0  # standard errors
_LONGEST_TRACE = 1000
_HIGHEST_RHO = 0.999


class ComputeFit(NamedTuple):
    """What one worker's iterations take: `typical_s` seconds times noise; the quantiles are of that noise."""

    worker: int
    iterations: int
    typical_s: float
    jitter: Jitter
    recorded: Floats
    fitted: Floats

    @property
    def largest_error(self) -> float:
        """How far the fitted quantile that is furthest off is off, as a share."""
        return float(np.abs(self.fitted / self.recorded - 1.0).max())


def fit_compute(records: RunRecords, layout: ClusterLayout) -> dict[int, ComputeFit]:
    """Fit every worker that pushed; the layout's slow phases are taken out first."""
    fits = {}
    for key, rows in records.pushes.groupby("worker", sort=True):
        worker, arrived = int(str(key)), rows["arrived_s"].to_numpy(float)
        compute = rows["compute_s"].to_numpy(float)
        began = np.round((arrived - compute) * SECOND).astype(np.int64)
        phases = np.array([layout.slowdown(worker, at) for at in began.tolist()]) / layout.workers[worker].slowdown
        fits[worker] = _fit(worker, compute / phases)
    return fits


def _fit(worker: int, times: Floats) -> ComputeFit:
    jitter = fit_jitter(times / np.median(times))
    values, weights = _distribution(jitter)
    typical = float(times.mean() / np.average(values, weights=weights))
    recorded = np.quantile(times / typical, QUANTILES)
    return ComputeFit(worker, len(times), typical, jitter, recorded, quantiles_of(jitter, QUANTILES))


def fit_jitter(factors: Floats) -> Jitter:
    """The simplest noise that explains these factors, whose median is 1."""
    logs = np.log(np.maximum(factors, 1e-9))
    if np.quantile(np.abs(logs), 0.95) < _CONSTANT and np.abs(factors.mean() - 1.0) < _CONSTANT:
        return Jitter()
    slow = _slow(logs)
    slow_state = _slow_state(factors, slow)
    normal = logs if slow_state is None else logs[~slow]
    sigma = float(normal.std())
    rho = _correlation(logs, None if slow_state is None else slow)
    if sigma < _CONSTANT:
        jitter = Jitter(slow_state=slow_state)
    else:
        jitter = Jitter(kind="lognormal", sigma=round(sigma, 6), rho=round(rho, 6), slow_state=slow_state)
    if _explains(jitter, factors):
        return jitter
    return Jitter(kind="trace", factors=tuple(round(float(factor), 6) for factor in factors[:_LONGEST_TRACE]))


def quantiles_of(jitter: Jitter, levels: Sequence[float]) -> Floats:
    """Quantiles of the factors that a fitted jitter gives in the long run."""
    values, weights = _distribution(jitter)
    order = np.argsort(values)
    below = np.cumsum(weights[order]) - 0.5 * weights[order]
    return np.interp(levels, below / weights.sum(), values[order])


def _distribution(jitter: Jitter) -> tuple[Floats, Floats]:
    """Values and their weights."""
    if jitter.kind == "trace":
        return np.asarray(jitter.factors), np.ones(len(jitter.factors))
    normal = NormalDist(0.0, max(jitter.sigma, 1e-12))
    values = np.exp([normal.inv_cdf((i + 0.5) / 2000) for i in range(2000)])
    if jitter.slow_state is None:
        return values, np.ones(len(values))
    share = jitter.slow_state.enter / (jitter.slow_state.enter + jitter.slow_state.leave)
    both = np.concatenate([values, values * jitter.slow_state.factor])
    return both, np.repeat([1.0 - share, share], len(values))


def _slow(logs: Floats) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Which iterations are far above what the noise around the median explains."""
    low, high = np.quantile(logs, [0.25, 0.75])
    sigma = (high - low) / (2 * NormalDist().inv_cdf(0.75))
    return np.asarray(logs > max(np.log(_SLOW), _CLEARLY * sigma))


def _slow_state(factors: Floats, slow: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> SlowState | None:
    if slow.sum() < _FEWEST_SLOW or slow.all():
        return None
    before, after = slow[:-1], slow[1:]
    return SlowState(
        enter=round(float(after[~before].mean()), 6),
        leave=round(max(float((~after[before]).mean()), 1.0 / len(slow)), 6),
        factor=round(float(np.median(factors[slow]) / np.median(factors[~slow])), 6),
    )


def _correlation(logs: Floats, slow: "np.ndarray[tuple[int], np.dtype[np.bool_]] | None") -> float:
    """From one iteration to the next, where both are in the normal state; never negative."""
    normal = np.ones(len(logs), bool) if slow is None else ~slow
    both = normal[:-1] & normal[1:]
    first, second = logs[:-1][both], logs[1:][both]
    if len(first) < 3 or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.clip(np.corrcoef(first, second)[0, 1], 0.0, _HIGHEST_RHO))


def _explains(jitter: Jitter, factors: Floats) -> bool:
    """Whether mean and quantiles are as recorded, up to chance, which is larger for correlated noise."""
    independent = max(1.0, len(factors) * (1.0 - jitter.rho) / (1.0 + jitter.rho))
    sigma = max(jitter.sigma, _CONSTANT)
    values, weights = _distribution(jitter)
    mean_error = abs(np.average(values, weights=weights) / factors.mean() - 1.0)
    if mean_error > _CLOSE + _CHANCE * factors.std() / factors.mean() / np.sqrt(independent):
        return False
    fitted, recorded = quantiles_of(jitter, QUANTILES), np.quantile(factors, QUANTILES)
    normal = NormalDist()
    for level, ours, theirs in zip(QUANTILES, fitted, recorded, strict=True):
        density = normal.pdf(normal.inv_cdf(level))
        chance = sigma * np.sqrt(level * (1.0 - level) / independent) / density
        if abs(ours / theirs - 1.0) > _CLOSE + _CHANCE * chance:
            return False
    return True


def delays(pushes: pd.DataFrame) -> dict[int, Floats]:
    """By worker, the seconds from each release to the next push being taken up, less what the worker computed.

    They are what messages, the server, its queue and waiting for a core cost. A worker's first iteration is left out.
    """
    found = {}
    for worker, rows in pushes.groupby("worker", sort=True):
        released = (rows["arrived_s"] + rows["held_s"]).to_numpy(float)[:-1]
        arrived, compute = (rows[column].to_numpy(float)[1:] for column in ("arrived_s", "compute_s"))
        found[int(str(worker))] = arrived - compute - released
    return found
