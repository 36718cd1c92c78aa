"""One experiment, from its specification to a finished folder: the only place where everything meets."""

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dssp_bench.analysis.summary import summarise
from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.core.messages import SECOND
from dssp_bench.engines.local.launch import MOST_WORKERS, devices, server_device, start_fork_server, transports
from dssp_bench.engines.options import LocalOptions, ReplayOptions, SimulatedOptions
from dssp_bench.experiment.environment import environment
from dssp_bench.experiment.local import PRELOAD, run_locally, startup_seconds
from dssp_bench.experiment.parts import parameter_count
from dssp_bench.experiment.plan import make_plan
from dssp_bench.experiment.replay import check_replayable, differences, find_run, recorded_spec, replay_records
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.virtual import run_in_virtual_time
from dssp_bench.experiment.watcher import RunInfo, Status, Watcher
from dssp_bench.experiment.watchers import Watchers
from dssp_bench.records.files import write_json, write_yaml
from dssp_bench.records.reader import RunRecords
from dssp_bench.tasks.task import Data

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """How a run ended; `summary` is None if there was nothing to summarise, `error` says why it failed, if it did."""

    status: Status
    folder: Path
    summary: dict[str, Any] | None
    error: str = ""


def run(spec: RunSpec, watchers: Sequence[Watcher] = ()) -> RunResult:
    """Run one experiment to its end and leave its records in a folder of its own.

    Raises ConfigurationError or DataNotFound before anything was started. A run that fails later is reported, not
    raised. KeyboardInterrupt is raised again when everything is stopped and written.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError("a worker imports the script that calls run(); call it under `if __name__ == '__main__':`")
    if isinstance(spec.engine, ReplayOptions):
        return _replay(spec, spec.engine, Watchers(watchers))
    if isinstance(spec.engine, LocalOptions):
        start_fork_server(PRELOAD)  # it imports torch while this process reads the data
    return _Run(spec, Watchers(watchers)).to_the_end()


class _Run:
    """One run: prepared by the constructor, carried out by `to_the_end`."""

    def __init__(self, spec: RunSpec, watchers: Watchers) -> None:
        self._began = time.monotonic()
        self._spec = spec
        self._watchers = watchers
        trains = not (isinstance(spec.engine, SimulatedOptions) and not spec.engine.train)
        self._data: Data | None = spec.dataset.load() if trains else None
        facts = self._data.facts if self._data else spec.dataset.facts()
        self._plan = make_plan(spec, facts)
        self._check()
        self._folder = new_folder(spec)
        self._info = self._describe()

    def to_the_end(self) -> RunResult:
        status: Status = "finished"
        error, report, interrupted = "", dict[str, Any](), False
        with _termination_as_interrupt():
            try:
                report = self._carry_out()
                interrupted = report.get("interrupted", False)
            except KeyboardInterrupt:
                interrupted = True
            except (DsspBenchError, OSError) as failure:
                status, error = "failed", str(failure).strip() or type(failure).__name__
            except Exception as failure:  # a bug, or a user's own paradigm or network; the local engine tells it so too
                status, error = "failed", "".join(traceback.format_exception(failure)).strip()
        if interrupted:
            status = "killed"
        result = self._conclude(status, error, report)
        if interrupted:
            raise KeyboardInterrupt
        return result

    # --- before the run ---

    def _check(self) -> None:
        if self._data is None:
            return
        workers = len(self._spec.cluster.workers)
        if isinstance(self._spec.engine, LocalOptions) and workers > MOST_WORKERS:
            raise ConfigurationError(
                "cluster.workers",
                f"{workers} workers are more than the local engine starts, which is {MOST_WORKERS}",
                "engine=simulated takes any number",
            )
        smallest = self._data.examples // workers
        if self._spec.batch_size > smallest:
            raise ConfigurationError(
                "batch_size",
                f"{self._spec.batch_size} is more than the {smallest} training examples of each worker",
                "take a smaller batch, fewer workers or more data",
            )
        parameter_count(self._spec.model, self._data.input_shape, self._data.classes)  # refuses what it cannot take

    def _describe(self) -> RunInfo:
        layout, extra = self._spec.cluster, dict[str, Any]()
        if self._data is not None:
            extra["devices"] = {"server": server_device(layout), "workers": devices(layout)}
            if isinstance(self._spec.engine, LocalOptions):
                extra["transport"] = transports(layout)
        return _describe(self._spec, self._folder, extra, self._plan.total_pushes)

    # --- the run itself ---

    def _carry_out(self) -> dict[str, Any]:
        if isinstance(self._spec.engine, LocalOptions):
            assert self._data is not None
            arguments = (self._spec, self._plan, self._data, self._folder, self._watchers, self._info)
            return run_locally(*arguments, _evaluation_device(self._spec))
        self._watchers.start(self._info)
        device = server_device(self._spec.cluster) if self._data else "cpu"
        return run_in_virtual_time(self._spec, self._plan, self._data, self._folder, self._watchers, device)

    # --- after the run ---

    def _conclude(self, status: Status, error: str, report: dict[str, Any]) -> RunResult:
        records, summary = None, None
        try:
            records = RunRecords.open(self._folder)
            summary = self._summary(records, status, error, report)
            write_json(self._folder / "summary.json", summary)
        except DsspBenchError as failure:
            _log.warning("no summary: %s", failure)
        self._watchers.finish(status, records, summary, error)
        return RunResult(status, self._folder, summary, error)

    def _summary(self, records: RunRecords, status: Status, error: str, report: dict[str, Any]) -> dict[str, Any]:
        spec = self._spec
        target = spec.stop.target_accuracy
        summary = summarise(
            records,
            identity=identity(spec),
            status=status,
            startup_s=startup_seconds(self._began, report),
            targets=[] if target is None else [target],
        )
        summary["lost_workers"] = report.get("lost_workers", [])
        summary["membership"] = _with_seconds(report.get("membership"))
        if error:
            summary["error"] = error
        return summary


def _with_seconds(membership: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Who left and joined, with times as people read them; None if that is not known."""
    return None if membership is None else [{**event, "at_s": event["at_ns"] / SECOND} for event in membership]


