"""One experiment, from its specification to a finished folder: the only place where everything meets."""

import logging
import multiprocessing
import shutil
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import dssp_bench
from dssp_bench.analysis.arms import fingerprint
from dssp_bench.analysis.summary import summarise
from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.core.messages import SECOND
from dssp_bench.engines.checkpoints import CheckpointPlan, Past
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.engines.local.launch import devices, server_device, transports
from dssp_bench.engines.options import MOST_WORKERS, ClusterOptions, LocalOptions, ReplayOptions
from dssp_bench.engines.termination import interrupt_deferred, termination_as_interrupt
from dssp_bench.experiment.cluster import check_cluster, device_here, run_on_cluster
from dssp_bench.experiment.environment import environment
from dssp_bench.experiment.local import run_locally, startup_seconds
from dssp_bench.experiment.parts import parameter_count
from dssp_bench.experiment.plan import make_plan
from dssp_bench.experiment.preload import PRELOAD
from dssp_bench.experiment.replay import check_replayable, differences, find_run, recorded_spec, replay_records
from dssp_bench.experiment.resume import left_spec, left_state, where_it_was_left
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.virtual import run_in_virtual_time
from dssp_bench.experiment.watcher import RunInfo, Status, Watcher
from dssp_bench.experiment.watchers import Watchers
from dssp_bench.records.checkpoints import CheckpointStore, remove_checkpoints
from dssp_bench.records.files import when_there_is_room, write_json, write_yaml
from dssp_bench.records.lock import going_on
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import complete

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
    kind = _Replay if isinstance(spec.engine, ReplayOptions) else _Training
    return _to_the_end(kind, spec, watchers)


def resume(folder: Path, watchers: Sequence[Watcher] = ()) -> RunResult:
    """Go on with a run that came to no end, from its newest valid checkpoint, in its own folder.

    Without a checkpoint it begins again, and what it had made is put aside. Raises ConfigurationError if there is
    nothing to go on with or somebody else does, and as `run` otherwise.
    """
    with going_on(folder) as ours:
        if not ours:
            raise ConfigurationError("RUN", f"{folder.name} still goes on", "stop it first, or wait for its end")
        return _to_the_end(_Resumed, left_spec(folder), watchers)


def _to_the_end(kind: "type[_Run]", spec: RunSpec, watchers: Sequence[Watcher]) -> RunResult:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError("a worker imports the script that calls run(); call it under `if __name__ == '__main__':`")
    return kind(spec, Watchers(watchers)).to_the_end()


class _Run(ABC):
    """What the life of every run is: it is prepared, carried out, summarised, and its watchers hear of all that."""

    def __init__(self, spec: RunSpec, watchers: Watchers) -> None:
        self.began = time.monotonic()
        self.spec = spec
        self.watchers = watchers
        self.report: dict[str, Any] = {}
        with ExitStack() as held:
            self._held = held
            self.info = self.prepare()
            self._held = held.pop_all()
        self.folder = self.info.folder

    def hold(self, folder: Path) -> Path:
        """From now to its end the run goes on in this new folder."""
        try:
            self._held.enter_context(going_on(folder))
        except DsspBenchError:
            folder.rmdir()
            raise
        return folder

    @abstractmethod
    def prepare(self) -> RunInfo:
        """Refuse what cannot work, then make the folder. Raises ConfigurationError, DataNotFound."""

    @abstractmethod
    def carry_out(self) -> None:
        """Run, and put into `report` what only the run itself knows. Raises DsspBenchError."""

    def to_the_end(self) -> RunResult:
        """Carry it out and conclude, whatever happens; KeyboardInterrupt is raised again."""
        with termination_as_interrupt(), self._held:
            status, error = self._carried_out()
            with interrupt_deferred(1 if status == "killed" else 2):  # the third is for those who want no summary
                result = self._conclude(status, error)
        if status == "killed":
            raise KeyboardInterrupt
        return result

    def _carried_out(self) -> tuple[Status, str]:
        try:
            self.carry_out()
        except KeyboardInterrupt:
            return "killed", ""
        except (DsspBenchError, OSError) as failure:
            return "failed", str(failure).strip() or type(failure).__name__
        except Exception as failure:  # a bug, or a user's own paradigm or network; the local engine tells it so too
            return "failed", "".join(traceback.format_exception(failure)).strip()
        return ("killed", "") if self.report.get("interrupted") else ("finished", "")

    def _conclude(self, status: Status, error: str) -> RunResult:
        records, summary = None, None
        try:
            when_there_is_room(lambda: complete(self.folder))
            records = RunRecords.open(self.folder)
            summary = self._summary(records, status, error)
            when_there_is_room(lambda: write_json(self.folder / "summary.json", summary))
            if status == "finished":
                remove_checkpoints(self.folder)
        except Exception as failure:  # watchers must hear of the end, or they stay open
            if status == "finished":
                _log.warning("no summary: %s", failure)
        self.watchers.finish(status, records, summary, error)
        return RunResult(status, self.folder, summary, error)

    def _summary(self, records: RunRecords, status: Status, error: str) -> dict[str, Any]:
        report, target = self.report, self.spec.stop.target_accuracy
        summary = summarise(
            records,
            identity=identity(self.spec),
            status=status,
            startup_s=startup_seconds(self.began, report),
            targets=[] if target is None else [target],
        )
        summary["configuration"] = fingerprint(self.spec.config, dssp_bench.__version__)
        summary["lost_workers"] = report.get("lost_workers", [])
        summary["membership"] = _with_seconds(report.get("membership"))
        extra = ("server", "replacements", "replayed", "different_rows", "weights_sha256", "resumed")
        summary |= {key: report[key] for key in extra if key in report}
        return summary | ({"error": error} if error else {})


