"""What does the harness cost: the parameter server, the records, who watches, and the start of a run?

    python benchmarks/overhead.py
    python benchmarks/overhead.py --model resnet110 --batch-size 128 --device cuda --repeats 5
    python benchmarks/overhead.py --only startup

`training`: a network whose iteration takes 20 ms or more is trained in four ways that take turns: `bare loop`, an
ordinary training loop in one process; `server`, one worker of the local engine with nobody watching and nothing
written; `records`, with records; `watched`, with records, a live table and MLflow. Iterations per second are by the
median of how long one takes, which does not notice what disturbs a few of them; of the repeats it is the median again,
and so are the ratios of runs that followed each other; `at best` is the ratio of the fastest ones. The first run of
each does not count, nor do the first iterations of all. `driver's cores` is the CPU time of the process that watches,
per second of training; with as many workers as cores, it has none of its own.

`startup`: what `dssp-bench run` with its default configuration takes besides training, which is the run's own time from
the first release to the last push; in a new folder of runs, where MLflow has to make its database, again in the same,
and on a Ray cluster that the run begins and ends itself, if Ray is installed; with the CPU time of all its processes,
which hardly suffers from what else the machine does. Then, under a stopwatch, where the seconds go, from the start of
the command to its end: each part without those within it. The server's process and the workers import torch while the
command imports its own packages and reads the data, so `processes` is only what is left to wait for.

Prints one JSON line per case, and tables.
"""

import argparse
import builtins
import ctypes
import functools
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

PARTS = ("training", "startup")
WARM_UP = 20
"""Iterations of each worker that do not count: memory is fetched for the first time in them."""
_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--iterations", type=int, default=300, help="of each worker")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # report, when it was started, folder of runs
    arguments = parser.parse_args()
    if min(arguments.batch_size, arguments.workers, arguments.repeats) < 1 or arguments.iterations <= WARM_UP:
        parser.error(f"numbers must be above 0, and --iterations above {WARM_UP}, which do not count")
    if arguments.child:
        report, began, runs_dir = arguments.child
        Path(report).write_text(json.dumps(Child(float(began)).run(runs_dir)))
        return
    del arguments.child
    from _report import header

    header(arguments)
    if arguments.only in (None, "training"):
        training(arguments)
    if arguments.only in (None, "startup"):
        startup(arguments.repeats)


# --- training ---


def training(arguments: argparse.Namespace) -> None:
    """The four ways, and their ratios."""
    from _report import case, table

    from dssp_bench.engines.local.fork_server import start_fork_server
    from dssp_bench.experiment.preload import PRELOAD

    start_fork_server(PRELOAD)
    ways: dict[str, Callable[[Any], tuple[float, float | None]]] = {
        "bare loop": bare, "server": server, "records": records, "watched": watched
    }  # fmt: skip
    measured: dict[str, list[tuple[float, float | None]]] = {way: [] for way in ways}
    for repeat in range(arguments.repeats + 1):
        for way, train in ways.items():
            with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
                found = train(_specification(Path(folder), arguments))
            if repeat:
                measured[way].append(found)
    rows: list[dict[str, Any]] = []
    rates = {way: [rate for rate, _ in found] for way, found in measured.items()}
    for way, here in rates.items():
        row: dict[str, Any] = {"way": way, "iterations_per_s": median(here), "spread": max(here) / min(here) - 1}
        for other in ("bare loop", "server"):
            row[f"of {other}"] = median(rate / there for rate, there in zip(here, rates[other], strict=True))
            row[f"of {other} at best"] = max(here) / max(rates[other])
        cores = [used for _, used in measured[way] if used is not None]
        row["driver's cores"] = median(cores) if cores else None
        case(**{key.replace(" ", "_"): value for key, value in row.items()})
        rows.append(row)
    what = f"{arguments.model}, batches of {arguments.batch_size}, workers: {arguments.workers}"
    table(f"{what}; medians of {arguments.repeats}", rows)


