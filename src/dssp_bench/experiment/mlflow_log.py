"""Runs in MLflow: a view of the records, fed from the driver process and never from the server or a worker.

Everything lives under the folder of runs: the database, the artifacts, and the lock under which the database is made.
Runs are flat and tagged, because MLflow's charts leave nested runs out. A metric's time stamp is the run's start plus
the engine's seconds, so that MLflow's relative time axis shows the engine's clock, virtual or real; its step is the
version of the weights.

The one thing here that MLflow does not document is the saved view that `comparison_view` writes; if a future MLflow
cannot read it, its comparison page opens with its own choice of charts.
"""

import base64
import fcntl
import json
import logging
import math
import os
import platform
import re
import sqlite3
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dssp_bench.analysis import series
from dssp_bench.core.errors import RecordsError
from dssp_bench.experiment.watcher import RunInfo, Status, Watcher
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.schema import TABLES

EXPERIMENT = "dssp-bench"
REPORTS = "dssp-bench reports"
VIEW_KEY = "dsspbench1"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
_WINDOWS = 100
_PUSHES_TO_A_WINDOW = 10
_WORKERS_SHOWN = 16
_LONGEST_VALUE = 500
_log = logging.getLogger(__name__)


class Point(NamedTuple):
    """One value of one metric; `at_s` is on the engine's clock, `version` that of the weights."""

    key: str
    at_s: float
    version: int
    value: float


class MlflowLog(Watcher):
    """Logs one run to the store of its folder of runs, and never disturbs it.

    Whatever goes wrong with MLflow becomes one line of warning, and `failed` says what. What could not be logged while
    the run went on is logged at its end, if MLflow answers again by then.
    """

    def __init__(self) -> None:
        self.failed: str | None = None
        self._client: Any = None
        self._run_id = ""
        self._started_at_ms = 0
        self._folder = Path()
        self._evaluations = 0
        self._logged_until_s = 0.0
        self._logged: set[tuple[str, float, int]] = set()

    def start(self, run: RunInfo) -> None:
        """Create the run, and the store if there is none."""
        self._guard(lambda: self._start(run))

    def records(self, records: RunRecords) -> None:
        """Log what is new in the records."""
        if self._run_id and self.failed is None:
            self._guard(lambda: self._log_points(self._new_points(records, over=False)))

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        """Log the rest, the summary and the files, and end the run as what it is."""
        if self._run_id:
            self._guard(lambda: self._finish(records, summary, error))
            self._guard(lambda: self._client.set_terminated(self._run_id, status.upper()))

    # --- the three moments ---

    def _start(self, run: RunInfo) -> None:
        self._started_at_ms = round(time.time() * 1000)
        self._folder = run.folder
        self._client, experiment = open_store(run.runs_dir)
        end_stale_runs(self._client, experiment)
        tags = tags_of(run)
        created = self._client.create_run(experiment, self._started_at_ms, tags, name_of(run))
        self._run_id = created.info.run_id
        self._log_params(flatten(run.config))
        self._log_dataset(tags.get("dataset"), run.config.get("dataset"))

    def _finish(self, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        if records is not None:
            self._log_points(self._new_points(records, over=True))
        if summary is not None:
            self._log_points(summary_points(summary))
        if error:
            self._client.set_tag(self._run_id, "mlflow.note.content", error[:5000])
        for file in _artifacts(self._folder):
            self._client.log_artifact(self._run_id, str(file), _place(self._folder, file))

    # --- what is logged ---

    def _log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, value) for key, value in params.items()]
        for begin in range(0, len(entities), 100):
            self._client.log_batch(self._run_id, params=entities[begin : begin + 100])

    def _log_dataset(self, name: str | None, config: object) -> None:
        from mlflow.entities import Dataset, DatasetInput

        if name is None:
            return
        digest = f"{zlib.crc32(json.dumps(config, sort_keys=True, default=str).encode()):08x}"
        source = json.dumps({"dataset": name})
        self._client.log_inputs(self._run_id, [DatasetInput(Dataset(name, digest, "code", source))])

    def _new_points(self, records: RunRecords, over: bool) -> Iterator[Point]:
        evaluations = records.evaluations.iloc[self._evaluations :]
        yield from evaluation_points(evaluations)
        ends = window_ends(records.pushes, self._logged_until_s, over)
        yield from window_points(records.pushes, ends, self._logged_until_s)
        self._evaluations += len(evaluations)
        self._logged_until_s = ends[-1] if ends else self._logged_until_s

    def _log_points(self, points: Iterable[Point]) -> None:
        """Log the finite ones that were not logged before; MLflow is slow with those that it has already."""
        from mlflow.entities import Metric

        before = self._evaluations, self._logged_until_s
        new = [p for p in points if math.isfinite(p.value) and (p.key, p.at_s, p.version) not in self._logged]
        new = list({point[:3]: point for point in new}.values())
        metrics = [Metric(p.key, p.value, self._started_at_ms + round(p.at_s * 1000), p.version) for p in new]
        try:
            for begin in range(0, len(metrics), 1000):
                self._client.log_batch(self._run_id, metrics[begin : begin + 1000])
                self._logged.update(point[:3] for point in new[begin : begin + 1000])
        except Exception:
            self._evaluations, self._logged_until_s = before
            raise

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                action()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if self.failed is None:
                _log.warning("MLflow does not take this run, which goes on without it: %s", reason)
            self.failed = reason