def _replay(spec: RunSpec, options: ReplayOptions, watchers: Watchers) -> RunResult:
    """Feed a recorded run through the core; it fails if a single decision differs."""
    recorded = find_run(options.run, spec.runs_dir)
    check_replayable(recorded)
    original = replace(recorded_spec(recorded), runs_dir=spec.runs_dir, tags=spec.tags)
    folder = new_folder(original)
    info = _describe(original, folder, {"replayed": str(recorded.folder)}, None)
    watchers.start(info)
    status: Status = "finished"
    error, replayed, summary = "", None, None
    try:
        replayed = replay_records(recorded, original, folder)
        different = differences(recorded, replayed)
        if any(different.values()):
            status, error = "failed", f"decisions differ from the record: {different} rows"
        summary = summarise(replayed, identity=identity(original), status=status, startup_s=0.0, targets=[])
        summary |= {"membership": (recorded.summary or {})["membership"]}
        summary |= {"replayed": str(recorded.folder), "different_rows": different}
        write_json(folder / "summary.json", summary)
    except DsspBenchError as failure:
        status, error = "failed", f"the record does not fit its paradigm: {failure}"
    watchers.finish(status, replayed, summary, error)
    return RunResult(status, folder, summary, error)


def _describe(spec: RunSpec, folder: Path, extra: dict[str, Any], total_pushes: int | None) -> RunInfo:
    """Write down what the run is and where it runs."""
    started_at = _now().isoformat()
    surroundings = {**environment(), "command": spec.tags.get("command", ""), "started_at": started_at, **extra}
    write_yaml(folder / "config.yaml", {**spec.config, "choices": spec.choices})
    write_json(folder / "environment.json", surroundings)
    return RunInfo(
        name=folder.name,
        folder=folder,
        runs_dir=spec.runs_dir,
        config=spec.config,
        choices=spec.choices,
        environment=surroundings,
        worker_names=tuple(worker.name for worker in spec.cluster.workers),
        seed=spec.seed,
        total_pushes=total_pushes,
        tags=spec.tags,
    )


def identity(spec: RunSpec) -> dict[str, Any]:
    """What tells this run from others, as its summary says it."""
    choices = spec.choices
    return {
        "paradigm": choices.get("paradigm", type(spec.paradigm).__name__.lower()),
        "engine": choices.get("engine", type(spec.engine).__name__.removesuffix("Options").lower()),
        "cluster": choices.get("cluster", "custom"),
        "seed": spec.seed,
        "workers": len(spec.cluster.workers),
        "model": choices.get("model", type(spec.model).__name__.lower()),
        "dataset": choices.get("dataset", type(spec.dataset).__name__.lower()),
        "batch_size": spec.batch_size,
        "learning_rate_clock": spec.schedule.clock,
    }


def new_folder(spec: RunSpec) -> Path:
    """A folder that nobody else has, named after the moment and the run."""
    what = spec.name or "-".join(
        [str(identity(spec)[key]) for key in ("paradigm", "cluster", "dataset")] + [f"seed{spec.seed}"]
    )
    spec.runs_dir.mkdir(parents=True, exist_ok=True)
    while True:
        folder = spec.runs_dir / f"{_now():%Y%m%d-%H%M%S-%f}-{what}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _evaluation_device(spec: RunSpec) -> str:
    device = spec.evaluation.device
    if device == "auto":
        return server_device(spec.cluster)
    return "cuda:0" if device == "cuda" else device


def _now() -> datetime:
    return datetime.now().astimezone()


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """While the run goes on, SIGTERM ends it as Ctrl-C does, so that it is not left `running` for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