class _Training(_Run):
    """A run in virtual time or in real processes."""

    past: Past | None = None

    def prepare(self) -> RunInfo:
        """Read the data, and see whether everything fits together."""
        extra = self.put_together()
        folder = self.hold(new_folder(self.spec))
        self.make_ready()
        return _describe(self.spec, folder, extra, self._plan.total_pushes)

    def put_together(self) -> dict[str, Any]:
        """The run's parts; what is to be said of where they are."""
        spec = self.spec
        self._data = spec.dataset.load() if spec.trains else None
        facts = self._data.facts if self._data else spec.dataset.facts()
        self._plan = make_plan(spec, facts)
        layout, extra = spec.cluster, dict[str, Any]()
        if spec.trains:
            parameter_count(spec.model, facts.input_shape, facts.classes)  # refuses inputs that it cannot take
            extra["devices"] = self._devices()
        if isinstance(spec.engine, LocalOptions):
            _check_count(len(layout.workers))
            _warn_of_what_is_virtual(layout)
            extra["transport"] = transports(layout)
        if isinstance(spec.engine, ClusterOptions):
            check_cluster(spec)
            extra["transport"] = ["tcp"] * len(layout.workers)
        return extra

    def _devices(self) -> dict[str, Any]:
        """Where everybody computes, as far as that is known here: workers on other machines have devices of theirs."""
        layout = self.spec.cluster
        if isinstance(self.spec.engine, ClusterOptions):
            return {"server": device_here(layout)}
        return {"server": server_device(layout), "workers": devices(layout)}

    def make_ready(self) -> None:
        """Nothing can be refused any more; what starts the processes imports torch while this one goes on."""
        if isinstance(self.spec.engine, LocalOptions):
            start_fork_server(PRELOAD)

    def carry_out(self) -> None:
        """Train, on the engine that was chosen."""
        spec, plan, data = self.spec, self._plan, self._data
        store, every_s = partial(CheckpointStore, self.folder, spec.checkpoint.keep), spec.checkpoint.every_s
        checkpoints = None if every_s is None else CheckpointPlan(store, every_s)
        if isinstance(spec.engine, LocalOptions):
            assert data is not None
            elsewhere = isinstance(spec.engine, ClusterOptions)
            home, real = (device_here, run_on_cluster) if elsewhere else (server_device, run_locally)
            device = home(spec.cluster) if spec.evaluation.device == "auto" else spec.evaluation.device
            self.report |= real(spec, plan, data, self.folder, self.watchers, self.info, device, checkpoints, self.past)
            return
        self.watchers.start(self.info)
        device = server_device(spec.cluster) if data else "cpu"
        self.report |= run_in_virtual_time(spec, plan, data, self.folder, self.watchers, device, checkpoints, self.past)