# --- the store ---


def database(runs_dir: Path) -> Path:
    """Where a folder of runs keeps its MLflow database."""
    return runs_dir.resolve() / "mlflow.db"


def name_by_id(runs_dir: Path, run_id: str) -> str | None:
    """The name of the run's folder by its id in MLflow, None if there is no such run. Raises RecordsError.

    It is read without MLflow, whose import takes longer than all else that asks for it.
    """
    store = database(runs_dir)
    query = "SELECT value FROM tags WHERE run_uuid = ? AND key = 'dssp.run'"
    try:
        with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute(query, (run_id,)).fetchone()
    except sqlite3.Error as error:
        raise RecordsError(f"{store} cannot be read: {error}") from error
    return str(found[0]) if found else None


def open_store(runs_dir: Path) -> tuple[Any, str]:
    """A client of the store of this folder of runs, and the id of its experiment; makes both if they do not exist.

    MLflow makes its tables without a lock, and processes that start together break each other's; so this takes one.
    """
    with warnings.catch_warnings():  # of packages that MLflow uses, to its authors
        warnings.simplefilter("ignore")
        return _open_store(_import_client(), runs_dir.resolve())


def _open_store(client_class: Any, runs_dir: Path) -> tuple[Any, str]:
    runs_dir.mkdir(parents=True, exist_ok=True)
    path = database(runs_dir)
    with _locked(runs_dir / ".mlflow.lock"):
        if not path.exists():
            _make_database(client_class, path)
        uri = f"sqlite:///{path}"
        client = client_class(uri, uri)
        experiment = _experiment(client, EXPERIMENT, runs_dir)
        if VIEW_TAG not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, comparison_view(round(time.time() * 1000)))
    return client, experiment.experiment_id


def _experiment(client: Any, name: str, runs_dir: Path) -> Any:
    """The experiment of this name, which is made if need be."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        experiment = client.get_experiment(client.create_experiment(name, (runs_dir / "artifacts").as_uri()))
    return experiment


def log_report(runs_dir: Path, name: str, folder: Path) -> None:
    """Show a report's files in an experiment of its own; a report of the same name takes the place of the former."""
    client, _ = open_store(runs_dir)
    with _locked(runs_dir.resolve() / ".mlflow.lock"):
        experiment = _experiment(client, REPORTS, runs_dir.resolve()).experiment_id
        former = client.search_runs([experiment], f"tags.report = '{_allowed(name)}'")
        run = former[0] if former else client.create_run(experiment, tags={"report": _allowed(name)}, run_name=name)
    client.log_artifacts(run.info.run_id, str(folder))
    client.set_terminated(run.info.run_id)


def end_stale_runs(client: Any, experiment: str) -> None:
    """End what still says RUNNING although its process, on this machine, is gone: as its summary says, or as KILLED."""
    mine = f"attributes.status = 'RUNNING' and tags.`dssp.host` = '{platform.node()}'"
    for run in client.search_runs([experiment], mine):
        pid = run.data.tags.get("dssp.pid", "")
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            client.set_terminated(run.info.run_id, _true_status(Path(run.data.tags.get("dssp.folder", ""))))


