"""Numbers of one run, against time lines that one can follow by hand, and against what the paper's Fig. 4 shows."""

from pathlib import Path

import pandas as pd
import pytest

from dssp_bench.analysis.convergence import rate_drops, tail_accuracy, throughput, time_to, updates_per_iteration
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.records.reader import RunRecords
from dssp_bench.reference.published import published_runs
from tests.records import fake_run


def evaluations(accuracies: dict[float, float]) -> pd.DataFrame:
    rows = [(at, int(at), accuracy) for at, accuracy in accuracies.items()]
    return pd.DataFrame(rows, columns=["at_s", "version", "accuracy"])


def test_the_first_evaluation_at_the_target_counts_whenever_its_result_came() -> None:
    results = evaluations({0.0: 0.1, 10.0: 0.6, 40.0: 0.7, 30.0: 0.7, 50.0: 0.65})
    assert time_to(results, 0.7) == 30.0
    assert time_to(results, 0.6) == 10.0
    assert time_to(results, 0.71) is None


def test_the_tail_is_the_median_over_the_last_part_of_the_time() -> None:
    assert tail_accuracy(evaluations({0.0: 0.1, 96.0: 0.9, 100.0: 0.5, 97.0: 0.6, 99.0: 0.7})) == 0.6
    assert tail_accuracy(evaluations({0.0: 0.1, 50.0: 0.9})) == 0.9
    assert tail_accuracy(evaluations({})) is None


def test_the_rate_falls_where_it_is_lower_than_ever_before() -> None:
    updates = pd.DataFrame({"at_s": [1.0, 2.0, 3.0, 4.0, 5.0], "learning_rate": [0.1, 0.1, 0.01, 0.01, 0.001]})
    assert rate_drops(updates, 10.0) == [0.3, 0.5]
    assert rate_drops(updates.iloc[:2], 10.0) == []
    assert rate_drops(updates.iloc[:0], 0.0) == []


def per_iteration(run: RunRecords) -> float | None:
    return updates_per_iteration(run.pushes, run.updates)


@pytest.mark.parametrize(
    ("paradigm", "name", "threshold"),
    [
        (BSP(), "bsp", None),
        (ASP(), "asp", None),
        (SSP(3, held_gradients="merge_sum"), "ssp", 3),
        (SSP(15, held_gradients="merge_sum"), "ssp", 15),
        (DSSP(3, 15, held_gradients="merge_sum"), "dssp", 3),
    ],
    ids=lambda value: str(value),
)
def test_updates_per_iteration_of_the_slow_worker_are_those_of_the_papers_pair(
    tmp_path: Path, paradigm: Paradigm, name: str, threshold: int | None
) -> None:
    (published,) = [
        run for run in published_runs("fig4") if run.paradigm == name and threshold in (None, run.threshold)
    ]
    run = fake_run.finished(tmp_path, paradigm, pushes=4000)
    assert per_iteration(run) == pytest.approx(published.updates_per_iteration, abs=0.08)


def test_the_time_in_which_the_slow_worker_is_alone_does_not_count(tmp_path: Path) -> None:
    # fast pushes every second and leaves at 20; slow pushes at 2, 4, ... and goes on to 40
    run = fake_run.finished(tmp_path, ASP(), slowdowns=(1.0, 2.0), pushes=40, leaves={0: 20})
    assert per_iteration(run) == 3.0
    assert throughput(run.pushes) == 1.5


def test_a_worker_that_never_pushed_in_time_gives_no_number(tmp_path: Path) -> None:
    run = fake_run.finished(tmp_path, ASP(), slowdowns=(1.0, 9.0), pushes=5, leaves={0: 3})
    assert set(run.pushes["worker"]) == {0, 1}
    assert per_iteration(run) is None


def test_a_run_without_pushes_gives_no_number(tmp_path: Path) -> None:
    run = fake_run.finished(tmp_path, ASP(), pushes=0)
    assert per_iteration(run) is throughput(run.pushes) is None
