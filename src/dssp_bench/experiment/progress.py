"""Shows a run to who started it: a live table on a terminal, a plain line now and then elsewhere; then a summary."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dssp_bench.analysis.names import named_with_replacements
from dssp_bench.core.messages import Evaluation
from dssp_bench.experiment.spec import default_runs_dir
from dssp_bench.experiment.watcher import RunInfo, RunStatus, Status, Watcher, WorkerStatus
from dssp_bench.records.reader import RunRecords

_REFRESH_S = 0.25
_LINE_EVERY_S = 5.0
_LINE_AFTER_BEST_S = 1.0
_MOST_WORKERS_IN_SUMMARY = 8
_HEADER_LINES = 7
_STATE_STYLES = {"computing": "green", "held": "yellow", "starting": "dim", "left": "dim"}

Clock = Callable[[], float]


def choose(console: Console, brief: bool = False) -> Watcher:
    """The live table on a terminal, plain lines elsewhere; `brief` keeps the final summary to one line."""
    return LiveProgress(console, brief) if console.is_terminal else PlainProgress(console, brief)


class _Progress(Watcher):
    """What both ways of showing a run have in common."""

    def __init__(self, console: Console, brief: bool = False, now: Clock = time.monotonic) -> None:
        self._console = console
        self._brief = brief
        self._now = now
        self._run: RunInfo | None = None
        self._status: RunStatus | None = None
        self._latest: Evaluation | None = None
        self._best: Evaluation | None = None

    def start(self, run: RunInfo) -> None:
        """Keep what the run is."""
        self._run = run

    def progress(self, status: RunStatus) -> None:
        """Keep how the run stands."""
        self._status = status

    def evaluation(self, evaluation: Evaluation) -> None:
        """Keep the latest evaluation and the best."""
        if self._latest is None or evaluation.at >= self._latest.at:  # results may come in another order
            self._latest = evaluation
        if self._best is None or evaluation.accuracy > self._best.accuracy:
            self._best = evaluation

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        """Print the final summary."""
        if self._run is None:  # it failed before it could start
            self._console.print(Text(f"{status}: {error}" if error else status), soft_wrap=True, highlight=False)
            return
        lines = brief_summary if self._brief else final_summary
        for line in lines(self._run, status, summary or {}, error, largest_leads(records)):
            self._console.print(line, soft_wrap=not self._console.is_terminal, highlight=False)

    def _accuracy(self) -> str:
        if self._latest is None or self._best is None:
            return ""
        return f"accuracy {self._latest.accuracy:.4f}, best {self._best.accuracy:.4f}"

    def _pushes(self, status: RunStatus) -> str:
        total = self._run.total_pushes if self._run else None
        return f"{status.pushes}" + (f" of {total}" if total else "") + " pushes"


class PlainProgress(_Progress):
    """One plain line every few seconds, or a little earlier when the accuracy is the best so far."""

    _printed_at = 0.0

    def start(self, run: RunInfo) -> None:
        """Say what starts."""
        super().start(run)
        self._printed_at = self._now()
        if not self._brief:
            self._print(f"{_title(run)}: {_beginning(run)}")

    def progress(self, status: RunStatus) -> None:
        """Print a line if the last one is long ago."""
        super().progress(status)
        if status.pushes and self._now() - self._printed_at >= _LINE_EVERY_S:
            self._print_status(status)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Print a line if this is the best accuracy so far, unless the last line is only just there."""
        before = self._best
        super().evaluation(evaluation)
        is_time = self._now() - self._printed_at >= _LINE_AFTER_BEST_S
        if self._best is not before and is_time and not self._brief and self._status and self._status.pushes:
            self._print_status(self._status)

    def _print_status(self, status: RunStatus) -> None:
        assert self._run is not None
        self._printed_at = self._now()
        loss = "" if status.loss is None else f"loss {status.loss:.4f}"
        waiting = f"waiting {_mean_waiting(status):.0%}"
        parts = [_seconds(status.elapsed_s, self._run), self._pushes(status), _rate(status), loss, self._accuracy()]
        self._print("  ".join(part for part in [*parts, waiting] if part))

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class LiveProgress(_Progress):
    """A table of the workers under what the run is and how far it is; gone when the run is over."""

    def __init__(self, console: Console, brief: bool = False, now: Clock = time.monotonic) -> None:
        super().__init__(console, brief, now)
        # Refreshed by hand: a thread that holds the console's lock while the engine forks would block its children.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown_at = -_REFRESH_S

    def start(self, run: RunInfo) -> None:
        """Open the live table."""
        super().start(run)
        self._live.start()
        self._show()

    def progress(self, status: RunStatus) -> None:
        """Bring the table up to date, a few times a second."""
        super().progress(status)
        if self._now() - self._shown_at >= _REFRESH_S:
            self._show()

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        """Put the summary in the place of the table."""
        self._live.stop()
        super().finish(status, records, summary, error)

    def _show(self) -> None:
        self._shown_at = self._now()
        self._live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        """The table as it is now."""
        assert self._run is not None
        title = Text(_title(self._run), style="bold", no_wrap=True, overflow="ellipsis")
        if self._status is None:
            return Group(title, Text(f"{_beginning(self._run)} ...", style="dim"))
        return Group(title, *self._headline(self._status), *self._workers(self._status))

    def _headline(self, status: RunStatus) -> Iterator[RenderableType]:
        assert self._run is not None
        parts = [_seconds(status.elapsed_s, self._run), self._pushes(status), _rate(status)]
        yield _one_line("  ".join(parts))
        if self._run.total_pushes:
            line = Table.grid()  # a bar by itself does not end its line
            width = min(60, self._console.width)
            line.add_row(ProgressBar(total=self._run.total_pushes, completed=status.pushes, width=width))
            yield line
        loss = "" if status.loss is None else f"loss {status.loss:.4f}"
        learned = "  ".join(part for part in (loss, self._accuracy()) if part)
        if learned:
            yield _one_line(learned)

    def _workers(self, status: RunStatus) -> Iterator[RenderableType]:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("worker", no_wrap=True, overflow="ellipsis")
        for column in ("iteration", "lead", "staleness", "waiting"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True)
        fitting = max(1, self._console.height - _HEADER_LINES)
        for worker in status.workers[:fitting]:
            table.add_row(*_row(worker, status.elapsed_s))
        yield table
        if len(status.workers) > fitting:
            yield _one_line(f"and {len(status.workers) - fitting} more", "dim")


