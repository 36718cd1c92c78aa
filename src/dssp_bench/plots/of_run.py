"""The figures of one run, from its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from dssp_bench.analysis import series
from dssp_bench.analysis.series import Series
from dssp_bench.analysis.waiting import lives
from dssp_bench.plots import figures
from dssp_bench.plots.figures import Activity, Span
from dssp_bench.records.reader import RunRecords

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

ITERATIONS_SHOWN = 30
PUSHES_TO_A_WINDOW = 25
WORKERS_SHOWN = 16

T = TypeVar("T")


def of_run(records: RunRecords) -> dict[str, Figure]:
    """The figures of one run by name; none for what the run has no data of."""
    made = {}
    if len(records.evaluations) > 1:
        made["accuracy"] = figures.accuracy_over_time({"accuracy": series.accuracy(records.evaluations)})
    if len(records.pushes):
        made |= _of_pushes(records.pushes, records.grants)
    return made


def _of_pushes(pushes: pd.DataFrame, grants: pd.DataFrame) -> dict[str, Figure]:
    windows = series.windows(pushes, series.moments(pushes, min(60, len(pushes) // PUSHES_TO_A_WINDOW + 1)))
    throughput = Series(windows["at_s"].to_numpy(float), windows["pushes_per_s"].to_numpy(float))
    begin, end = opening(pushes)
    first = pushes[pushes["arrived_s"] <= end]
    made = {
        "throughput": figures.throughput_over_time({"pushes": throughput}),
        "lead": figures.lead_over_time(_named(series.lead(pushes))),
        "lead_at_first": figures.lead_over_time(_named(series.lead(first)), "Lead over the slowest worker at first"),
        "staleness": figures.staleness_histogram({"run": series.staleness_counts(pushes)}),
        "waiting": figures.waiting_bars(_named({w: life.waiting_share for w, life in lives(pushes).items()})),
        "timeline": figures.worker_timeline(activities(pushes, end), (begin, end), "What the workers did at first"),
    }
    allowed = series.threshold(first)
    if allowed:
        marks = grants[grants["at_s"] <= end]
        made["threshold"] = figures.threshold_over_time(_named(allowed), _grants(marks), title="Threshold at first")
    return made


def opening(pushes: pd.DataFrame, iterations: int = ITERATIONS_SHOWN) -> tuple[float, float]:
    """The window of time in which the fastest worker makes its first `iterations` pushes, in seconds."""
    reached = pushes["arrived_s"][pushes["clock"] >= iterations]
    return 0.0, float(reached.iloc[0] if len(reached) else pushes["arrived_s"].max())


def activities(pushes: pd.DataFrame, until_s: float, workers: int = WORKERS_SHOWN) -> dict[str, Activity]:
    """When the first few workers computed and were held until some moment."""
    chosen = sorted(pushes["worker"].unique())[:workers]
    rows = pushes[pushes["worker"].isin(chosen) & (pushes["arrived_s"] - pushes["compute_s"] <= until_s)]
    return _named({int(str(worker)): _activity(of_one) for worker, of_one in rows.groupby("worker", sort=True)})


def _activity(pushes: pd.DataFrame) -> Activity:
    arrived, computed = pushes["arrived_s"].to_numpy(float), pushes["compute_s"].to_numpy(float)
    held = np.nan_to_num(pushes["held_s"].to_numpy(float))
    return Activity(Span(arrived - computed, arrived), Span(arrived, arrived + held))


def _grants(grants: pd.DataFrame) -> dict[str, Series]:
    """Where each worker's grants allow it to go: the first of the granted iterations is the grant's own release."""
    allowed = grants["lead"] + grants["r_star"] - 1
    return _named(
        {
            int(str(worker)): Series(rows["at_s"].to_numpy(float), allowed[rows.index].to_numpy(float))
            for worker, rows in grants.groupby("worker", sort=True)
        }
    )


def _named(by_worker: Mapping[int, T]) -> dict[str, T]:
    return {f"worker {worker}": value for worker, value in by_worker.items()}
