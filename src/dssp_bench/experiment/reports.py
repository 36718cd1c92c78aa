"""The reports of several studies from their finished runs, written at the same time, and what they say in short."""

import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dssp_bench.core.errors import RecordsError
from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.engines.local.processes import prepare_process
from dssp_bench.experiment.batch import Item, finished_runs
from dssp_bench.experiment.mlflow_store import log_report
from dssp_bench.experiment.report import in_short, result_of, write_report
from dssp_bench.experiment.sensitivity import sensitivity
from dssp_bench.experiment.studies import Scale, Study
from dssp_bench.records.files import write_whole
from dssp_bench.records.reader import RunRecords


@dataclass(frozen=True)
class Plan:
    """A study with its runs at one scale; `changes` are overrides of what the study itself says."""

    study: Study
    scale: Scale
    changes: tuple[str, ...]
    items: Sequence[Item]

    @property
    def name(self) -> str:
        """The name of its report, which is another one for other changes."""
        return "-".join([self.study.name, self.scale, *_digest(self.changes)])


class Told(NamedTuple):
    """What a report says in short; without a path there was nothing to report on. A warning is empty, or one line."""

    lines: list[str]
    path: Path | None
    runs: int
    warning: str = ""


def make_reports(plans: Sequence[Plan], folder: Path) -> Iterator[tuple[Plan, Told]]:
    """Write each plan's report into a folder of its own, as many at a time as there are cores.

    Several of them get an overview, which the last one's coming completes. Raises RecordsError.
    """
    make = partial(make_report, folder=folder)
    if len(plans) == 1:
        yield plans[0], make(plans[0])
        return
    start_fork_server(("dssp_bench.experiment.reports", "dssp_bench.plots.of_arms"))
    context = multiprocessing.get_context("forkserver")
    all_told: list[tuple[Plan, Told]] = []
    size = min(len(plans), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(size, context, initializer=prepare_process, initargs=(1,)) as pool:
        for plan, told in zip(plans, pool.map(make, plans), strict=True):
            yield plan, told
            all_told.append((plan, told))
    _write_overview(all_told, folder)


def make_report(plan: Plan, folder: Path) -> Told:
    """Write one report from the runs that are finished. Raises RecordsError."""
    spec = plan.items[0].spec
    finished = finished_runs(spec.runs_dir)
    folders = [finished[item.fingerprint] for item in plan.items if item.fingerprint in finished]
    if not folders:
        return Told([], None, 0)
    result = result_of(plan.study, plan.scale, map(_opened, folders), len(plan.items), plan.changes)
    other_settings = list(sensitivity(spec)) if plan.study.name == "fig4" and plan.scale == "timing" else []
    path = write_report(result, folder / plan.name, other_settings)
    warning = _show_in_mlflow(spec.runs_dir, path.parent) if spec.tracking.mlflow else ""
    return Told(in_short(result), path, len(folders), warning)


def _digest(changes: Sequence[str]) -> list[str]:
    return [hashlib.sha256(" ".join(changes).encode()).hexdigest()[:6]] if changes else []


def _opened(folder: Path) -> RunRecords:
    try:
        return RunRecords.open(folder)
    except RecordsError as error:
        raise RecordsError(f"{error}; delete {folder}, and the run is made again") from error


def _show_in_mlflow(runs_dir: Path, folder: Path) -> str:
    """The report's files in MLflow too; a report that is on disk is not lost for want of it."""
    try:
        log_report(runs_dir, folder.name, folder)
    except Exception as error:  # MLflow's own, of many kinds
        return f"MLflow does not show the report: {error}"
    return ""


def _write_overview(all_told: Sequence[tuple[Plan, Told]], folder: Path) -> None:
    """What every report says in short, in one file for the scale."""
    first = all_told[0][0]
    sections = ["# Figures of the DSSP paper, " + " ".join([f"scale={first.scale}", *first.changes])]
    for plan, told in all_told:
        if told.path:
            link = f"[{plan.study.figure}]({told.path.relative_to(folder).as_posix()})"
            sections.append(f"## {link}: {plan.study.title}\n\n" + "\n".join(f"- {line}" for line in told.lines))
    text = "\n\n".join(sections) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    name = "-".join(["all", first.scale, *_digest(first.changes)])
    write_whole(folder / f"{name}.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