def final_summary(
    run: RunInfo, status: Status, summary: Mapping[str, Any], error: str, leads: Mapping[str, int]
) -> Iterator[Text]:
    """What came of the run, line by line; what is not known is left out."""
    yield _verdict(run, status, error)
    for label, text in _facts(run, summary):
        if text:
            yield _labelled(label, text)
    for i, line in enumerate(_worker_lines(run, summary, leads)):
        yield _labelled("workers" if i == 0 else "", line)
    if status != "failed" and (lost := summary.get("lost_workers")):
        replacements = summary.get("replacements") or {}
        names = named_with_replacements(run.worker_names, replacements)
        said = ", ".join(names[worker] for worker in lost)
        how = f"{_count(len(replacements), 'replacement')} joined" if replacements else "the others went on"
        yield Text.assemble((f"  {'degraded':<12}", "bold red"), f"{said} died on the way; {how}")
    if status != "failed" and (skipped := summary.get("skipped")):
        yield Text.assemble((f"  {'degraded':<12}", "bold red"), f"{skipped:,} gradients were not finite and left out")
    yield _labelled("records", _short_path(run.folder))
    if (run.folder / "checkpoints").exists():
        yield _labelled("", f"`dssp-bench resume {_short_path(run.folder)}` goes on")
    elsewhere = "" if run.runs_dir == default_runs_dir() else f" --runs-dir {_short_path(run.runs_dir)}"
    yield _labelled("", f"`dssp-bench ui{elsewhere}` shows all runs")


def brief_summary(
    run: RunInfo, status: Status, summary: Mapping[str, Any], error: str, leads: Mapping[str, int]
) -> Iterator[Text]:
    """The same in one line, for a run among many; of a failed run its sweep says more."""
    if status == "finished":
        shares = [share for share in (summary.get("waiting_share") or {}).values() if share is not None]
        waiting = f"waiting {sum(shares) / len(shares):.0%}" if shares else ""
        facts = dict(_facts(run, summary))
        lost = "DEGRADED: workers died" if summary.get("lost_workers") else ""
        skipped = f"DEGRADED: {summary['skipped']:,} gradients skipped" if summary.get("skipped") else ""
        parts = [facts["accuracy"], facts["time"].partition(",")[0], waiting, lost, skipped, _short_path(run.folder)]
        yield Text("  " + "  ".join(part for part in parts if part))


def largest_leads(records: RunRecords | None) -> dict[str, int]:
    """The largest lead of each worker, by its number; empty if there are no pushes."""
    if records is None or not len(records.pushes):
        return {}
    return {str(worker): int(lead) for worker, lead in records.pushes.groupby("worker")["lead"].max().items()}


def _verdict(run: RunInfo, status: Status, error: str) -> Text:
    style = {"finished": "bold green", "failed": "bold red"}.get(status, "bold yellow")
    line = Text.assemble((status, style), f" {_title(run)}")
    return line.append(f": {error}") if error else line


