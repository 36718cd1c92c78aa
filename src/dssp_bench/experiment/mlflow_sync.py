"""Sends to MLflow what it lacks of runs that are over, from their folders; a second time there is nothing to send."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.experiment.mlflow_store import (
    StoredRun,
    database,
    end_stale_runs,
    open_store,
    quiet,
    stale_runs,
    status_of,
    stored_runs,
)
from dssp_bench.records.lock import going_on

if TYPE_CHECKING:  # with pandas, which takes a while
    from dssp_bench.experiment.watcher import RunInfo
    from dssp_bench.records.reader import RunRecords


class Synced(NamedTuple):
    """What became of one run, in words; `failed` if MLflow lacks something still, `unasked` if it is not to have it."""

    name: str
    words: str
    failed: bool = False
    unasked: bool = False


def runs_in(runs_dir: Path) -> list[Path]:
    """The folders of the runs in a folder of runs."""
    return sorted(path.parent for path in runs_dir.absolute().glob("*/config.yaml"))


def sync(folders: Iterable[Path], runs_dir: Path | None = None) -> Iterator[Synced]:
    """Send what is missing of these runs, one after the other. Raises DsspBenchError if MLflow's store cannot be used.

    Runs of which MLflow has everything are passed over quickly, and without a word. Runs of these stores, and of the
    one in `runs_dir`, that do not go on although MLflow says so, as their folders are gone, are ended there.
    """
    by_store: dict[Path, list[Path]] = {runs_dir: []} if runs_dir else {}
    for folder in folders:
        by_store.setdefault(folder.parent, []).append(folder)
    for runs_dir, of_store in by_store.items():
        stored = stored_runs(runs_dir) if database(runs_dir).exists() else {}
        yield from _synced([folder for folder in of_store if not _is_whole(stored.get(folder.name))], stored)
        told = {folder.name for folder in of_store}
        yield from (run for run in _ended(runs_dir) if run.name not in told)


def _ended(runs_dir: Path) -> Iterator[Synced]:
    if not database(runs_dir).exists() or not stale_runs(runs_dir):  # without MLflow, most often
        return
    try:
        ended = end_stale_runs(open_store(runs_dir)[0], runs_dir)
    except Exception as error:
        raise _StoreError(f"{database(runs_dir)} cannot be used: {error}") from error
    for name, status in ended.items():
        yield Synced(name, f"ended in MLflow, {status}")


def _is_whole(stored: StoredRun | None) -> bool:
    return stored is not None and stored.whole and not stored.deleted


def _synced(folders: Sequence[Path], stored: dict[str, StoredRun]) -> Iterator[Synced]:
    for folder in folders:
        if folder.name in stored and stored[folder.name].deleted:
            yield Synced(folder.name, "left alone: it was deleted in MLflow")
            continue
        try:
            yield _one(folder)
        except _StoreError:
            raise
        except Exception as error:  # MLflow's own, of many kinds, and damaged files; the other runs may do without it
            words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            yield Synced(folder.name, f"not sent: {words}", failed=True)


class _StoreError(DsspBenchError):
    """MLflow's store cannot be used."""


def _one(folder: Path) -> Synced:
    from dssp_bench.records.reader import RunRecords
    from dssp_bench.records.writer import complete

    records = RunRecords(folder)
    config, environment = dict(records.config), records.environment or {}
    if not (config.get("tracking") or {}).get("mlflow", True):
        return Synced(folder.name, "left alone: its configuration says tracking.mlflow=false", unasked=True)
    if "replayed" in environment:
        return Synced(folder.name, "left alone: it is a replay", unasked=True)
    with going_on(folder) as nobody_else_is_at_it:
        if not nobody_else_is_at_it:
            return Synced(folder.name, "left alone: it goes on")
        if records.summary is None and environment.get("host", platform.node()) != platform.node():
            return Synced(folder.name, f"left alone: it may go on on {environment['host']}, where it was begun")
        complete(folder)
        return _sent(RunRecords.open(folder), described(folder, config, environment))


def described(folder: Path, config: dict[str, Any], environment: dict[str, Any]) -> RunInfo:
    """What a run's own watchers were told of it, as far as MLflow has it, from its folder."""
    from dssp_bench.experiment.watcher import RunInfo

    choices = config.pop("choices", {})
    command = {"command": environment["command"]} if environment.get("command") else {}
    return RunInfo(
        name=folder.name,
        folder=folder,
        runs_dir=folder.parent,
        config=config,
        choices=choices,
        environment=environment,
        worker_names=(),
        seed=config["seed"],
        total_pushes=None,
        tags=environment.get("tags", {}) | command,
    )


def _sent(records: RunRecords, info: RunInfo) -> Synced:
    from dssp_bench.experiment.mlflow_run import MlflowRun

    try:
        store = open_store(info.runs_dir)
    except Exception as error:
        raise _StoreError(f"{database(info.runs_dir)} cannot be used: {error}") from error
    summary, status = records.summary, status_of(info.folder)
    with quiet():
        run = MlflowRun(*store, info)
        run.end(status, records, summary, (summary or {}).get("error", ""), _ended_at_ms(records, run.started_at_ms))
    made = "made, " if run.made else ""
    return Synced(info.name, f"{made}{run.points} points and {run.files} files sent, {status}")


def _ended_at_ms(records: RunRecords, started_at_ms: int) -> int:
    """When the run was summarised; of a killed one, when the last push arrived."""
    summary = records.folder / "summary.json"
    if summary.exists():
        return int(summary.stat().st_mtime * 1000)
    pushes = records.numbers("pushes", "arrived_s")
    return started_at_ms + round(1000 * float(pushes.max() if len(pushes) else 0.0))
