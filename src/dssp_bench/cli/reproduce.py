"""`dssp-bench reproduce`: the paper's figures and tables, from runs that are made once, to a report."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from dssp_bench.cli.compose import Job, compose_job
from dssp_bench.cli.errors import FAILED, INTERRUPTED, USAGE, show_error
from dssp_bench.cli.run import make_spec
from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.experiment.batch import BatchProgress, Item, carry_out, finished_runs
from dssp_bench.experiment.spec import nearest
from dssp_bench.experiment.studies import SCALES, STUDIES, Scale, Study

if TYPE_CHECKING:
    from dssp_bench.experiment.reports import Plan, Told

_NAMES = (*STUDIES, "table1", "all")
_WITHOUT_EFFECT = ("runs_dir", "tracking", "checkpoint", "dataset.root", "name")


@dataclass(frozen=True)
class Wish:
    """What was typed: which figures, at which scale, with which seeds, and what else to override."""

    names: tuple[str, ...]
    scale: Scale = "mini"
    seeds: tuple[int, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def studies(self) -> list[Study]:
        """The studies whose runs are needed, each once."""
        wanted = {"fig4" if name == "table1" else name for name in self.names}
        return [study for study in STUDIES.values() if study.name in wanted or "all" in wanted]

    @property
    def changes(self) -> tuple[str, ...]:
        """What was typed that makes other runs of the studies, and so needs a report of its own."""
        kept = [o for o in self.overrides if not o.lstrip("+").startswith(_WITHOUT_EFFECT)]
        return (*kept, f"seed={','.join(map(str, self.seeds))}") if self.seeds else tuple(kept)


def reproduce(
    arguments: Sequence[str], processes: int | None = None, output: Path | None = None, dry_run: bool = False
) -> int:
    """Make the runs that are missing, and write a report on each figure; the exit code."""
    console = Console(highlight=False)
    try:
        wish = understood(arguments)
        planned_items = {study: planned(study, wish) for study in wish.studies}
        items = [item for of_study in planned_items.values() for item in of_study]
        runs_dir = items[0].spec.runs_dir
        missing = _missing(items, runs_dir)
        console.print(_plan_line(wish, len(items), len(missing)))
        if dry_run:
            for item in missing:
                console.print(Text(f"  {item.label}"), soft_wrap=True)
            return 0
        errors: dict[str, str] = {}
        folder = output or runs_dir / "reports"
        _make_folder(folder, "--output" if output else "runs_dir")
        if missing:
            with _Bars(console, len(items), len(items) - len(missing)) as bars:
                errors = carry_out(missing, bars, processes)
        _report(wish, planned_items, folder, console)
    except KeyboardInterrupt:
        Console(stderr=True, highlight=False).print("interrupted; the same command goes on from here", style="yellow")
        return INTERRUPTED
    except DsspBenchError as error:
        show_error(error)
        return USAGE
    return FAILED if errors else 0


def _missing(items: Sequence[Item], runs_dir: Path) -> list[Item]:
    """The items without a finished run, each configuration once."""
    finished = finished_runs(runs_dir)
    return list({item.fingerprint: item for item in items if item.fingerprint not in finished}.values())


def _make_folder(folder: Path, key: str) -> None:
    """Now, since a set of runs may take days. Raises ConfigurationError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(key, f"cannot write to {folder}: {error.strerror}") from error


def understood(arguments: Sequence[str]) -> Wish:
    """What was meant. Raises ConfigurationError."""
    names = [argument for argument in arguments if "=" not in argument]
    values = [argument for argument in arguments if "=" in argument]
    for name in names:
        if name not in _NAMES:
            near = nearest(name, _NAMES)
            hint = f"did you mean {near}? " if near else ""
            raise ConfigurationError(name, "is none of the paper's figures", f"{hint}there are {', '.join(_NAMES)}")
    if not names:
        raise ConfigurationError("reproduce", "needs to know what", f"one or more of {', '.join(_NAMES)}")
    wish = Wish(tuple(names))
    overrides: list[str] = []
    for value in values:
        key, _, text = value.partition("=")
        if key == "scale":
            wish = replace(wish, scale=_scale(text))
        elif key == "seed":
            wish = replace(wish, seeds=_seeds(text))
        else:
            overrides.append(value)
    return replace(wish, overrides=tuple(overrides))


