"""`dssp-bench run`: one run, or a sweep of several."""

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dssp_bench.cli.compose import Job, is_as_delivered, launch
from dssp_bench.cli.errors import FAILED, INTERRUPTED, USAGE, problem_line, show_error
from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.engines.options import ReplayOptions
from dssp_bench.engines.termination import termination_as_interrupt
from dssp_bench.experiment.preload import PRELOAD
from dssp_bench.experiment.spec import RunSpec, build_spec, is_right_so_far

MODELS = ("mlp", "cnn", "alexnet_small", "resnet20", "resnet50", "resnet110")
"""Networks of ours; one of torchvision's needs what may not be installed."""

EXAMPLES = {"digits": 1437, "fashion_mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "synthetic": 10_000}
"""How many training examples our data sets have, where their files are not asked because that takes torch."""


def run(arguments: Sequence[str]) -> int:
    """Run what the command line describes; the exit code."""
    try:
        launched = launch(arguments, JobRunner())
    except DsspBenchError as error:
        show_error(error)
        return USAGE
    results: list[JobResult] = launched.results
    if launched.is_sweep:
        _report_sweep(results, Console(highlight=False))
    if launched.interrupted:
        done = f" after {len(results)} of its runs" if launched.is_sweep else ""
        Console(stderr=True, highlight=False).print(f"interrupted{done}", style="yellow")
        return INTERRUPTED
    if all(result.ok for result in results):
        return 0
    return USAGE if all(result.status == "refused" for result in results) else FAILED


@dataclass(frozen=True)
class JobResult:
    """How one job ended: as its run did, or `refused` because its configuration cannot work."""

    status: str
    label: str = ""
    reason: str = ""
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the run came to its end."""
        return self.status == "finished"

    def __float__(self) -> float:
        """The final accuracy, which is what sweepers that optimise look at."""
        accuracy = self.summary.get("final_accuracy")
        return math.nan if accuracy is None else float(accuracy)


class JobRunner:
    """Runs Hydra's jobs as experiments; has no state, since launchers may send it to other processes."""

    def check(self, job: Job) -> None:
        """Raise ConfigurationErrors if the configuration cannot work."""
        make_spec(job)

    def run(self, job: Job) -> JobResult:
        """Run one experiment; in a sweep nothing that goes wrong with it is raised."""
        with termination_as_interrupt():
            return self._run(job)

    def _run(self, job: Job) -> JobResult:
        if job.choices.get("engine") == "local" and _is_surely_right(job):
            start_fork_server((*PRELOAD, "typer"))  # it imports torch while this process does
        from dssp_bench.experiment import run as experiment

        if job.sweep is not None:
            _announce(job)
        try:
            spec = make_spec(job)
            result = experiment.run(spec, watchers(spec, in_sweep=job.sweep is not None))
        except DsspBenchError as error:
            return self.refuse(job.label, error, in_sweep=job.sweep is not None)
        except Exception as error:  # a bug in this program or in a user's paradigm; the other runs may do without it
            if job.sweep is None:
                raise
            traceback.print_exc()
            return self._failed(job, f"{type(error).__name__}: {error}", {})
        if result.status == "finished":
            return JobResult("finished", job.label, "", result.summary or {})
        return self._failed(job, result.error or result.status, result.summary or {})

    def refuse(self, label: str, error: DsspBenchError, in_sweep: bool = True) -> JobResult:
        """Say at once what is wrong with a configuration."""
        show_error(error, f"refused {label}" if in_sweep else "error")
        return JobResult("refused", label, problem_line(error))

    def _failed(self, job: Job, reason: str, summary: dict[str, Any]) -> JobResult:
        if job.sweep is not None:
            show_error(DsspBenchError(reason), f"failed {job.label}")
        return JobResult("failed", job.label, reason, summary)


def _is_surely_right(job: Job) -> bool:
    """Whether only its data can be in the way of this job, which takes no torch to see if model and data set are ours.

    Until then nothing is started for it. All networks of ours take the inputs of all our data sets.
    """
    ours = job.choices.get("model") in MODELS and job.choices.get("dataset") in EXAMPLES
    ours = ours and all(is_as_delivered(job, group) for group in ("model", "dataset"))
    return ours and is_right_so_far(job.config, EXAMPLES[job.choices["dataset"]])


def make_spec(job: Job) -> RunSpec:
    """The specification of a job, with tags that say where it came from."""
    spec = build_spec(job.config, job.choices)
    if isinstance(spec.engine, ReplayOptions):
        _refuse_what_the_record_says(job.overrides)
    tags = {"command": job.command}
    if job.sweep is not None:
        tags |= {"sweep": job.sweep, "job": str(job.number)}
    return replace(spec, tags=tags)


def _refuse_what_the_record_says(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.partition(".")[0] not in ("engine", "runs_dir", "tracking", "hydra"):
            hint = "a replay takes everything but the engine from the record"
            raise ConfigurationError(key, "has no place in a replay", hint)


def watchers(spec: RunSpec, in_sweep: bool) -> list[Any]:
    """Who watches a run: the terminal, and whoever the specification names."""
    from dssp_bench.experiment.progress import choose  # with pandas, which `--cfg` and errors do without
    from dssp_bench.experiment.tracking import tracking

    return [choose(_console(), brief=in_sweep), *tracking(spec)]


def _console() -> Console:
    """The console that log lines go to as well, so that they stay above the live table."""
    from rich import get_console

    return get_console()


def _announce(job: Job) -> None:
    of = f" of {job.total}" if job.total is not None else ""
    _console().print(Text(f"run {job.number + 1}{of}: {job.label}"), soft_wrap=True)


def _report_sweep(results: Sequence[JobResult], console: Console) -> None:
    """A row per run, and a line that names those that failed."""
    failed = [result for result in results if not result.ok]
    if not results:
        return
    if len(failed) < len(results):
        console.print(_table(results))
    if failed:
        named = "; ".join(f"{result.label} ({result.reason})" for result in failed)
        line = f"{len(failed)} of {len(results)} runs failed: {named}"
        Console(stderr=True, highlight=False).print(Text(line, style="red"), soft_wrap=True)


def _table(results: Sequence[JobResult]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")
    shared = set.intersection(*(set(result.label.split()) for result in results))
    for column in ("accuracy", "best", "time s", "pushes/s", "waiting", "max lead"):
        table.add_column(column, justify="right")
    for result in results:
        name = Text(" ".join(word for word in result.label.split() if word not in shared) or "defaults")
        if not result.ok:
            table.add_row(name, Text(result.status, style="red"))
            continue
        summary = result.summary
        shares = [share for share in (summary.get("waiting_share") or {}).values() if share is not None]
        table.add_row(
            name,
            _number(summary.get("final_accuracy"), ".4f"),
            _number(summary.get("best_accuracy"), ".4f"),
            _number(summary.get("duration_s"), ".2f"),
            _number(summary.get("pushes_per_s"), ".1f"),
            _number(sum(shares) / len(shares) if shares else None, ".0%"),
            _number(summary.get("max_lead"), "d"),
        )
    return table


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
