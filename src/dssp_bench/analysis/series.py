"""A run over time, in few enough points to draw or log. Times are seconds on the engine's clock."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dssp_bench.analysis.summary import by_time
from dssp_bench.analysis.waiting import Floats, lives

Indices = npt.NDArray[np.intp]

POINTS = 200


class Series(NamedTuple):
    """Values over time, arrays of equal length; a value may be nan where there is none."""

    at_s: Floats
    value: Floats


class Band(NamedTuple):
    """The lowest and the highest of several curves at common moments, arrays of equal length."""

    at_s: Floats
    low: Floats
    high: Floats


def accuracy(evaluations: pd.DataFrame, over: str = "at_s") -> Series:
    """The accuracy on the test set at each evaluation, 0 to 1; over `epoch` or `version` these stand for the time."""
    rows = by_time(evaluations)
    return Series(rows[over].to_numpy(float), rows["accuracy"].to_numpy(float))


def mean(curves: Sequence[Series]) -> Series:
    """The mean of moments and values point by point, as far as the shortest curve goes.

    With a point per epoch this is the average curve of the DSSP paper: it ends at the mean of the curves' ends.
    """
    points = min(len(curve.at_s) for curve in curves)
    return Series(*(np.mean([part[:points] for part in parts], axis=0) for parts in zip(*curves, strict=True)))


def band(curves: Sequence[Series], points: int = POINTS) -> Band:
    """Where the curves lie while all of them last, straight lines drawn between their points."""
    begin, end = max(curve.at_s[0] for curve in curves), min(curve.at_s[-1] for curve in curves)
    at = np.linspace(begin, max(begin, end), points)
    values = np.array([np.interp(at, *curve) for curve in curves])
    return Band(at, values.min(axis=0), values.max(axis=0))


def learning_rate(updates: pd.DataFrame, points: int = POINTS) -> Series:
    """The learning rate from each of its changes on, and at the last update; of many changes evenly chosen ones."""
    at, rate = updates["at_s"].to_numpy(float), updates["learning_rate"].to_numpy(float)
    kept = np.flatnonzero(np.concatenate([[True], rate[1:] != rate[:-1]])[: len(at)])
    kept = np.union1d(kept, [len(at) - 1]) if len(at) else kept
    if len(kept) > points:
        kept = kept[np.linspace(0, len(kept) - 1, points).astype(int)]
    return Series(at[kept], rate[kept])


def moments(pushes: pd.DataFrame, points: int = POINTS) -> Floats:
    """The ends of equal windows that cover the run up to its last push, at least one push to a window on average."""
    if pushes.empty:
        return np.empty(0)
    end = float(pushes["arrived_s"].max())
    count = max(1, min(points, len(pushes)))
    return np.linspace(0.0, end, count + 1)[1:]


def windows(pushes: pd.DataFrame, ends: Sequence[float] | Floats, begin_s: float = 0.0) -> pd.DataFrame:
    """What happened in the windows that end at these moments, the first of which begins after `begin_s`.

    Columns: `at_s` (a window's end), `version` and `pushes` (at its end), `pushes_per_s`, `max_lead` and
    `mean_staleness` (within it, nan in one without pushes), and `waiting/<worker>` (the share of its life for which
    the server has held the worker so far, 0 to 1).
    """
    ends = np.asarray(ends, float)
    arrived = np.maximum.accumulate(pushes["arrived_s"].to_numpy(float))
    last = np.searchsorted(arrived, ends, side="right")
    first = np.concatenate([np.searchsorted(arrived, [begin_s], side="right" if begin_s else "left"), last[:-1]])
    count, length = last - first, np.diff(ends, prepend=begin_s)
    table = {
        "at_s": ends,
        "version": np.concatenate([[0], pushes["version"].to_numpy(np.int64)])[last],
        "pushes": last,
        "pushes_per_s": np.divide(count, length, out=np.full(len(ends), np.nan), where=length > 0),
        "max_lead": _in_each(np.maximum, pushes["lead"].to_numpy(float), first, last),
        "mean_staleness": _mean_in_each(pushes["staleness"].to_numpy(float, na_value=np.nan), first, last),
    }
    table |= {f"waiting/{worker}": life.share_until(ends) for worker, life in lives(pushes).items()}
    return pd.DataFrame(table)


def lead(pushes: pd.DataFrame, points: int = POINTS) -> dict[int, Series]:
    """Each worker's lead at its pushes; of more than `points` pushes the largest of every window.

    A slow worker that is never ahead stays at 0.
    """
    return {int(str(worker)): _thinned(rows, "lead", points) for worker, rows in pushes.groupby("worker", sort=True)}


def threshold(pushes: pd.DataFrame, points: int = POINTS) -> dict[int, Series]:
    """The largest lead that each worker was allowed from each of its pushes on; empty where none bounds it."""
    bounded = pushes[pushes["threshold"].notna()]
    return {
        int(str(worker)): _thinned(rows, "threshold", points) for worker, rows in bounded.groupby("worker", sort=True)
    }


def staleness_counts(pushes: pd.DataFrame) -> dict[int, int]:
    """How many applied gradients had each staleness."""
    return counts(pushes["staleness"].dropna().to_numpy(np.int64))


def counts(values: npt.NDArray[np.int64]) -> dict[int, int]:
    """How often each value occurs, from the smallest value up."""
    found, times = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), times.tolist(), strict=True))


def quantiles(times: Mapping[int, int], shares: Sequence[float]) -> list[int]:
    """For each share the smallest value that at least this share of all do not exceed; each of them occurs."""
    values = sorted(times)
    until = np.cumsum([times[value] for value in values])
    wanted = np.searchsorted(until, np.ceil(np.asarray(shares) * until[-1]))
    return [values[i] for i in wanted]


def _thinned(rows: pd.DataFrame, column: str, points: int) -> Series:
    at, value = rows["arrived_s"].to_numpy(float), rows[column].to_numpy(float)
    if len(at) <= points:
        return Series(at, value)
    starts = np.linspace(0, len(at), points, endpoint=False).astype(int)
    return Series(at[starts], np.maximum.reduceat(value, starts))


def _in_each(reduce: np.ufunc, values: Floats, first: Indices, last: Indices) -> Floats:
    """One number for each window, nan where it is empty; windows follow one another."""
    result = np.full(len(first), np.nan)
    filled = np.flatnonzero(last > first)
    if len(filled):
        result[filled] = reduce.reduceat(values[: last[filled[-1]]], first[filled])
    return result


def _mean_in_each(values: Floats, first: Indices, last: Indices) -> Floats:
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    number = count[last] - count[first]
    mean: Floats = np.divide(total[last] - total[first], number, out=np.full(len(first), np.nan), where=number > 0)
    return mean