class _Resumed(_Training):
    """A run that came to no end, from where its newest valid checkpoint was made, or from the beginning."""

    def prepare(self) -> RunInfo:
        """As for a new run, but in the run's own folder."""
        self.put_together()
        folder = self.spec.runs_dir / str(self.spec.name)
        try:
            return self._brought_back(folder)
        except OSError as error:  # a disk that is full, or may not be written to
            raise ConfigurationError("RUN", f"cannot go on in {folder}: {error.strerror or error}") from error

    def _brought_back(self, folder: Path) -> RunInfo:
        before = RunRecords(folder).environment or {}
        self.past = left_state(folder)
        here = {"started_at": _now().isoformat(), **where_it_was_left(self.past)}
        self.report["resumed"] = [*before.get("resumed", []), here]
        now = {key: value for key, value in environment().items() if key in ("host", "pid")}
        surroundings = {**before, **now, "resumed": self.report["resumed"]}
        write_json(folder / "environment.json", surroundings)
        self.make_ready()
        return _info(self.spec, folder, surroundings, self._plan.total_pushes)


class _Replay(_Run):
    """A recorded run, fed back through the core; it fails if a single decision differs."""

    def prepare(self) -> RunInfo:
        """Find the record; everything but the place of the new one is taken from it."""
        assert isinstance(self.spec.engine, ReplayOptions)
        self._recorded = find_run(self.spec.engine.run, self.spec.runs_dir)
        check_replayable(self._recorded)
        self.spec = replace(recorded_spec(self._recorded), runs_dir=self.spec.runs_dir, tags=self.spec.tags)
        folder = self.hold(new_folder(self.spec))
        return _describe(self.spec, folder, {"replayed": str(self._recorded.folder)}, None)

    def carry_out(self) -> None:
        """Decide everything once more, and compare."""
        self.watchers.start(self.info)
        recorded = self._recorded
        self.report |= {"membership": (recorded.summary or {})["membership"], "replayed": str(recorded.folder)}
        try:
            replayed = replay_records(recorded, self.spec, self.folder)
        except DsspBenchError as failure:
            raise DsspBenchError(f"the record does not fit its paradigm: {failure}") from failure
        self.report["different_rows"] = different = differences(recorded, replayed)
        if any(different.values()):
            raise DsspBenchError(f"decisions differ from the record: {different} rows")


def _check_count(workers: int) -> None:
    if workers > MOST_WORKERS:
        raise ConfigurationError(
            "cluster.workers",
            f"{workers} workers are more than a run in real processes can have, which is {MOST_WORKERS}",
            "engine=simulated takes any number",
        )


def _warn_of_what_is_virtual(layout: ClusterLayout) -> None:
    """Say which parts of a layout real processes take no notice of."""
    parts = {"jitter": layout.has_jitter, "costs of network and server": layout.has_costs}
    if ignored := " and ".join(name for name, acts in parts.items() if acts):
        _log.warning("this cluster's %s act in virtual time only; real processes have their own", ignored)


def _with_seconds(membership: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Who left and joined, with times as people read them; None if that is not known."""
    return None if membership is None else [{**event, "at_s": event["at_ns"] / SECOND} for event in membership]


def _describe(spec: RunSpec, folder: Path, extra: dict[str, Any], total_pushes: int | None) -> RunInfo:
    """Write down what the run is and where it runs."""
    started_at = _now().isoformat()
    tags = {key: tag for key, tag in spec.tags.items() if key != "command"}
    origin = {"command": spec.tags.get("command", ""), "tags": tags, "started_at": started_at}
    surroundings = {**environment(), **origin, **extra}
    try:
        write_yaml(folder / "config.yaml", {**spec.config, "choices": spec.choices})
        write_json(folder / "environment.json", surroundings)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _unwritable(spec, error) from error
    return _info(spec, folder, surroundings, total_pushes)


def _info(spec: RunSpec, folder: Path, surroundings: dict[str, Any], total_pushes: int | None) -> RunInfo:
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
    """A folder that nobody else has, named after the moment and the run. Raises ConfigurationError."""
    what = spec.name or "-".join(
        [str(identity(spec)[key]) for key in ("paradigm", "cluster", "dataset")] + [f"seed{spec.seed}"]
    )
    try:
        spec.runs_dir.mkdir(parents=True, exist_ok=True)
        while True:
            folder = spec.runs_dir / f"{_now():%Y%m%d-%H%M%S-%f}-{what}"
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise _unwritable(spec, error) from error


def _unwritable(spec: RunSpec, error: OSError) -> ConfigurationError:
    return ConfigurationError("runs_dir", f"cannot write to {spec.runs_dir}: {error.strerror}")


def _now() -> datetime:
    return datetime.now().astimezone()
