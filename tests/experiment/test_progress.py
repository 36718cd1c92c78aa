"""What somebody sees of a run: plain lines or a live table, then a summary."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dssp_bench.core.messages import SECOND, Evaluation
from dssp_bench.experiment.progress import LiveProgress, PlainProgress, choose
from dssp_bench.experiment.watcher import RunInfo, RunStatus, Watcher, WorkerStatus

RUN = RunInfo(
    name="run",
    folder=Path("/runs/run"),
    runs_dir=Path("/runs"),
    config={},
    choices={"paradigm": "dssp", "cluster": "hetero", "engine": "local", "model": "mlp", "dataset": "digits"},
    environment={},
    worker_names=("fast", "slow"),
    seed=1,
    total_pushes=200,
)
SUMMARY: dict[str, Any] = {
    "final_accuracy": 0.97,
    "best_accuracy": 0.98,
    "best_accuracy_at_s": 3.1,
    "duration_s": 4.2,
    "startup_s": 1.3,
    "pushes_per_s": 47.6,
    "samples_per_s": 1523.8,
    "pushes": 200,
    "updates": 190,
    "grants": 12,
    "iterations": {"0": 120, "1": 80},
    "waiting_share": {"0": 0.36, "1": 0.0},
    "learning_rate_clock": "samples",
}


class Wall:
    """A clock that stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def status(pushes: int, elapsed_s: float = 2.0) -> RunStatus:
    workers = (
        WorkerStatus("fast", pushes // 2 + 4, 4, 1, elapsed_s / 4, "held"),
        WorkerStatus("slow", pushes // 2 - 4, 0, None, 0.0, "computing"),
    )
    return RunStatus(elapsed_s, pushes, pushes, 0.5, workers)


def evaluation(accuracy: float, at_s: float = 1.0) -> Evaluation:
    return Evaluation(round(at_s * SECOND), 10, 320, 1.0, 0.4, accuracy)


def screen(terminal: bool = False, width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=height, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_gets_the_table_and_a_pipe_plain_lines() -> None:
    assert isinstance(choose(screen(terminal=True)), LiveProgress)
    assert isinstance(choose(screen()), PlainProgress)


class TestPlain:
    def test_a_line_comes_every_few_seconds(self) -> None:
        console, wall = screen(), Wall()
        progress = PlainProgress(console, now=wall)
        progress.start(RUN)
        for wall.now in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
            progress.progress(status(100))
        assert shown(console).splitlines() == [
            "dssp on hetero, mlp on digits, local engine, seed 1: starting 2 workers",
            "2.00 s  100 of 200 pushes  50.0 pushes/s  loss 0.5000  waiting 12%",
        ]

    def test_a_new_best_is_shown_earlier_but_not_twice_a_second(self) -> None:
        console, wall = screen(), Wall()
        progress = PlainProgress(console, now=wall)
        progress.start(RUN)
        progress.progress(status(100))
        for wall.now, accuracy in ((1.5, 0.5), (1.6, 0.6), (3.0, 0.55), (3.5, 0.7)):
            progress.evaluation(evaluation(accuracy, wall.now))
        lines = shown(console).splitlines()[1:]
        assert [line.partition("accuracy ")[2][:6] for line in lines] == ["0.5000", "0.7000"]

    def test_no_line_is_padded(self) -> None:
        console = screen()
        progress = PlainProgress(console)
        progress.start(RUN)
        progress.finish("finished", None, SUMMARY, "")
        assert all(line == line.rstrip() for line in shown(console).splitlines())


class TestLive:
    def rendered(self, console: Console, workers: int = 2) -> list[str]:
        progress = LiveProgress(console, now=Wall())
        Watcher.start(progress, RUN)
        progress._run = RUN
        progress._status = status(100)._replace(workers=status(100).workers * (workers // 2))
        progress.evaluation(evaluation(0.9))
        page = Console(file=io.StringIO(), width=console.width, height=console.height, color_system=None)
        page.print(progress.render())
        return [line.rstrip() for line in shown(page).splitlines()]

    def test_each_worker_has_a_row(self) -> None:
        lines = self.rendered(screen(terminal=True))
        assert lines[0] == "dssp on hetero, mlp on digits, local engine, seed 1"
        assert lines[1] == "2.00 s  100 of 200 pushes  50.0 pushes/s"
        assert lines[3] == "loss 0.5000  accuracy 0.9000, best 0.9000"
        assert lines[4].split() == ["worker", "iteration", "lead", "staleness", "waiting", "state"]
        assert [line.split() for line in lines[5:]] == [
            ["fast", "54", "4", "1", "25%", "held"],
            ["slow", "46", "0", "-", "0%", "computing"],
        ]

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12)])
    def test_it_fits_a_small_terminal(self, width: int, height: int) -> None:
        lines = self.rendered(screen(terminal=True, width=width, height=height), workers=100)
        assert len(lines) < height
        assert max(map(len, lines)) <= width
        assert lines[-1].endswith("more")

    def test_the_table_makes_room_for_the_summary(self) -> None:
        console = screen(terminal=True)
        progress = LiveProgress(console)
        progress.start(RUN)
        progress.progress(status(100))
        progress.finish("finished", None, SUMMARY, "")
        assert "finished dssp on hetero" in shown(console)


class TestSummary:
    def finished(self, summary: dict[str, Any], error: str = "", brief: bool = False, **changes: Any) -> list[str]:
        console = screen(width=200)
        progress = PlainProgress(console, brief)
        progress.start(RUN)
        progress.finish(changes.get("status", "finished"), None, summary, error)
        return shown(console).splitlines()[0 if brief else 1 :]

    def test_it_says_what_came_of_the_run(self) -> None:
        assert self.finished(SUMMARY) == [
            "finished dssp on hetero, mlp on digits, local engine, seed 1",
            "  accuracy    0.9700 final, 0.9800 best at 3.10 s",
            "  time        4.20 s, after 1.30 s of start-up",
            "  throughput  47.6 pushes/s, 1523.8 samples/s",
            "  counts      200 pushes, 190 updates, 12 grants",
            "  schedule    on the clock of samples",
            "  workers     fast  120 iterations, waiting 36%",
            "              slow  80 iterations, waiting 0%",
            "  records     /runs/run",
            "              `dssp-bench ui --runs-dir /runs` shows all runs",
        ]

    def test_a_run_that_lost_a_worker_says_so(self) -> None:
        lost = SUMMARY | {"lost_workers": [1]}
        assert "  degraded    slow died on the way; the others went on" in self.finished(lost)
        assert "DEGRADED" in self.finished(lost, brief=True)[0]

    def test_a_replay_says_whether_the_record_still_decides_the_same(self) -> None:
        replayed = SUMMARY | {"replayed": "/runs/old", "different_rows": {"pushes": 0, "updates": 0}}
        assert "  replayed    /runs/old: every decision is the same" in self.finished(replayed)
        replayed["different_rows"] = {"pushes": 2, "updates": 0}
        assert "  replayed    /runs/old: not every decision is the same" in self.finished(replayed)

    def test_what_is_not_known_is_left_out(self) -> None:
        lines = self.finished({}, "worker 1 died", status="failed")
        assert lines[0] == "failed dssp on hetero, mlp on digits, local engine, seed 1: worker 1 died"
        assert len(lines) == 3

    def test_every_value_may_be_missing(self) -> None:
        for key in SUMMARY:
            assert self.finished({**SUMMARY, key: None})
            assert self.finished({k: v for k, v in SUMMARY.items() if k != key}, brief=True)

    def test_among_many_runs_it_is_one_line(self) -> None:
        (line,) = self.finished(SUMMARY, brief=True)
        assert line == "  0.9700 final, 0.9800 best at 3.10 s  4.20 s  waiting 18%  /runs/run"

    def test_brackets_in_an_error_are_shown_as_they_are(self) -> None:
        assert self.finished({}, "got [bold]", status="failed")[0].endswith("got [bold]")

    def test_a_run_that_failed_before_it_started_says_why(self) -> None:
        console = screen()
        PlainProgress(console).finish("failed", None, None, "no memory")
        assert shown(console) == "failed: no memory\n"
