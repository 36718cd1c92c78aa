"""What a run looks like in MLflow: a function of what it is and of its records, so it can be made again at any time.

Runs are flat and tagged, because MLflow's charts leave nested runs out. A metric's time is on the engine's clock,
virtual or real; its step is the version of the weights.
"""

import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dssp_bench.analysis import series
from dssp_bench.experiment.mlflow_store import allowed
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.records.files import plain
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.schema import TABLES

_WINDOW_SHARE = 0.02
_PUSHES_TO_A_WINDOW = 20
_SILENT_SHARE = 0.1
_WORKERS_SHOWN = 16
_LONGEST_VALUE = 500
_LONGEST_TAG = 5000


class Point(NamedTuple):
    """One value of one metric; `at_s` is on the engine's clock, `version` that of the weights."""

    key: str
    at_s: float
    version: int
    value: float


def name_of(run: RunInfo) -> str:
    """The name that the user gave, or what sets runs apart, as in `dssp(3,15) hetero seed 1 local`."""
    given = run.config.get("name")
    if given:
        return str(given)
    options = run.config.get("paradigm")
    numbers = [value for value in options.values() if type(value) is int] if isinstance(options, Mapping) else []
    paradigm = run.choices.get("paradigm", run.name)
    label = f"{paradigm}({','.join(map(str, numbers))})" if numbers else paradigm
    parts = [label, run.choices.get("cluster"), f"seed {run.seed}", run.choices.get("engine")]
    return " ".join(part for part in parts if part)


def tags_of(run: RunInfo) -> dict[str, str]:
    """The tags to search by, and where the run came from."""
    commit = (run.environment.get("git") or {}).get("commit")
    tags = {
        **{group: str(choice) for group, choice in run.choices.items()},
        **run.tags,
        "seed": str(run.seed),
        "mlflow.source.name": run.tags.get("command"),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit,
        "dssp.run": run.name,
        "dssp.folder": str(run.folder),
        "dssp.host": run.environment.get("host", platform.node()),
    }
    return {allowed(key): str(value)[:_LONGEST_TAG] for key, value in tags.items() if value}


def note_of(error: str) -> str:
    """Why a run failed, as MLflow takes it."""
    return error[:_LONGEST_TAG]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as MLflow's parameters: dotted names, lists as JSON, long values cut."""
    flat: dict[str, str] = {}
    for key, value in plain(config, finite=False).items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[allowed(name)] = text[:_LONGEST_VALUE]
    return flat


# --- points ---


def points_of(records: RunRecords, over: bool) -> Iterator[Point]:
    """What the records say so far; later they say the same of it, and more."""
    yield from window_points(records.pushes, window_ends(records.pushes, over))
    yield from evaluation_points(records.evaluations)


def evaluation_points(evaluations: pd.DataFrame) -> Iterator[Point]:
    """Accuracy and loss of each evaluation, and the two other axes to draw them against."""
    columns = {"accuracy": "accuracy", "loss": "loss", "epoch": "epoch", "elapsed_s": "at_s"}
    moments, versions = evaluations["at_s"].tolist(), evaluations["version"].tolist()
    for key, column in columns.items():
        for at, version, value in zip(moments, versions, evaluations[column].tolist(), strict=True):
            yield Point(key, at, version, value)


def window_ends(pushes: pd.DataFrame, over: bool) -> list[float]:
    """The ends of the windows that the run is cut into: at the next push that makes one both long and full enough.

    A long run gets ever longer windows, so that their number grows only with the logarithm of its length. The last one
    ends with the run, whatever it holds. While the run goes on, those count of which everything is known.
    """
    if pushes.empty:
        return []
    arrived = np.maximum.accumulate(pushes["arrived_s"].to_numpy(float))
    last = float(arrived[-1] if over else _known_until(pushes))
    ends: list[float] = []
    begin, pushes_before = 0.0, 0
    while True:
        long_enough = int(np.searchsorted(arrived, begin / (1 - _WINDOW_SHARE), side="right"))
        at = max(long_enough, pushes_before + _PUSHES_TO_A_WINDOW - 1)
        if at >= len(arrived) or arrived[at] >= last:
            return [*ends, last] if over else ends
        begin = float(arrived[at])
        pushes_before = int(np.searchsorted(arrived, begin, side="right"))
        ends.append(begin)


def _known_until(pushes: pd.DataFrame) -> float:
    """Until when it is known how long workers were held, and how stale their gradients: until each pushed once more.

    Those who have been silent for long may have left.
    """
    latest = pushes.groupby("worker")["arrived_s"].max()
    return float(latest[latest >= latest.max() * (1 - _SILENT_SHARE)].min())


def window_points(pushes: pd.DataFrame, ends: list[float]) -> Iterator[Point]:
    """Throughput, lead, staleness and waiting within each window; the first begins with a point at time 0."""
    if not ends:
        return
    table = series.windows(pushes, ends)
    waiting = [column for column in table.columns if column.startswith("waiting/")]
    shown = waiting if len(waiting) <= _WORKERS_SHOWN else []
    columns = {
        "throughput": table["pushes_per_s"],
        "max_lead": table["max_lead"],
        "mean_staleness": table["mean_staleness"],
        "elapsed_s": table["at_s"],
        "waiting/mean": table[waiting].mean(axis="columns"),
        **{column.replace("/", "/worker_"): table[column] for column in shown},
    }
    yield Point("throughput", 0.0, 0, float(table["pushes_per_s"].iloc[0]))
    yield from (Point(key, 0.0, 0, 0.0) for key in columns if key != "throughput")
    for key, column in columns.items():
        for at, version, value in zip(table["at_s"], table["version"], column, strict=True):
            yield Point(key, float(at), int(version), float(value))


def summary_points(summary: Mapping[str, Any]) -> Iterator[Point]:
    """The summary's numbers, for the table of runs: `summary/duration_s`, `summary/time_to_target/0.8`."""
    at, version = float(summary.get("duration_s") or 0.0), int(summary.get("updates") or 0)
    numbers = {key: value for key, value in summary.items() if key not in ("seed", "batch_size", "workers")}
    numbers |= {f"time_to_target/{target}": moment for target, moment in (summary.get("time_to_target") or {}).items()}
    for key, value in numbers.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield Point(f"summary/{allowed(key)}", at, version, float(value))


# --- files ---


def artifacts_of(folder: Path) -> list[tuple[Path, str | None]]:
    """The files to show, each with the folder that it has among the artifacts."""
    files = [folder / name for name in ("config.yaml", "environment.json", "summary.json")]
    tables = [folder / f"{name}.parquet" for name in TABLES]
    figures = sorted((folder / "figures").glob("*"))
    placed = [*((f, None) for f in files), *((t, "records") for t in tables), *((f, "figures") for f in figures)]
    return [(path, place) for path, place in placed if path.is_file()]
