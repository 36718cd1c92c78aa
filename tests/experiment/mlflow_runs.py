"""Runs for MLflow: their folders as a run leaves them, their watchers' lives, and what MLflow has of them then."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dssp_bench.analysis.summary import summarise
from dssp_bench.experiment import mlflow_store
from dssp_bench.experiment.mlflow_log import MlflowLog, Patience
from dssp_bench.experiment.mlflow_store import open_store
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.records.files import write_json, write_yaml
from dssp_bench.records.reader import RunRecords
from tests.records import fake_run

CONFIG: dict[str, Any] = {
    "name": None,
    "paradigm": {"_target_": "dssp_bench.paradigms.dssp.DSSP", "lower": 3, "upper": 15, "variant": "bounded"},
    "cluster": {"workers": [{"slowdown": 1.0}, {"slowdown": 1.57}]},
    "dataset": {"name": "digits"},
    "tracking": {"mlflow": True},
    "seed": 7,
    "learning rate@": 0.1,
}
CHOICES = {"paradigm": "dssp", "cluster": "hetero", "model": "mlp", "dataset": "digits", "engine": "simulated"}
NONE = Patience(moment_s=0, rest_s=0, attempt_s=0, last_s=0, killed_s=0)
"""Nobody waits for anything, and everything is tried each time."""


@cache
def _tables() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        with mlflow_store.quiet():
            mlflow_store._make_database(mlflow_store._import_client(), path)
        return path.read_bytes()


def new_store(runs: Path) -> Path:
    """A folder of runs with a store in it, made faster than MLflow makes one."""
    runs.mkdir(exist_ok=True)
    mlflow_store.database(runs).write_bytes(_tables())
    open_store(runs)
    return runs


def describe(runs: Path, name: str = "20260101-120000-000001-dssp-hetero-digits-seed7") -> RunInfo:
    """What a run is told to its watchers as, when its folder is there."""
    return RunInfo(
        name=name,
        folder=runs / name,
        runs_dir=runs,
        config=CONFIG,
        choices=CHOICES,
        environment={
            "git": {"commit": "0123abc", "dirty": False},
            "command": "dssp-bench run paradigm=dssp",
            "tags": {"sweep": "s1"},
            "started_at": "2026-01-01T12:00:00.250000+00:00",
        },
        worker_names=("fast", "slow"),
        seed=7,
        total_pushes=None,
        tags={"command": "dssp-bench run paradigm=dssp", "sweep": "s1"},
    )


def make_folder(info: RunInfo) -> None:
    """The folder as a run has it when it starts."""
    info.folder.mkdir(parents=True, exist_ok=True)
    write_yaml(info.folder / "config.yaml", {**info.config, "choices": info.choices})
    write_json(info.folder / "environment.json", info.environment)


def leave(info: RunInfo, pushes: int = 400, **summary: Any) -> tuple[RunRecords, dict[str, Any]]:
    """Everything that a finished run of DSSP leaves."""
    records = fake_run.finished(info.folder, DSSP(3, 15), pushes=pushes)
    make_folder(info)
    identity = {"paradigm": "dssp", "batch_size": 32, "seed": 7}
    found = summarise(records, identity=identity, status="finished", startup_s=1.0, targets=[0.8]) | summary
    write_json(info.folder / "summary.json", found)
    (info.folder / "figures").mkdir()
    (info.folder / "figures" / "lead.png").write_bytes(b"a picture")
    return records, found


def live(info: RunInfo, log: MlflowLog | None = None) -> tuple[RunRecords, dict[str, Any]]:
    """A run from its start to its end, logged meanwhile as far as MLflow lets it."""
    log = log or MlflowLog()
    log.start(info)
    records, summary = leave(info)
    log.finish("finished", records, summary, "")
    return records, summary


@contextmanager
def locked(runs: Path, readers_too: bool = False) -> Iterator[sqlite3.Connection]:
    """While inside, or until the connection is closed, somebody else has the database for himself."""
    with closing(sqlite3.connect(mlflow_store.database(runs), isolation_level=None)) as somebody_else:
        if readers_too:
            somebody_else.execute("PRAGMA journal_mode=delete")
        somebody_else.execute("BEGIN EXCLUSIVE")
        yield somebody_else


class Logged(NamedTuple):
    """All that MLflow has of a run but what tells it from others; points are (engine seconds, version, value)."""

    name: str
    status: str
    points: dict[str, list[tuple[float, int, float]]]
    params: dict[str, str]
    tags: dict[str, str]
    dataset: tuple[str, str]
    files: dict[str, int]

    def apart_from(self, *tags: str) -> "Logged":
        """The same without these tags."""
        return self._replace(tags={key: value for key, value in self.tags.items() if key not in tags})


def logged(runs: Path, name: str) -> tuple[Any, Any]:
    """MLflow's client, and the only run of this name."""
    client, experiment = open_store(runs)
    (run,) = client.search_runs([experiment], f"tags.`dssp.run` = '{name}'")
    return client, run


def history(client: Any, run: Any, key: str) -> list[tuple[float, int, float]]:
    """(engine seconds, version, value) of each point."""
    points = client.get_metric_history(run.info.run_id, key)
    return sorted(((p.timestamp - run.info.start_time) / 1000, p.step, p.value) for p in points)


def as_logged(runs: Path, name: str) -> Logged:
    """All that MLflow has of the run."""
    client, run = logged(runs, name)
    folders = ("", "records", "figures")
    files = [item for folder in folders for item in client.list_artifacts(run.info.run_id, folder) if not item.is_dir]
    data = run.inputs.dataset_inputs[0].dataset
    return Logged(
        run.info.run_name,
        run.info.status,
        {key: history(client, run, key) for key in run.data.metrics},
        run.data.params,
        run.data.tags,
        (data.name, data.digest),
        {item.path: item.file_size for item in files},
    )
