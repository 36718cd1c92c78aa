"""The folder of runs as MLflow's store: a database, the artifacts, and the lock under which both are made.

What is asked before MLflow is needed is read from the database itself, since MLflow takes a second to import.
"""

import fcntl
import json
import os
import platform
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dssp_bench.core.errors import RecordsError
from dssp_bench.experiment.mlflow_view import VIEW_TAG, comparison_view
from dssp_bench.records.lock import goes_on

EXPERIMENT = "dssp-bench"
REPORTS = "dssp-bench reports"
WHOLE_TAG = "dssp.logged"
"""The tag of runs of which MLflow has everything: `all`."""

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "GIT_PYTHON_REFRESH": "quiet",
}
_PATIENCE_S = 20.0
_LOOKS_EVERY_S = 0.02
_patience_s = _PATIENCE_S


class StoredRun(NamedTuple):
    """A run of ours as the database has it; `name` is that of its folder, `host` the machine that made it."""

    run_id: str
    name: str
    host: str
    status: str
    deleted: bool
    whole: bool


@contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """While inside, nothing waits longer than this for a database that somebody else has locked; 20 s elsewhere."""
    global _patience_s
    before, _patience_s = _patience_s, seconds
    try:
        yield
    finally:
        _patience_s = before


def patience_ms() -> int:
    """How long to wait for a locked database, now."""
    return round(_patience_s * 1000)


@contextmanager
def quiet() -> Iterator[None]:
    """While inside, the warnings of packages that MLflow uses, to its authors, are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- without MLflow ---


def database(runs_dir: Path) -> Path:
    """Where a folder of runs keeps its MLflow database."""
    return runs_dir.resolve() / "mlflow.db"


def name_by_id(runs_dir: Path, run_id: str) -> str | None:
    """The name of the run's folder by its id in MLflow, None if there is no such run. Raises RecordsError."""
    query = "SELECT value FROM tags WHERE run_uuid = ? AND key = 'dssp.run'"
    rows = _rows(database(runs_dir), query, run_id)
    return str(rows[0][0]) if rows else None


_OUR_RUNS = """
    SELECT run.run_uuid, name.value, host.value, run.status, run.lifecycle_stage, whole.value
    FROM experiments AS experiment
    JOIN runs AS run ON run.experiment_id = experiment.experiment_id
    JOIN tags AS name ON name.run_uuid = run.run_uuid AND name.key = 'dssp.run'
    LEFT JOIN tags AS host ON host.run_uuid = run.run_uuid AND host.key = 'dssp.host'
    LEFT JOIN tags AS whole ON whole.run_uuid = run.run_uuid AND whole.key = ?
    WHERE experiment.name = ?
"""


def stored_runs(runs_dir: Path, condition: str = "TRUE", *values: str) -> dict[str, StoredRun]:
    """Our runs by name, those only for which an SQL condition on `run` and `name` holds. Raises RecordsError."""
    rows = _rows(database(runs_dir), f"{_OUR_RUNS} AND {condition}", WHOLE_TAG, EXPERIMENT, *values)
    runs = [StoredRun(r[0], r[1], r[2] or "", r[3], r[4] == "deleted", r[5] == "all") for r in rows]
    return {run.name: run for run in sorted(runs, key=lambda run: (not run.deleted, run.whole))}


def _rows(store: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True, timeout=_patience_s)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise RecordsError(f"{store} cannot be read: {error}") from error


def stale_runs(runs_dir: Path, but: str = "") -> list[StoredRun]:
    """The runs of this machine that MLflow shows as running although they do not go on. Raises RecordsError."""
    running = stored_runs(runs_dir, "run.status = 'RUNNING' AND name.value != ?", but).values()
    here = [run for run in running if not run.deleted and run.host in ("", platform.node())]
    return [run for run in here if not (runs_dir / run.name).is_dir() or not goes_on(runs_dir / run.name)]


# --- with MLflow ---