def _facts(run: RunInfo, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "accuracy", _accuracy_of(run, summary)
    duration, startup = summary.get("duration_s"), summary.get("startup_s")
    took = "" if duration is None else _seconds(duration, run)
    yield "time", took + (f", after {startup:.2f} s of start-up" if took and startup else "")
    rates = [(summary.get("pushes_per_s"), "pushes/s"), (summary.get("samples_per_s"), "samples/s")]
    yield "throughput", ", ".join(f"{rate:.1f} {unit}" for rate, unit in rates if rate is not None)
    counts = [f"{summary[key]} {key}" for key in ("pushes", "updates", "grants") if summary.get(key) is not None]
    yield "counts", ", ".join(counts)
    if summary.get("replayed") and summary.get("different_rows") is not None:
        same = not any(summary["different_rows"].values())
        yield "replayed", f"{summary['replayed']}: {'every decision is' if same else 'not every decision is'} the same"
    yield "schedule", f"on the clock of {clock}" if (clock := summary.get("learning_rate_clock")) else ""
    mean, p99 = summary.get("mean_staleness"), summary.get("p99_staleness")
    yield "staleness", "" if mean is None else f"{mean:.2f} mean" + ("" if p99 is None else f", {p99:g} p99")


def _accuracy_of(run: RunInfo, summary: Mapping[str, Any]) -> str:
    final, best, at = (summary.get(key) for key in ("final_accuracy", "best_accuracy", "best_accuracy_at_s"))
    if final is None:
        return ""
    text = f"{final:.4f} final" + ("" if best is None else f", {best:.4f} best")
    text += "" if at is None or best is None else f" at {_seconds(at, run)}"
    for target, reached in (summary.get("time_to_target") or {}).items():
        text += f", {target} " + ("not reached" if reached is None else f"at {_seconds(reached, run)}")
    return text


def _worker_lines(run: RunInfo, summary: Mapping[str, Any], leads: Mapping[str, int]) -> Iterator[str]:
    iterations, shares = summary.get("iterations") or {}, summary.get("waiting_share") or {}
    if not iterations:
        return
    names = named_with_replacements(run.worker_names, summary.get("replacements") or {})
    width = max(len(name) for name in names)
    shown = list(enumerate(names))
    if len(shown) > _MOST_WORKERS_IN_SUMMARY:
        shown = sorted(shown, key=lambda worker: shares.get(str(worker[0])) or 0.0)
        shown = [shown[0], shown[-1]]
        yield f"{len(names)}; the one that waited least and the one that waited most:"
    for number, name in shown:
        worker = str(number)
        parts = [f"{iterations.get(worker, 0)} iterations"]
        if shares.get(worker) is not None:
            parts.append(f"waiting {shares[worker]:.0%}")
        if worker in leads:
            parts.append(f"largest lead {leads[worker]}")
        yield f"{name:{width}}  {', '.join(parts)}"


def _labelled(label: str, text: str) -> Text:
    return Text.assemble((f"  {label:<12}", "dim"), text)


def _title(run: RunInfo) -> str:
    choice = run.choices.get
    parts = [
        f"{choice('paradigm', '?')} on {choice('cluster', '?')}",
        f"{choice('model', '?')} on {choice('dataset', '?')}",
    ]
    return f"{', '.join(parts)}, {choice('engine', '?')} engine, seed {run.seed}"


def _beginning(run: RunInfo) -> str:
    resumed = run.environment.get("resumed")
    after = f", to go on after {_count(resumed[-1]['after_pushes'], 'push')}" if resumed else ""
    workers = _count(len(run.worker_names), "worker")
    if run.address:
        return f"waiting for {workers}{after}: dssp-bench worker --join {run.address}"
    return f"starting {workers}{after}"


def _row(worker: WorkerStatus, elapsed_s: float) -> tuple[RenderableType, ...]:
    return (
        Text(worker.name),
        str(worker.clock),
        str(worker.lead),
        "-" if worker.staleness is None else str(worker.staleness),
        f"{_share(worker, elapsed_s):.0%}",
        Text(worker.state, style=_STATE_STYLES.get(worker.state, "")),
    )


def _share(worker: WorkerStatus, elapsed_s: float) -> float:
    return min(1.0, worker.waited_s / elapsed_s) if elapsed_s > 0 else 0.0


def _mean_waiting(status: RunStatus) -> float:
    shares = [_share(worker, status.elapsed_s) for worker in status.workers]
    return sum(shares) / len(shares) if shares else 0.0


def _rate(status: RunStatus) -> str:
    return f"{status.pushes / status.elapsed_s:.1f} pushes/s" if status.elapsed_s > 0 else "0 pushes/s"


def _seconds(seconds: float, run: RunInfo) -> str:
    unit = "virtual s" if run.choices.get("engine") == "simulated" else "s"
    return f"{seconds:.2f} {unit}"


def _count(number: int, thing: str) -> str:
    plural = "es" if thing.endswith("sh") else "s"
    return f"{number:,} {thing}{'' if number == 1 else plural}"


def _one_line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _short_path(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
