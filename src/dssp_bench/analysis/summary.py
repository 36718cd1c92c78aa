"""One run condensed into a small dict: the `summary.json` of its folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.compute as pc

from dssp_bench.analysis.waiting import WorkerLife, lives_of
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
    - `startup_s`: as given, in wall time
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
    - `grants`: how often DSSP's controller granted extra iterations
    """
    workers = lives_of(lambda name: records.column("pushes", name).to_numpy())
    lead, updated = records.column("pushes", "lead"), records.column("updates", "at_s")
    pushes = len(lead)
    duration = _duration(workers, updated, records.column("evaluations", "at_s"))
    samples = None if identity.get("batch_size") is None else pushes * int(identity["batch_size"])
    return {
        "status": status,
        **{key: identity.get(key) for key in IDENTITY},
        **{key: value for key, value in identity.items() if key not in IDENTITY},
        "pushes": pushes,
        "updates": len(updated),
        "samples": samples,
        "duration_s": duration,
        "startup_s": float(startup_s),
        "pushes_per_s": _per_second(pushes, duration),
        "samples_per_s": _per_second(samples, duration),
        **_accuracy(by_time(records.evaluations), targets),
        "iterations": {str(w): len(life.arrived_s) for w, life in workers.items()},
        "waiting_share": {str(w): life.waiting_share for w, life in workers.items()},
        "held_s": {str(w): float(life.held_s.sum()) for w, life in workers.items()},
        "max_lead": pc.max(lead).as_py(),
        **_staleness(records.column("pushes", "staleness").drop_null().to_numpy()),
        "dropped": pc.sum(pc.equal(records.column("pushes", "action"), "drop"), min_count=0).as_py(),
        "grants": len(records.column("grants", "at_s")),
    }


def by_time(evaluations: pd.DataFrame) -> pd.DataFrame:
    """The evaluations in the order of the moments they speak of; their results may have come in another."""
    return evaluations.sort_values(["at_s", "version"], kind="stable", ignore_index=True)


def _duration(workers: Mapping[int, WorkerLife], *moments: Any) -> float:
    released = [(life.arrived_s + life.held_s).max() for life in workers.values()]
    return float(max([*released, *(pc.max(column).as_py() for column in moments if len(column))], default=0.0))


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


def _staleness(known: npt.NDArray[np.int64]) -> dict[str, Any]:
    if not len(known):
        return {"mean_staleness": None, "p99_staleness": None, "max_staleness": None}
    return {
        "mean_staleness": float(known.mean()),
        "p99_staleness": int(np.quantile(known, 0.99, method="inverted_cdf")),
        "max_staleness": int(known.max()),
    }
