"""What a run looks like in MLflow."""

from pathlib import Path

import pytest

from dssp_bench.experiment import mlflow_content
from dssp_bench.experiment.mlflow_content import flatten, name_of, points_of, tags_of, window_ends
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter
from tests.experiment.mlflow_runs import CONFIG, describe
from tests.records import fake_run


def test_a_nested_configuration_becomes_flat_names_that_mlflow_takes() -> None:
    assert flatten(CONFIG) == {
        "name": "null",
        "paradigm._target_": "dssp_bench.paradigms.dssp.DSSP",
        "paradigm.lower": "3",
        "paradigm.upper": "15",
        "paradigm.variant": "bounded",
        "cluster.workers": '[{"slowdown": 1.0}, {"slowdown": 1.57}]',
        "dataset.name": "digits",
        "tracking.mlflow": "true",
        "seed": "7",
        "learning rate_": "0.1",
    }
    assert len(flatten({"long": "x" * 10_000})["long"]) == mlflow_content._LONGEST_VALUE


def test_a_name_that_the_user_gave_is_kept(tmp_path: Path) -> None:
    info = describe(tmp_path)
    assert name_of(info) == "dssp(3,15) hetero seed 7 simulated"
    assert name_of(RunInfo(**{**info.__dict__, "config": {**CONFIG, "name": "mine"}})) == "mine"
    assert "mlflow.source.git.commit" not in tags_of(RunInfo(**{**info.__dict__, "environment": {}}))


def test_windows_grow_with_the_run_and_the_last_one_ends_with_it(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, DSSP(3, 15), pushes=5000).pushes
    ends = window_ends(pushes, over=True)
    last = float(pushes["arrived_s"].max())
    assert ends[-1] == last
    lengths = [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]
    assert all(length >= 0.02 * end for length, end in zip(lengths[:-1], ends, strict=False))
    assert 100 < len(ends) < 150
    assert window_ends(pushes.iloc[:0], over=True) == []
    assert window_ends(pushes.iloc[:5], over=True) == [pushes["arrived_s"].iloc[:5].max()]


@pytest.mark.parametrize("paradigm", [BSP(), DSSP(3, 15)])
def test_what_is_said_while_a_run_goes_on_stays_true(paradigm: BSP | DSSP, tmp_path: Path) -> None:
    """Whenever it is asked; so it does not matter which of the moments were missed."""
    writer = RecordWriter(tmp_path)
    said = []
    for number, outcome in enumerate(fake_run.outcomes(paradigm, pushes=600)):
        writer.on_outcome(outcome, [0.1] * len(outcome.updates))
        if number % 7 == 0:
            writer.on_evaluation(fake_run.evaluation(outcome.at, number, number))
            writer.flush()
            said.append(set(points_of(RunRecords.open(tmp_path), over=False)))
    writer.close()
    at_last = set(points_of(RunRecords.open(tmp_path), over=True))
    assert len({len(points) for points in said}) > 10
    assert all(earlier <= later for earlier, later in zip(said, [*said[1:], at_last], strict=True))