def _scale(text: str) -> Scale:
    for scale in SCALES:
        if text == scale:
            return scale
    raise ConfigurationError("scale", f"must be one of {', '.join(SCALES)}, got {text!r}")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(seed) for seed in text.strip("[]").split(",")))
    except ValueError:
        raise ConfigurationError("seed", f"must be whole numbers, got {text!r}", "such as seed=1,2,3") from None


def planned(study: Study, wish: Wish) -> list[Item]:
    """The study's runs, all of them checked. Raises ConfigurationErrors."""
    _refuse_what_is_compared(study, wish)
    jobs: dict[str, Job] = {}
    items = []
    for arm in study.arms(wish.scale):
        if arm.paradigm not in jobs:  # composing takes longer than all else here
            overrides = [*study.overrides(wish.scale), f"paradigm={arm.paradigm}", *wish.overrides]
            jobs[arm.paradigm] = compose_job(overrides)
        job = jobs[arm.paradigm]
        for seed in wish.seeds or study.seeds(wish.scale):
            config = _with_values(job.config, (*arm.values, ("seed", seed)))
            spec = make_spec(replace(job, config=config))
            tagged = replace(spec, tags={**spec.tags, "study": f"{study.name}-{wish.scale}"})
            items.append(Item(f"{study.name}: {arm.label}, seed {seed}", tagged))
    return items


def _refuse_what_is_compared(study: Study, wish: Wish) -> None:
    """Raise ConfigurationError if an override would be overwritten by the values that make the arms."""
    compared = {"paradigm", *(key for arm in study.arms(wish.scale) for key, _ in arm.values)}
    for override in wish.overrides:
        key = override.partition("=")[0].lstrip("+")
        if key in compared:
            hint = f"dssp-bench run experiment=paper/{study.name} makes single runs"
            raise ConfigurationError(key, "is set for each arm by what is reproduced", hint)


def _with_values(config: Mapping[str, Any], values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of a configuration in which these keys have these values."""
    changed = copy.deepcopy(dict(config))
    for key, value in values:
        *groups, name = key.split(".")
        functools.reduce(operator.getitem, groups, changed)[name] = value
    return changed


def _plan_line(wish: Wish, total: int, missing: int) -> Text:
    names = ", ".join(study.name for study in wish.studies)
    done = f", {total - missing} of them finished already" if missing < total else ""
    return Text(f"{names} at scale={wish.scale}: {total} runs{done}")


class _Bars(BatchProgress, AbstractContextManager["_Bars"]):
    """One bar for the whole set and one for each run that goes on; plain lines without a terminal."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console = console
        self._total = total
        self._done = done
        self._bars: dict[str, TaskID] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._all = self._progress.add_task("runs", total=total, completed=done)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, item: Item) -> None:
        """Show the run."""
        self._bars[item.label] = self._progress.add_task(item.label, total=100)

    def moved(self, item: Item, share: float) -> None:
        """Show how far it is."""
        self._progress.update(self._bars[item.label], completed=int(100 * share))

    def ended(self, item: Item, error: str) -> None:
        """Count it, and say what went wrong."""
        self._done += 1
        self._progress.remove_task(self._bars.pop(item.label))
        self._progress.update(self._all, completed=self._done)
        if error:
            show_error(DsspBenchError(error), f"failed {item.label}")
        elif not self._console.is_terminal:
            self._console.print(Text(f"{self._done} of {self._total}: {item.label}"), soft_wrap=True)


def _report(wish: Wish, planned_items: Mapping[Study, Sequence[Item]], folder: Path, console: Console) -> None:
    """Write the reports, and say what is in them."""
    from dssp_bench.experiment.reports import Plan, make_reports  # with pandas and MLflow

    plans = [Plan(study, wish.scale, wish.changes, tuple(items)) for study, items in planned_items.items()]
    with console.status("reports"):
        for plan, told in make_reports(plans, folder):
            _say(plan, told, console)


def _say(plan: Plan, told: Told, console: Console) -> None:
    """What is in a report, in short."""
    console.print()
    if told.path is None:
        console.print(Text(f"{plan.study.figure}: no finished runs, so no report", style="yellow"))
        return
    console.print(Text(f"{plan.study.figure}: {plan.study.title}", style="bold"))
    for line in told.lines:
        console.print(Text(f"  {line}"))
    of = f" from {told.runs} of {len(plan.items)} runs" if told.runs < len(plan.items) else ""
    console.print(Text(f"  report{of}: {told.path}"), soft_wrap=True)
    if told.warning:
        Console(stderr=True, highlight=False).print(Text(told.warning, style="yellow"))
