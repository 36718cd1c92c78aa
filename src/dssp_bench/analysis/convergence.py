"""What comparisons ask of one run, beyond its summary: when it was how good, and what its updates did."""

import numpy as np
import pandas as pd

from dssp_bench.analysis.summary import by_time
from dssp_bench.reference.measures import TAIL


def time_to(evaluations: pd.DataFrame, target: float) -> float | None:
    """The moment of the first evaluation at or above an accuracy, in seconds; None if there is none."""
    reached = evaluations.loc[evaluations["accuracy"] >= target, "at_s"]
    return float(reached.min()) if len(reached) else None


def tail_accuracy(evaluations: pd.DataFrame) -> float | None:
    """The median accuracy over the last 3 % of the time up to the last evaluation; None without evaluations."""
    if evaluations.empty:
        return None
    in_order = by_time(evaluations)
    tail = in_order["at_s"] >= (1 - TAIL) * in_order["at_s"].iloc[-1]
    return float(in_order.loc[tail, "accuracy"].median())


def rate_drops(updates: pd.DataFrame, duration_s: float) -> list[float]:
    """The parts of the run, 0 to 1, at which the learning rate fell below all before.

    With `schedule.scale: inverse_staleness` every update that is staler than all before counts as one.
    """
    rates = updates["learning_rate"].to_numpy(float)
    fell = rates[1:] < np.minimum.accumulate(rates)[:-1]
    drops: list[float] = (updates["at_s"].to_numpy(float)[1:][fell] / duration_s).tolist()
    return drops


def throughput(pushes: pd.DataFrame) -> float | None:
    """Pushes per second of all workers together, for as long as all were there; None if that was no time.

    Where each makes the same number of passes, the slowest works on alone at the end, and sets the mean over the whole
    run whatever the paradigm.
    """
    until = _all_there_until(pushes)
    return float((pushes["arrived_s"] <= until).sum() / until) if until > 0 else None


def updates_per_iteration(pushes: pd.DataFrame, updates: pd.DataFrame) -> float | None:
    """Updates per iteration of the slowest worker, for as long as all were there; None if it made none."""
    until = _all_there_until(pushes)
    slowest = pushes[pushes["arrived_s"] <= until]["worker"].value_counts()
    if slowest.empty or len(slowest) < pushes["worker"].nunique():
        return None
    return float((updates["at_s"] <= until).sum() / slowest.min())


def _all_there_until(pushes: pd.DataFrame) -> float:
    """The last push of the worker whose last push came first, in seconds; 0 without pushes."""
    return float(pushes.groupby("worker")["arrived_s"].max().min()) if len(pushes) else 0.0