def bare(spec: Any) -> tuple[float, None]:
    """Iterations per second of a training loop without any of this."""
    from training import bare_loop

    iterations = spec.stop.pushes // len(spec.cluster.workers) - WARM_UP
    return bare_loop(spec, iterations, WARM_UP)["usual_per_s"], None


def server(spec: Any) -> tuple[float, None]:
    """Iterations per second through the server, nobody watching, nothing written until it is over."""
    from dssp_bench.engines.local.launch import LocalRun, server_device
    from dssp_bench.experiment.local import local_job
    from dssp_bench.experiment.plan import make_plan
    from dssp_bench.experiment.unwatched import carried_out

    data, arrivals = spec.dataset.load(), Arrivals(str(spec.runs_dir / "arrivals.json"))
    plan, device = make_plan(spec, data.facts), server_device(spec.cluster)
    job = replace(local_job(spec, plan, data, spec.runs_dir, device), recorder=arrivals)
    for _ in carried_out(LocalRun(job)):
        pass
    return _usual_rate(json.loads(Path(arrivals.path).read_text()), len(spec.cluster.workers)), None


@dataclass
class Arrivals:
    """Takes the place of the records, and remembers no more than when each push came, in seconds."""

    path: str
    found: list[float] = field(default_factory=list)

    def __call__(self) -> "Arrivals":
        """It makes itself, in the server's process."""
        return self

    def on_outcome(self, outcome: Any, learning_rates: Any) -> None:
        """Note the moment."""
        if outcome.push is not None:
            self.found.append(outcome.at / 1e9)

    def on_evaluation(self, evaluation: Any) -> None:
        """Forget it."""

    def close(self) -> None:
        """Write it all down."""
        Path(self.path).write_text(json.dumps(self.found))


def _usual_rate(arrived_s: list[float], workers: int) -> float:
    """Pushes per second by the median of how long an iteration of all workers takes."""
    counted = arrived_s[WARM_UP * workers :]
    return workers / median(after - before for before, after in zip(counted, counted[workers:], strict=False))


def records(spec: Any) -> tuple[float, float | None]:
    """The same with records, and how much of a core the driver took meanwhile."""
    return _run(spec, [])


def watched(spec: Any) -> tuple[float, float | None]:
    """The same with records, a live table on a terminal that nobody looks at, and MLflow."""
    from rich.console import Console

    from dssp_bench.experiment.mlflow_log import MlflowLog
    from dssp_bench.experiment.progress import choose

    return _run(spec, [choose(Console(file=io.StringIO(), force_terminal=True, width=120)), MlflowLog()])


def _run(spec: Any, watchers: list[Any]) -> tuple[float, float | None]:
    from dssp_bench.experiment.run import run
    from dssp_bench.experiment.watcher import RunStatus, Watcher
    from dssp_bench.records.reader import RunRecords

    looks: list[tuple[float, float]] = []

    class Looks(Watcher):
        """Notes the time, and the CPU time of this process, whenever the driver looks at the run."""

        def progress(self, status: RunStatus) -> None:
            if status.pushes:
                looks.append((time.monotonic(), time.process_time()))

    result = run(spec, [*watchers, Looks()])
    if result.status != "finished":
        sys.exit(f"a run {result.status}: {result.error}")
    (began, used), (ended, used_then) = looks[0], looks[-1]
    cores = (used_then - used) / (ended - began) if ended > began else None
    arrived = RunRecords.open(result.folder).pushes["arrived_s"].tolist()
    return _usual_rate(arrived, len(spec.cluster.workers)), cores


def _specification(folder: Path, arguments: argparse.Namespace) -> Any:
    from _spec import specification

    choices = {"paradigm": "asp", "cluster": "homogeneous", "model": arguments.model, "dataset": "synthetic"}
    overrides = {
        "cluster.count": arguments.workers,
        "cluster.workers": [{"device": arguments.device}],
        "batch_size": arguments.batch_size,
        "stop.pushes": (WARM_UP + arguments.iterations) * arguments.workers,
        "evaluation.every_epochs": None,
        "dataset.test_examples": 100,  # what the two evaluations take is no overhead of the server
    }
    return specification(folder, choices, overrides)


# --- start-up ---


