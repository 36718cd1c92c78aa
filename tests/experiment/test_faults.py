"""What goes wrong with workers, and what a run makes of it: gradients that are none, workers that die."""

import math
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.experiment.run import RunResult, run
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