def _true_status(folder: Path) -> str:
    try:
        status = str(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"]).upper()
    except (OSError, ValueError, KeyError, TypeError):
        return "KILLED"
    return status if status in ("FINISHED", "FAILED") else "KILLED"


def _make_database(client_class: Any, path: Path) -> None:
    """Make the tables under another name first: MLflow cannot go on where it was interrupted, and refuses the file.

    So the disk may come last; MLflow makes a hundred changes, and would wait for it after each.
    """
    from sqlalchemy import Engine, event

    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    uri = f"sqlite:///{unfinished}"
    event.listen(Engine, "connect", _wait_for_no_disk)
    try:
        client_class(uri, uri).search_experiments()
    finally:
        event.remove(Engine, "connect", _wait_for_no_disk)
    with unfinished.open("rb") as file:
        os.fsync(file)
    unfinished.replace(path)
    _let_readers_and_a_writer_work_at_once(path)


def _wait_for_no_disk(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=off")
    connection.execute("PRAGMA journal_mode=memory")


def _import_client() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking.client import MlflowClient

    return MlflowClient


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _let_readers_and_a_writer_work_at_once(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=wal")
    finally:
        connection.close()


# --- a run as MLflow takes it ---


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
    command = run.tags.get("command") or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    tags = {
        **{group: str(choice) for group, choice in run.choices.items()},
        **run.tags,
        "seed": str(run.seed),
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        "dssp.run": run.name,
        "dssp.folder": str(run.folder),
        "dssp.pid": str(os.getpid()),
        "dssp.host": platform.node(),
    }
    if commit:
        tags["mlflow.source.git.commit"] = str(commit)
    return {_allowed(key): str(value)[:5000] for key, value in tags.items()}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as MLflow's parameters: dotted names, lists as JSON, long values cut."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[_allowed(name)] = text[:_LONGEST_VALUE]
    return flat


def _allowed(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def evaluation_points(evaluations: pd.DataFrame) -> Iterator[Point]:
    """Accuracy and loss of each evaluation, and the two other axes to draw them against."""
    columns = {"accuracy": "accuracy", "loss": "loss", "epoch": "epoch", "elapsed_s": "at_s"}
    moments, versions = evaluations["at_s"].tolist(), evaluations["version"].tolist()
    for key, column in columns.items():
        for at, version, value in zip(moments, versions, evaluations[column].tolist(), strict=True):
            yield Point(key, at, version, value)


def window_ends(pushes: pd.DataFrame, since_s: float, over: bool) -> list[float]:
    """The ends of the windows to log next: one up to now while the run goes on, equal ones for the rest at its end.

    A long run gets ever longer windows, so that their number grows only with the logarithm of its length.
    """
    if pushes.empty:
        return []
    now = float(pushes["arrived_s"].max())
    if not over:
        return [now] if now - since_s > now / _WINDOWS else []
    count = max(1, min(_WINDOWS, len(pushes) // _PUSHES_TO_A_WINDOW))
    ends = [float(end) for end in np.linspace(0, now, count + 1)[1:] if end > since_s + 0.5 * now / count]
    return ends or ([now] if now > since_s else [])


def window_points(pushes: pd.DataFrame, ends: list[float], since_s: float) -> Iterator[Point]:
    """Throughput, lead, staleness and waiting within each window; the first begins with a point at time 0."""
    if not ends:
        return
    table = series.windows(pushes, ends, since_s)
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
    if since_s == 0:
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
            yield Point(f"summary/{_allowed(key)}", at, version, float(value))


def _artifacts(folder: Path) -> list[Path]:
    names = ["config.yaml", "environment.json", "summary.json", *(f"{name}.parquet" for name in TABLES)]
    figures = sorted((folder / "figures").glob("*")) if (folder / "figures").is_dir() else []
    return [path for path in (*(folder / name for name in names), *figures) if path.is_file()]


def _place(folder: Path, file: Path) -> str | None:
    if file.suffix == ".parquet":
        return "records"
    return None if file.parent == folder else file.parent.name


# --- the comparison page ---


def comparison_view(now_ms: int) -> str:
    """The saved view with which MLflow's comparison page opens, as the tag `VIEW_TAG` of the experiment holds it."""
    view = base64.b64encode(zlib.compress(json.dumps(_view(), sort_keys=True).encode())).decode()
    saved = {"name": "Paradigms compared", "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{view}"}
    return json.dumps(saved)


_PROGRESS, _TIMING = "dssp-progress", "dssp-timing"


def _view() -> dict[str, Any]:
    sections = {_PROGRESS: "Accuracy", _TIMING: "Throughput, lead, staleness, waiting"}
    charts = [
        _chart("Accuracy over time (s)", "accuracy", _PROGRESS),
        _chart("Accuracy over epochs", "accuracy", _PROGRESS, "metric", "epoch"),
        _chart("Accuracy over updates", "accuracy", _PROGRESS, "step"),
        _chart("Loss over time (s)", "loss", _PROGRESS),
        _chart("Pushes per second over time (s)", "throughput", _TIMING),
        _chart("Largest lead over time (s)", "max_lead", _TIMING),
        _chart("Mean staleness over time (s)", "mean_staleness", _TIMING),
        _chart("Waiting, share of time, mean of workers", "waiting/mean", _TIMING),
    ]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": _columns(),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            {
                "uuid": uuid,
                "name": name,
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
                "columns": 2,
            }
            for uuid, name in sections.items()
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "time-relative", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _columns() -> list[str]:
    tags = ("paradigm", "cluster", "dataset", "model", "seed")
    metrics = ("final_accuracy", "best_accuracy", "duration_s", "pushes_per_s", "max_lead", "mean_staleness")
    params = ("paradigm.threshold", "paradigm.lower", "paradigm.upper")
    return [
        *(f"tags.`{tag}`" for tag in tags),
        *(f"params.`{param}`" for param in params),
        *(f"metrics.`summary/{metric}`" for metric in metrics),
    ]


def _chart(title: str, metric: str, section: str, x_axis: str = "time-relative", x_metric: str = "") -> dict[str, Any]:
    return {
        "uuid": f"{section}-{metric.replace('/', '-')}-{x_axis}",
        "type": "LINE",
        "runsCountToCompare": 20,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
        "metricKey": metric,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": x_axis,
        "selectedXAxisMetricKey": x_metric,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
    }
