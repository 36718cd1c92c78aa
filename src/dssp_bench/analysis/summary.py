"""One run condensed into a small dict: the `summary.json` of its folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dssp_bench.analysis.waiting import lives_of
from dssp_bench.records.reader import RunRecords

IDENTITY = (
    "paradigm", "engine", "cluster", "seed", "workers", "model", "dataset", "batch_size", "learning_rate_clock",
)  # fmt: skip


def summarise(
    records: RunRecords,
    *,
    identity: Mapping[str, Any],
    status: str,
    startup_s: float,
    targets: Sequence[float],
) -> dict[str, Any]:
    """Condense a run. What cannot be known (an accuracy without an evaluation, for instance) is None.

    Who and what:

    - `status`: finished, failed or killed
    - `paradigm`, `engine`, `cluster`, `seed`, `workers`, `model`, `dataset`, `batch_size`, `learning_rate_clock` and
      whatever else is in `identity`, as given there

    How much and how fast, in seconds on the engine's clock, start-up excluded:

    - `pushes`, `updates`, `samples`: handled, applied, and pushes times batch size
    - `duration_s`: from the start to the last push, release, update or evaluation
    - `startup_s`: as given, in wall time, without the imports of the command
    - `pushes_per_s`, `samples_per_s`: over the whole duration

    How well:

    - `final_accuracy`, `final_loss`: of the last evaluation
    - `best_accuracy`, `best_accuracy_at_s`: the first of the best ones
    - `time_to_target`: for each target, the moment of the first evaluation that reached it, or None

    How the workers were held together, by worker id:

    - `iterations`: pushes made
    - `waiting_share`: held time over the time from its start to its last push or release, 0 to 1
    - `held_s`: held time
    - `max_lead`: the largest lead seen at a push
    - `mean_staleness`, `p99_staleness`, `max_staleness`: of applied gradients; the 99th percentile is one of them
    - `dropped`: gradients that never changed the weights by decision
    - `skipped`: gradients that never changed the weights because they were not finite
    - `grants`: how often DSSP's controller granted extra iterations
    """
    workers = lives_of(lambda name: records.numbers("pushes", name))
    iterations = {str(w): len(life.arrived_s) for w, life in workers.items()}
    waiting = {str(w): life.waiting_share for w, life in workers.items()}
    held = {str(w): float(life.held_s.sum()) for w, life in workers.items()}
    ended = max((float((life.arrived_s + life.held_s).max()) for life in workers.values()), default=0.0)
    del workers  # a long run's columns are large, and one at a time is enough
    updates, updated = _count_and_max(records, "updates", "at_s")
    _, evaluated = _count_and_max(records, "evaluations", "at_s")
    pushes, max_lead = _count_and_max(records, "pushes", "lead")
    duration = max(ended, updated or 0.0, evaluated or 0.0)
    samples = None if identity.get("batch_size") is None else pushes * int(identity["batch_size"])
    return {
        "status": status,
        **{key: identity.get(key) for key in IDENTITY},
        **{key: value for key, value in identity.items() if key not in IDENTITY},
        "pushes": pushes,
        "updates": updates,
        "samples": samples,
        "duration_s": duration,
        "startup_s": float(startup_s),
        "pushes_per_s": _per_second(pushes, duration),
        "samples_per_s": _per_second(samples, duration),
        **_accuracy(by_time(records.evaluations), targets),
        "iterations": iterations,
        "waiting_share": waiting,
        "held_s": held,
        "max_lead": max_lead,
        **_staleness(records.column("pushes", "staleness").drop_null()),
        **{f"{action}ped": _count(records, action) for action in ("drop", "skip")},
        "grants": len(records.column("grants", "at_s")),
    }


def by_time(evaluations: pd.DataFrame) -> pd.DataFrame:
    """The evaluations in the order of the moments they speak of; their results may have come in another."""
    return evaluations.sort_values(["at_s", "version"], kind="stable", ignore_index=True)


def _count(records: RunRecords, action: str) -> int:
    count: int = pc.sum(pc.equal(records.column("pushes", "action"), action), min_count=0).as_py()
    return count


def _count_and_max(records: RunRecords, table: str, name: str) -> tuple[int, Any]:
    column = records.column(table, name)
    return len(column), pc.max(column).as_py()


def _per_second(amount: int | None, duration: float) -> float | None:
    return amount / duration if amount is not None and duration > 0 else None


def _accuracy(evaluations: pd.DataFrame, targets: Sequence[float]) -> dict[str, Any]:
    reached = {f"{target:g}": _first(evaluations[evaluations["accuracy"] >= target], "at_s") for target in targets}
    best = evaluations[evaluations["accuracy"] == evaluations["accuracy"].max()]
    last = evaluations.iloc[::-1]
    return {
        "final_accuracy": _first(last, "accuracy"),
        "final_loss": _first(last, "loss"),
        "best_accuracy": _first(best, "accuracy"),
        "best_accuracy_at_s": _first(best, "at_s"),
        "time_to_target": reached,
    }


def _first(rows: pd.DataFrame, column: str) -> float | None:
    return float(rows[column].iloc[0]) if len(rows) else None


def _staleness(known: pa.ChunkedArray) -> dict[str, Any]:
    if not len(known):
        return {"mean_staleness": None, "p99_staleness": None, "max_staleness": None}
    counted = known.value_counts()  # few values, however long the run
    values, counts = (counted.field(name).to_numpy() for name in ("values", "counts"))
    order = np.argsort(values)
    up_to = np.cumsum(counts[order])
    return {
        "mean_staleness": float((values * counts).sum() / len(known)),
        "p99_staleness": int(values[order][np.searchsorted(up_to, 0.99 * len(known))]),
        "max_staleness": int(values.max()),
    }
