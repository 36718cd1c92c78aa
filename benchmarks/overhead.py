"""What does the harness cost: the parameter server, the records, who watches, and the start of a run?

    python benchmarks/overhead.py
    python benchmarks/overhead.py --model resnet110 --batch-size 128 --device cuda --repeats 5
    python benchmarks/overhead.py --only startup

`training`: one worker trains a network whose iteration takes 20 ms or more, in four ways that take turns: `bare loop`,
an ordinary training loop in one process; `server`, the local engine with nobody watching and nothing written;
`records`, with records; `watched`, with records, a live table and MLflow. Iterations per second are medians over the
repeats, without start-up, and so are the ratios of runs that followed each other. The first run of each is not counted.

`startup`: where the seconds of `dssp-bench run` with its default configuration go, from the start of the command to its
end: each part without those within it. The server's process and the workers import torch while the command
imports its own packages and reads the data, so `processes` is only what is left to wait for. `outside training` is all
but the run's own time, from the first release to the last push.

Prints one JSON line per case, and tables.
"""

import argparse
import builtins
import functools
import importlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

PARTS = ("training", "startup")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # report, when it was started, folder of runs
    arguments = parser.parse_args()
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

    from dssp_bench.engines.local.launch import start_fork_server
    from dssp_bench.experiment.local import PRELOAD

    start_fork_server(PRELOAD)
    ways: dict[str, Callable[[Any], float]] = {
        "bare loop": bare, "server": server, "records": records, "watched": watched
    }  # fmt: skip
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(arguments.repeats + 1):
        for way, train in ways.items():
            with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
                rate = train(_specification(Path(folder), arguments))
            if repeat:
                rates[way].append(rate)
    rows = []
    for way, found in rates.items():
        share = {f"of {other}": _ratio(found, rates[other]) for other in ("bare loop", "server")}
        rate = median(found)
        row = {"way": way, "iterations_per_s": rate, "ms": 1000 / rate, "spread": max(found) / min(found) - 1, **share}
        case(**{key.replace(" ", "_"): value for key, value in row.items()})
        rows.append(row)
    table(f"{arguments.model}, batches of {arguments.batch_size}, one worker: medians of {arguments.repeats}", rows)


def _ratio(rates: list[float], others: list[float]) -> float:
    return median(rate / other for rate, other in zip(rates, others, strict=True))


def bare(spec: Any) -> float:
    """Iterations per second of a training loop without any of this."""
    from training import bare_loop

    return bare_loop(spec, spec.stop.pushes)["iterations_per_s"]


def server(spec: Any) -> float:
    """Iterations per second through the server, nobody watching, nothing written."""
    from functools import partial

    from _local import carried_out, without_records

    from dssp_bench.engines.local.launch import LocalJob, server_device
    from dssp_bench.experiment.parts import EvaluatorMaker, SharedData, WorkerMaker, initial_state
    from dssp_bench.experiment.plan import make_plan
    from dssp_bench.records.writer import RecordWriter
    from dssp_bench.tasks.task import Task

    data = spec.dataset.load()
    shared, plan, device = SharedData(data), make_plan(spec, data.facts), server_device(spec.cluster)
    job = LocalJob(
        paradigm=spec.paradigm,
        layout=spec.cluster,
        limits=plan.limits,
        rates=plan.rates,
        optimizer=spec.optimizer.options,
        initial=initial_state(Task(spec.model, data).build_model(spec.seed)),
        worker=WorkerMaker(spec.model, shared, spec.batch_size, spec.seed, len(spec.cluster.workers)),
        evaluator=EvaluatorMaker(spec.model, shared, spec.evaluation.batch_size),
        recorder=partial(RecordWriter, spec.runs_dir / "run"),
        evaluate_every=plan.evaluate_every,
        evaluation_device=device,
        target_accuracy=None,
        options=spec.engine,
    )
    running = carried_out(without_records(job))
    while True:
        try:
            next(running)
        except StopIteration as end:
            page = end.value.page
            return float(page.pushes / page.elapsed_s)