def startup(repeats: int) -> None:
    """The command as it is, in a new folder of runs and again in the same, and under a stopwatch; all by turns."""
    from _report import case, table

    _adopt_orphans()
    ways: dict[str, list[str]] = {"in a new folder": [], "again": []}
    if find_spec("ray"):
        ways["on a Ray of its own"] = ["engine=cluster", "engine.address=local"]
    wholes: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    parts: list[dict[str, tuple[float, float]]] = []
    for repeat in range(repeats + 1):
        with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
            measured = {way: _whole(folder, overrides) for way, overrides in ways.items()}
        if repeat:  # the first time warms the file system up
            parts.append(_parts())
            for way, whole in measured.items():
                wholes[way].append(whole)
    rows: list[dict[str, Any]] = []
    for way, found in wholes.items():
        middle = {key: median(whole[key] for whole in found) for key in found[0]}
        lowest = min(whole["outside training"] for whole in found)
        rows.append({"dssp-bench run": way, **middle, "at best": lowest})
        case(case="startup", **{key.replace(" ", "_"): value for key, value in rows[-1].items()})
    table(f"default configuration, seconds: medians of {repeats}", rows)
    rows = []
    for part in parts[0]:
        by_wall, of_cpu = (median(found[part][i] for found in parts) for i in (0, 1))
        if by_wall >= 0.0005:
            rows.append({"part": part, "seconds": by_wall, "of the CPU": of_cpu})
    case(case="parts", **{row["part"].replace(" ", "_"): row["seconds"] for row in rows})
    table("the same in a new folder, under a stopwatch that costs something itself", rows)


def _adopt_orphans() -> None:
    """Let what the command leaves behind become children of this process, so that its CPU time can be told."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _whole(runs_dir: str, overrides: Sequence[str]) -> dict[str, float]:
    """Seconds of one command, and of the CPU in all of its processes."""
    from compare import children_cpu_s

    used, began = children_cpu_s(), time.monotonic()
    took = (
        _carried_out([sys.executable, "-m", "dssp_bench.cli.main", "run", f"runs_dir={runs_dir}", *overrides]) - began
    )
    training = _training(runs_dir)[0]
    return {"outside training": took - training, "training": training, "CPU": children_cpu_s() - used}


def _carried_out(command: list[str]) -> float:
    """When the command ended; what it left behind has ended too."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ended = time.monotonic()
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return ended


def _training(runs_dir: str) -> tuple[float, float]:
    """How long the latest run took, and when its first push came; seconds."""
    from dssp_bench.records.reader import RunRecords

    records = RunRecords.open(max(Path(runs_dir).glob("*/summary.json")).parent)
    return (records.summary or {})["duration_s"], float(records.pushes["arrived_s"].min())


