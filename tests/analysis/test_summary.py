"""A run in a few numbers, checked against a time line that one can follow by hand."""

from pathlib import Path

import pytest

from dssp_bench.analysis.summary import summarise
from dssp_bench.core.messages import Evaluation
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter
from tests.records import fake_run

IDENTITY = {
    "paradigm": "bsp", "engine": "simulated", "cluster": "hetero", "seed": 3, "workers": 2, "model": "mlp",
    "dataset": "digits", "batch_size": 32, "learning_rate_clock": "samples", "sweep": "abc",
}  # fmt: skip


def summary(records: RunRecords, targets: tuple[float, ...] = ()) -> dict[str, object]:
    return summarise(records, identity=IDENTITY, status="finished", startup_s=0.5, targets=targets)


def test_two_rounds_of_bsp_with_a_worker_twice_as_slow(tmp_path: Path) -> None:
    # fast pushes at 1 and 3 and is held until 2 and 4; slow pushes at 2 and 4
    result = summary(fake_run.finished(tmp_path, BSP(), slowdowns=(1.0, 2.0), pushes=4))
    assert result["status"] == "finished"
    assert {key: result[key] for key in IDENTITY} == IDENTITY
    assert (result["pushes"], result["updates"], result["samples"]) == (4, 2, 128)
    assert (result["duration_s"], result["startup_s"]) == (4.0, 0.5)
    assert (result["pushes_per_s"], result["samples_per_s"]) == (1.0, 32.0)
    assert result["iterations"] == {"0": 2, "1": 2}
    assert result["waiting_share"] == {"0": 0.5, "1": 0.0}
    assert result["held_s"] == {"0": 2.0, "1": 0.0}
    assert result["max_lead"] == 1
    assert (result["mean_staleness"], result["p99_staleness"], result["max_staleness"]) == (0.0, 0, 0)
    assert result["grants"] == result["dropped"] == 0


def test_a_worker_that_leaves_early_waits_only_while_it_lives(tmp_path: Path) -> None:
    # fast is held from 1 to 2, pushes at 3 and is gone; slow goes on until 6
    run = fake_run.finished(tmp_path, BSP(), slowdowns=(1.0, 2.0), pushes=5, leaves={0: 2})
    assert summary(run)["duration_s"] == 6.0
    assert summary(run)["waiting_share"] == {"0": pytest.approx(1 / 3), "1": 0.0}


def test_the_first_worker_to_be_granted_is_counted(tmp_path: Path) -> None:
    records = fake_run.finished(tmp_path, DSSP(3, 15), pushes=400)
    result = summary(records)
    assert result["grants"] == len(records.grants) > 0
    assert result["max_lead"] == int(records.pushes["lead"].max()) <= 16


def test_accuracies_and_the_time_to_reach_them(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for second, accuracy in ((0, 0.1), (10, 0.8), (30, 0.85), (20, 0.9)):  # the third result came last
        writer.on_evaluation(Evaluation(second * 10**9, second, 0, 0.0, 1.0 - accuracy, accuracy))
    writer.close()
    result = summary(RunRecords.open(tmp_path), targets=(0.8, 0.9, 0.95))
    assert (result["final_accuracy"], result["best_accuracy"], result["best_accuracy_at_s"]) == (0.85, 0.9, 20.0)
    assert result["time_to_target"] == {"0.8": 10.0, "0.9": 20.0, "0.95": None}
    assert result["duration_s"] == 30.0


def test_a_run_that_ended_at_once_has_a_summary(tmp_path: Path) -> None:
    RecordWriter(tmp_path).close()
    result = summary(RunRecords.open(tmp_path), targets=(0.5,))
    assert result["pushes"] == 0
    assert result["duration_s"] == 0.0
    assert result["pushes_per_s"] is result["max_lead"] is result["final_accuracy"] is result["mean_staleness"] is None
    assert result["time_to_target"] == {"0.5": None}


def test_a_running_run_has_the_same_numbers_as_when_finished(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    fake_run.write(writer, fake_run.outcomes(ASP(), pushes=150))
    writer.flush()
    running = summary(RunRecords.open(tmp_path), targets=(0.5,))
    writer.close()
    assert summary(RunRecords.open(tmp_path), targets=(0.5,)) == running