def open_store(runs_dir: Path) -> tuple[Any, str]:
    """A client of the store of this folder of runs, and the id of its experiment; makes both if they do not exist.

    MLflow makes its tables without a lock, and processes that start together break each other's; so this takes one.
    Raises whatever MLflow and SQLite raise, within the time of `waiting_at_most` if the database is locked.
    """
    with quiet():
        runs_dir = runs_dir.resolve()
        runs_dir.mkdir(parents=True, exist_ok=True)
        path = database(runs_dir)
        if path.exists():
            _see_whether_it_takes_anything(path)
        client_class = _import_client()
        with alone(runs_dir):
            return _open_store(client_class, runs_dir, path)


def _open_store(client_class: Any, runs_dir: Path, path: Path) -> tuple[Any, str]:
    if not path.exists():
        _make_database(client_class, path)
    client = _client(client_class, path)
    experiment = _experiment(client, EXPERIMENT, runs_dir)
    if VIEW_TAG not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, comparison_view(round(time.time() * 1000)))
    return client, experiment.experiment_id


def _client(client_class: Any, path: Path, said: str = "") -> Any:
    uri = _uri(path, said)
    return client_class(uri, uri)


def _uri(path: Path, said: str = "") -> str:
    from sqlalchemy.dialects import plugins

    plugins.register("dsspbench", "dssp_bench.experiment.mlflow_engine", "RunsDatabase")
    return f"sqlite:///{path}?plugin=dsspbench{said}"


def _experiment(client: Any, name: str, runs_dir: Path) -> Any:
    """The experiment of this name, which is made if need be."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        experiment = client.get_experiment(client.create_experiment(name, (runs_dir / "artifacts").as_uri()))
    return experiment


def log_report(runs_dir: Path, name: str, folder: Path) -> None:
    """Show a report's files in an experiment of its own; a report of the same name takes the place of the former."""
    client, _ = open_store(runs_dir)
    with alone(runs_dir):
        experiment = _experiment(client, REPORTS, runs_dir.resolve()).experiment_id
        former = client.search_runs([experiment], f"tags.report = '{allowed(name)}'")
        run = former[0] if former else client.create_run(experiment, tags={"report": allowed(name)}, run_name=name)
    client.log_artifacts(run.info.run_id, str(folder))
    client.set_terminated(run.info.run_id)


def end_stale_runs(client: Any, runs_dir: Path, but: str = "") -> dict[str, str]:
    """End what still says RUNNING although nobody, on this machine, is at it: as its summary says, or as KILLED.

    Gives their names, each with what it was ended as.
    """
    ended = {}
    for run in stale_runs(runs_dir, but):
        ended[run.name] = status_of(runs_dir / run.name)
        client.set_terminated(run.run_id, ended[run.name])
    return ended


def status_of(folder: Path) -> str:
    """How a run ended of which nobody knows more than its folder: as its summary says, or as KILLED."""
    try:
        status = str(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"]).upper()
    except (OSError, ValueError, KeyError, TypeError):
        return "KILLED"
    return status if status in ("FINISHED", "FAILED") else "KILLED"


def allowed(name: str) -> str:
    """A name with only those characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def _see_whether_it_takes_anything(path: Path) -> None:
    """MLflow would try for minutes to open what cannot be opened."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_patience_s)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def _make_database(client_class: Any, path: Path) -> None:
    """Make the tables under another name first: MLflow cannot go on where it was interrupted, and refuses the file.

    So the disk may come last; MLflow makes a hundred changes, and would wait for it after each.
    """
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    _client(client_class, unfinished, f"&making={time.time_ns()}").search_experiments()
    with unfinished.open("rb") as file:
        os.fsync(file)
    for log in ("-wal", "-shm"):  # of a database that was deleted; SQLite would take them for this one's
        path.with_name(path.name + log).unlink(missing_ok=True)
    unfinished.replace(path)
    _let_readers_and_a_writer_work_at_once(path)


def _let_readers_and_a_writer_work_at_once(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=wal")


def _import_client() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking.client import MlflowClient

    return MlflowClient


@contextmanager
def alone(runs_dir: Path) -> Iterator[None]:
    """While inside, no other process makes anything in this store that may exist only once. Raises TimeoutError."""
    give_up_at = time.monotonic() + _patience_s
    with (runs_dir / ".mlflow.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up_at:
                    raise TimeoutError(f"another process has locked {lock.name}") from None
                time.sleep(_LOOKS_EVERY_S)
        yield