def records(spec: Any) -> float:
    """The same with records."""
    return _run(spec, [])


def watched(spec: Any) -> float:
    """The same with records, a live table on a terminal that nobody looks at, and MLflow."""
    from rich.console import Console

    from dssp_bench.experiment.mlflow_log import MlflowLog
    from dssp_bench.experiment.progress import choose

    return _run(spec, [choose(Console(file=io.StringIO(), force_terminal=True, width=120)), MlflowLog()])


def _run(spec: Any, watchers: list[Any]) -> float:
    from dssp_bench.experiment.run import run

    result = run(spec, watchers)
    if result.status != "finished":
        sys.exit(f"a run {result.status}: {result.error}")
    return float((result.summary or {})["pushes_per_s"])


def _specification(folder: Path, arguments: argparse.Namespace) -> Any:
    from _spec import specification

    choices = {"paradigm": "asp", "cluster": "homogeneous", "model": arguments.model, "dataset": "synthetic"}
    overrides = {
        "cluster.count": 1,
        "cluster.workers": [{"device": arguments.device}],
        "batch_size": arguments.batch_size,
        "stop.pushes": arguments.iterations,
        "evaluation.every_epochs": None,
        "dataset.test_examples": 100,  # what the two evaluations take is no overhead of the server
    }
    return specification(folder, choices, overrides)


# --- start-up ---


def startup(repeats: int) -> None:
    """Seconds by part, medians of several commands."""
    from _report import case, table

    found: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        parts = _parts()
        if repeat:  # the first one warms the file system up
            for part, seconds in parts.items():
                found.setdefault(part, []).append(seconds)
    middle = {part: median(seconds) for part, seconds in found.items()}
    case(case="startup", **{part.replace(" ", "_"): seconds for part, seconds in middle.items()})
    rows = [{"part": part, "seconds": seconds} for part, seconds in middle.items() if seconds >= 0.0005]
    table(f"dssp-bench run, default configuration: medians of {repeats}", rows)


def _parts() -> dict[str, float]:
    """Seconds of one command by part."""
    from dssp_bench.records.reader import RunRecords

    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        report = Path(folder) / "parts.json"
        began = time.monotonic()
        command = [sys.executable, __file__, "--child", str(report), str(began), folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        gone = time.monotonic()
        written = json.loads(report.read_text())
        records = RunRecords.open(next(Path(folder).glob("*/summary.json")).parent)
        training, first = (records.summary or {})["duration_s"], float(records.pushes["arrived_s"].min())
    parts: dict[str, float] = written["parts"]
    waited = written["started"] - written["ready_to_go"]
    parts["processes"] = parts.get("processes", 0.0) + waited
    parts["last evaluation and records"] = parts.pop("conversation") - waited - training
    parts["end of Python"] = gone - written["ended"]
    parts |= {"first iteration": first, "other iterations": training - first}
    return parts | {"all": gone - began, "outside training": gone - began - training}


class Stopwatch:
    """Adds up the time of parts of a program, each without the parts within it."""

    def __init__(self, part: str, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self.parts = [part]
        self._since = began

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
        now = time.monotonic()
        self.seconds[self.parts[-1]] = self.seconds.get(self.parts[-1], 0.0) + now - self._since
        self._since = now


MEASURED = {
    "dssp_bench.cli.run": {"launch": "Hydra", "JobRunner.run": "rest", "make_spec": "specification"},
    "dssp_bench.experiment.run": {
        "start_fork_server": "processes", "environment": "environment", "summarise": "summary", "complete": "summary"
    },
    "dssp_bench.engines.local.launch": {"LocalRun.__enter__": "processes", "LocalRun.close": "end of processes"},
    "dssp_bench.experiment.local": {"_Conversation.to_the_end": "conversation"},
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
