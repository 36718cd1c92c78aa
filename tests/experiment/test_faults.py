"""What goes wrong with workers, and what a run makes of it: gradients that are none, workers that die."""

import math
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.analysis.names import worker_names
from dssp_bench.experiment.run import RunResult, run
from dssp_bench.experiment.watcher import RunStatus
from dssp_bench.records.reader import RunRecords
from tests.experiment.specs import PARADIGMS, spec, troubled
from tests.experiment.watching import Watched, kill

ENGINES = ["simulated", pytest.param("local", marks=pytest.mark.processes)]
ALONE: dict[str, Any] = {"workers": [{"device": "cpu"}]}


def with_nan(runs_dir: Path, engine: str, paradigm: str = "asp", **changes: Any) -> RunResult:
    return run(spec(runs_dir, paradigm, engine, model=troubled(nan_at=(3, 5)), **changes))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_that_is_not_finite_ends_the_run_and_says_whose_it_was(engine: str, tmp_path: Path) -> None:
    result = with_nan(tmp_path, engine, cluster=ALONE)
    push = 4 if engine == "local" else 5  # where nobody warms up
    assert result.status == "failed"
    assert result.error == (
        f"the gradient of worker 0 is not finite (push {push} of the run, loss nan); a smaller "
        "optimizer.learning_rate may help, and on_nan=skip leaves such gradients out"
    )
    assert result.summary is not None
    assert (result.summary["pushes"], result.summary["updates"], result.summary["skipped"]) == (push, push - 1, 1)
    assert RunRecords.open(result.folder).pushes["action"].tolist() == ["apply"] * (push - 1) + ["skip"]