def _parts() -> dict[str, tuple[float, float]]:
    """Seconds of one command by part, and those of the CPU that its own process spent on it."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        report, began = Path(folder) / "parts.json", time.monotonic()
        gone = _carried_out([sys.executable, __file__, "--child", str(report), str(began), folder])
        written = json.loads(report.read_text())
        training, first = _training(folder)
    parts: dict[str, tuple[float, float]] = written["parts"]
    waited = written["started"] - written["ready_to_go"]
    processes, conversation = parts.pop("processes"), parts.pop("conversation")
    parts["processes"] = processes[0] + waited, processes[1]
    parts["first iteration"] = first, 0.0
    parts["other iterations"] = training - first, conversation[1]
    parts["last evaluation and records"] = conversation[0] - waited - training, 0.0
    parts["end of Python"] = gone - written["ended"], 0.0
    return parts


class Stopwatch:
    """Adds up the time of parts of a program, each without the parts within it."""

    def __init__(self, part: str, began: float) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        self.parts = [part]
        self._since = began, 0.0

    def begin(self, part: str) -> None:
        """From now on it is this part's time."""
        self._note()
        self.parts.append(part)

    def end(self) -> None:
        """It is again the time of the part before."""
        self._note()
        self.parts.pop()

    def measuring(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, measured."""

        @functools.wraps(function)
        def measured(*arguments: Any, **options: Any) -> Any:
            self.begin(part)
            try:
                return function(*arguments, **options)
            finally:
                self.end()

        return measured

    def _note(self) -> None:
        wall, cpu = self.seconds.get(self.parts[-1], (0.0, 0.0))
        now = time.monotonic(), time.process_time()
        self.seconds[self.parts[-1]] = wall + now[0] - self._since[0], cpu + now[1] - self._since[1]
        self._since = now


MEASURED = {
    "dssp_bench.cli.run": {"launch": "Hydra", "JobRunner.run": "rest", "make_spec": "specification"},
    "dssp_bench.experiment.run": {"environment": "environment", "summarise": "summary", "complete": "summary"},
    "dssp_bench.engines.local.launch": {"LocalRun.__enter__": "processes", "LocalRun.close": "end of processes"},
    "dssp_bench.experiment.local": {"Conversation.to_the_end": "conversation"},
    "dssp_bench.tasks.data.digits": {"Digits.load": "data"},
    "dssp_bench.experiment.mlflow_log": {
        "MlflowLog.start": "MLflow, start", "MlflowLog.records": "MLflow, records", "MlflowLog.finish": "MLflow, end"
    },
    "dssp_bench.experiment.figures": {"Figures.finish": "figures"},
}  # fmt: skip
"""Which functions and methods are which part; they are replaced as soon as somebody has imported their module."""
IMPORTED = ("torch", "torchvision", "mlflow", "matplotlib", "pandas", "sklearn", "hydra", "pyarrow", "pydantic")


class Child:
    """`dssp-bench run` as it is, under a stopwatch."""

    def __init__(self, began: float) -> None:
        self._watch = Stopwatch("start of Python", began)
        self._unpatched = dict(MEASURED)
        self._moments: dict[str, float] = {}

    def run(self, runs_dir: str) -> dict[str, Any]:
        """Do what the command does; returns what was measured."""
        builtins.__import__ = self._importing(builtins.__import__)
        importlib.import_module = self._importing(importlib.import_module)
        self._watch.begin("rest")
        from dssp_bench.cli.main import main as command

        sys.argv = ["dssp-bench", "run", f"runs_dir={runs_dir}"]
        try:
            command()
        except SystemExit as end:
            if end.code:
                raise
        self._watch.end()
        return {"parts": self._watch.seconds, **self._moments, "ended": time.monotonic()}

    def _importing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What imports, measured: the outermost import, and within it those of large packages."""

        @functools.wraps(function)
        def measured(name: str, *arguments: Any, **options: Any) -> Any:
            package = name.partition(".")[0]
            if name in sys.modules and package != "dssp_bench":
                return function(name, *arguments, **options)
            part = f"import {package}" if package in IMPORTED else "import the rest"
            within = self._watch.parts[-1]
            if part == within or (within.startswith("import ") and package not in IMPORTED):
                module = function(name, *arguments, **options)
            else:
                module = self._watch.measuring(part, function)(name, *arguments, **options)
            if self._unpatched and not self._watch.parts[-1].startswith("import "):
                self._patch()
            return module

        return measured

    def _patch(self) -> None:
        for name in [name for name in self._unpatched if name in sys.modules]:
            for path, part in self._unpatched.pop(name).items():
                *owners, last = path.split(".")
                owner = functools.reduce(getattr, owners, sys.modules[name])
                setattr(owner, last, self._watch.measuring(part, getattr(owner, last)))
            if name == "dssp_bench.engines.local.launch":
                self._listen(sys.modules[name].LocalRun)

    def _listen(self, local_run: Any) -> None:
        """Note when the run may begin, and when it did."""
        go, message = local_run.go, local_run.message

        def noted_go(run: Any) -> None:
            self._moments["ready_to_go"] = time.monotonic()
            go(run)

        def noted_message(run: Any, timeout_s: float) -> Any:
            heard = message(run, timeout_s)
            if heard is not None and heard.kind.name == "STARTED":
                self._moments["started"] = heard.number / 1e9
            return heard

        local_run.go, local_run.message = noted_go, noted_message


if __name__ == "__main__":
    main()
