"""The figures of one run, from its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from dssp_bench.analysis import series
from dssp_bench.analysis.names import worker_names
from dssp_bench.analysis.series import Series
from dssp_bench.analysis.waiting import lives
from dssp_bench.core.errors import RecordsError
from dssp_bench.plots import figures
from dssp_bench.plots.figures import Activity, Span
from dssp_bench.records.reader import RunRecords

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

ITERATIONS_SHOWN = 30
PUSHES_TO_A_WINDOW = 25
WORKERS_SHOWN = 16

T = TypeVar("T")


def of_run(records: RunRecords) -> dict[str, Figure]:
    """The figures of one run by name; none for what the run has no data of."""
    made = {}
    if len(records.evaluations) > 1:
        made["accuracy"] = figures.accuracy_over_time(series.accuracy(records.evaluations), time_label(records))
    if len(records.pushes):
        made |= _of_pushes(records.pushes, distinct_names(records), time_unit(records)) | thresholds(records)
    return made


def distinct_names(records: RunRecords) -> tuple[str, ...]:
    """The workers' names by number; empty if the configuration does not say them, or some are equal."""
    names = worker_names(records)
    return names if len(set(names)) == len(names) else ()


def time_label(records: RunRecords) -> str:
    """What an axis of this run's time is called."""
    return f"time ({time_unit(records)})"


def time_unit(records: RunRecords) -> str:
    """The unit of this run's time: virtual seconds are no real ones."""
    try:
        virtual = records.config["choices"]["engine"] == "simulated"
    except (KeyError, RecordsError):
        virtual = False
    return "virtual s" if virtual else "s"


def throughput_label(unit: str) -> str:
    """What an axis of throughput is called, by the unit of time."""
    return f"pushes per {unit.replace('s', 'second')}"


def _of_pushes(pushes: pd.DataFrame, names: Sequence[str], unit: str) -> dict[str, Figure]:
    xlabel = f"time ({unit})"
    windows = series.windows(pushes, series.moments(pushes, min(60, len(pushes) // PUSHES_TO_A_WINDOW + 1)))
    throughput = Series(windows["at_s"].to_numpy(float), windows["pushes_per_s"].to_numpy(float))
    begin, end = opening(pushes)
    first = pushes[pushes["arrived_s"] <= end]
    shares = {worker: life.waiting_share for worker, life in lives(pushes).items()}
    return {
        "throughput": figures.throughput_over_time(throughput, xlabel, throughput_label(unit)),
        "lead": figures.lead_over_time(_named(series.lead(pushes), names), xlabel=xlabel),
        "lead_at_first": figures.lead_over_time(
            _named(series.lead(first), names), "Lead over the slowest worker at first", xlabel
        ),
        "staleness": figures.staleness_histogram(series.staleness_counts(pushes)),
        "waiting": figures.waiting_bars(_named(shares, names)),
        "timeline": figures.worker_timeline(
            activities(pushes, end, names=names), (begin, end), "What the workers did at first", xlabel
        ),
    }


def thresholds(records: RunRecords, title: str = "Threshold") -> dict[str, Figure]:
    """The thresholds and grants of a run's opening, as `threshold`; nothing for a paradigm without a threshold.

    If the first grant comes later, it is the same length of time around that.
    """
    names = distinct_names(records)
    begin, end = _with_a_grant(opening(records.pushes), records.grants)
    allowed = series.threshold(records.pushes[records.pushes["arrived_s"].between(begin, end)])
    if not allowed:
        return {}
    marks = _grants(records.grants[records.grants["at_s"].between(begin, end)], names)
    return {"threshold": figures.threshold_over_time(_named(allowed, names), marks, title, time_label(records))}


def _with_a_grant(window: tuple[float, float], grants: pd.DataFrame) -> tuple[float, float]:
    """The window, moved if there are grants and all of them come later."""
    begin, end = window
    later = float(grants["at_s"].iloc[0]) - (begin + end) / 2 if len(grants) and grants["at_s"].iloc[0] > end else 0.0
    return begin + later, end + later


def opening(pushes: pd.DataFrame, iterations: int = ITERATIONS_SHOWN) -> tuple[float, float]:
    """The window of time in which the fastest worker makes its first `iterations` pushes, in seconds."""
    reached = pushes["arrived_s"][pushes["clock"] >= iterations]
    return 0.0, float(reached.iloc[0] if len(reached) else pushes["arrived_s"].max())


def activities(
    pushes: pd.DataFrame, until_s: float, workers: int = WORKERS_SHOWN, names: Sequence[str] = ()
) -> dict[str, Activity]:
    """When the first few workers computed and were held until some moment."""
    chosen = sorted(pushes["worker"].unique())[:workers]
    rows = pushes[pushes["worker"].isin(chosen) & (pushes["arrived_s"] - pushes["compute_s"] <= until_s)]
    return _named({int(str(worker)): _activity(of_one) for worker, of_one in rows.groupby("worker", sort=True)}, names)


def _activity(pushes: pd.DataFrame) -> Activity:
    arrived, computed = pushes["arrived_s"].to_numpy(float), pushes["compute_s"].to_numpy(float)
    held = np.nan_to_num(pushes["held_s"].to_numpy(float))
    return Activity(Span(arrived - computed, arrived), Span(arrived, arrived + held))


def _grants(grants: pd.DataFrame, names: Sequence[str]) -> dict[str, Series]:
    """Where each worker's grants allow it to go: the first of the granted iterations is the grant's own release."""
    allowed = grants["lead"] + grants["r_star"] - 1
    return _named(
        {
            int(str(worker)): Series(rows["at_s"].to_numpy(float), allowed[rows.index].to_numpy(float))
            for worker, rows in grants.groupby("worker", sort=True)
        },
        names,
    )


def _named(by_worker: Mapping[int, T], names: Sequence[str]) -> dict[str, T]:
    """By name instead of number, where the name is known."""
    return {names[w] if w < len(names) else f"worker {w}": value for w, value in by_worker.items()}