@pytest.mark.parametrize("paradigm", PARADIGMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_or_it_is_left_out_and_the_weights_stay_finite(engine: str, paradigm: str, tmp_path: Path) -> None:
    result = with_nan(tmp_path, engine, paradigm, on_nan="skip")
    assert (result.status, result.error) == ("finished", "")
    assert result.summary is not None
    skipped = 4 if engine == "local" else 2  # in virtual time all workers share one network, which counts its calls
    assert result.summary["skipped"] == skipped
    assert math.isfinite(result.summary["final_loss"])
    pushes = RunRecords.open(result.folder).pushes
    left_out = pushes[pushes["action"] == "skip"]
    assert left_out["staleness"].isna().all()
    assert left_out["loss"].isna().all()
    if paradigm != "bsp":
        assert result.summary["updates"] == result.summary["pushes"] - skipped
    again = run(spec(tmp_path, paradigm, str(result.folder)))
    assert again.status == "finished"
    assert again.summary is not None
    assert again.summary["different_rows"] == {"pushes": 0, "updates": 0, "grants": 0}


def test_a_run_that_only_skips_ends(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"optimizer": {"learning_rate": 1e30}, "stop": {"updates": 20}, "on_nan": "skip"}
    result = run(spec(tmp_path, "asp", **changes))
    assert result.status == "failed"
    assert result.error.startswith("the last 1,001 gradients were not finite")


@pytest.mark.processes
def test_a_worker_that_dies_ends_the_run_if_that_is_wanted(tmp_path: Path) -> None:
    watched = Watched(lambda: kill("slow"), after_pushes=4)
    changes: dict[str, Any] = {"model": troubled(pause_s=0.01), "stop": {"pushes": 100_000}, "on_worker_loss": "stop"}
    result = run(spec(tmp_path, "ssp", "local", **changes), [watched])
    assert result.status == "failed"
    assert result.error == "worker 1 died; on_worker_loss=continue lets the others go on"
    assert result.summary is not None
    assert result.summary["pushes"] == len(RunRecords.open(result.folder).pushes) >= 4


# --- a worker that dies is replaced ---

THREE: dict[str, Any] = {"workers": [{"name": name, "device": "cpu"} for name in "abc"]}
SLOW: dict[str, Any] = {"cluster": THREE, "model": troubled(pause_s=0.02), "stop": {"epochs": 15}}


def replaced(runs_dir: Path, paradigm: str, watched: Watched, **changes: Any) -> RunResult:
    changes = {**SLOW, "on_worker_loss": "restart", **changes}
    return run(spec(runs_dir, paradigm, "local", **changes), [watched])


@pytest.mark.processes
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_another_process_takes_the_place_of_a_worker_that_died(paradigm: str, tmp_path: Path) -> None:
    watched = Watched(lambda: kill("b"), after_pushes=20)
    result = replaced(tmp_path, paradigm, watched)
    assert (result.status, result.error) == ("finished", "")
    summary = result.summary
    assert summary is not None
    assert (summary["lost_workers"], summary["replacements"]) == ([1], {"3": 1})
    events = [(event["event"], event["worker"]) for event in summary["membership"]]
    assert events[:2] == [("left", 1), ("joined", 3)]
    pushes = RunRecords.open(result.folder).pushes
    last = pushes.groupby("worker")["clock"].max()
    assert last[0] == last[2] == last[3] == 150
    assert last[1] < 150
    assert "computing" in {status.workers[1].state for status in watched.statuses[-5:]}
    again = run(spec(tmp_path, paradigm, str(result.folder)))
    assert (again.status, again.error) == ("finished", "")
    assert worker_names(RunRecords.open(result.folder)) == ("a", "b", "c", "b #2")


@pytest.mark.processes
def test_a_single_worker_that_dies_is_waited_for(tmp_path: Path) -> None:
    watched = Watched(lambda: kill("worker_0"), after_pushes=20)
    result = replaced(tmp_path, "bsp", watched, cluster=ALONE, stop={"epochs": 3})
    assert (result.status, result.error) == ("finished", "")
    assert result.summary is not None
    assert result.summary["pushes"] == 90
    assert result.summary["replacements"] == {"1": 0}


@pytest.mark.processes
def test_nobody_is_replaced_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    the_last = "worker 4 is lost, and was replaced 2 times: no more"
    it_is_dead = tmp_path / "it is dead"

    class Deadly(Watched):
        def progress(self, status: RunStatus) -> None:
            if status.pushes > 10:
                kill("b")
            if the_last in caplog.messages:
                it_is_dead.touch()

    others_wait = troubled(pause_s=0.02, waits_at=10, waits_for=str(it_is_dead))
    patient = {"restarts": 2, "lease_s": 120.0}
    result = replaced(tmp_path / "runs", "ssp", Deadly(), options=patient, model=others_wait, stop={"epochs": 2})
    assert (result.status, result.error) == ("finished", "")
    assert result.summary is not None
    assert result.summary["lost_workers"] == [1, 3, 4]
    assert the_last in caplog.messages


@pytest.mark.processes
def test_a_worker_that_hangs_is_killed_when_its_lease_has_run_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(lambda: stop("c"), after_pushes=20)
    result = replaced(tmp_path, "bsp", watched, options={"lease_s": 1.0}, on_worker_loss="continue", stop={"epochs": 5})
    assert (result.status, result.error) == ("finished", "")
    assert result.summary is not None
    assert result.summary["lost_workers"] == [2]
    assert any("is taken to hang; it is killed" in message for message in caplog.messages)


@pytest.mark.processes
def test_a_replacement_that_hangs_is_replaced_too(tmp_path: Path) -> None:
    class Hung(Watched):
        first: int | None = None
        hung = False

        def progress(self, status: RunStatus) -> None:
            self.first = self.first or pid_of("b")
            super().progress(status)
            if self.acted and not self.hung and pid_of("b") not in (None, self.first):
                stop("b")
                self.hung = True

    hung = Hung(lambda: kill("b"), after_pushes=20)
    result = replaced(tmp_path, "ssp", hung, options={"lease_s": 1.0, "startup_timeout_s": 10.0})
    assert (result.status, result.error) == ("finished", "")
    assert hung.hung
    assert result.summary is not None
    assert (result.summary["lost_workers"], result.summary["replacements"]) == ([1, 3], {"3": 1, "4": 3})


def stop(name: str) -> None:
    """Suspend the process of this run with this name."""
    if pid := pid_of(name):
        os.kill(pid, signal.SIGSTOP)


def pid_of(name: str) -> int | None:
    """The process of this run with this name."""
    found = [process.pid for process in multiprocessing.active_children() if process.name == f"dssp-bench {name}"]
    return found[0] if found else None
