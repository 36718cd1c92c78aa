"""Runs in MLflow: what is logged, when, and what happens if MLflow does not play along."""

import platform
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path

import pytest

from dssp_bench.experiment import mlflow_log
from dssp_bench.experiment.mlflow_log import MlflowLog, Patience
from dssp_bench.experiment.mlflow_store import WHOLE_TAG, open_store, stored_runs
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.records.files import write_yaml
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter
from tests.experiment.mlflow_runs import (
    CONFIG,
    NONE,
    as_logged,
    describe,
    history,
    leave,
    live,
    locked,
    logged,
    new_store,
)
from tests.records import fake_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a store in it."""
    return new_store(tmp_path_factory.mktemp("runs"))


def test_a_finished_run_is_logged_with_all_that_it_left(runs: Path) -> None:
    info = describe(runs)
    records, summary = live(info)
    client, run = logged(runs, info.name)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "dssp(3,15) hetero seed 7 simulated"
    assert run.info.start_time == round(1000 * datetime.fromisoformat(info.environment["started_at"]).timestamp())
    expected = {
        "paradigm": "dssp", "cluster": "hetero", "model": "mlp", "dataset": "digits", "engine": "simulated",
        "seed": "7", "sweep": "s1", "mlflow.source.git.commit": "0123abc", "dssp.logged": "all",
        "mlflow.source.name": "dssp-bench run paradigm=dssp",
    }  # fmt: skip
    assert expected.items() <= run.data.tags.items()
    assert run.data.params["paradigm.upper"] == "15"
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"

    evaluations = records.evaluations
    assert evaluations["at_s"].iloc[0] == 0.0
    expected_points = zip(evaluations["at_s"].round(3), evaluations["version"], evaluations["accuracy"], strict=True)
    assert history(client, run, "accuracy") == sorted(expected_points)
    for key in ("throughput", "max_lead", "mean_staleness", "elapsed_s", "waiting/worker_0", "waiting/mean"):
        points = history(client, run, key)
        assert points[0][0] == 0.0, key
        assert points[-1][0] == pytest.approx(records.pushes["arrived_s"].max(), abs=0.001), key
    assert history(client, run, "waiting/worker_0")[-1][2] == pytest.approx(summary["waiting_share"]["0"], abs=0.05)
    assert run.data.metrics["summary/time_to_target/0.8"] == summary["time_to_target"]["0.8"]
    assert run.data.metrics["summary/pushes"] == 400

    files = {
        item.path for folder in ("", "records", "figures") for item in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"config.yaml", "summary.json", "environment.json", "records/pushes.parquet", "figures/lead.png"} <= files
    assert run.info.artifact_uri.startswith((runs / "artifacts").as_uri())


def test_a_run_is_logged_piece_by_piece_while_it_goes_on(runs: Path) -> None:
    info, log = describe(runs, "20260101-120000-000002-piecewise"), MlflowLog()
    log.start(info)
    writer = RecordWriter(info.folder)
    for number, outcome in enumerate(fake_run.outcomes(DSSP(3, 15), pushes=300)):
        writer.on_outcome(outcome, [0.1] * len(outcome.updates))
        if number % 50 == 0:
            writer.on_evaluation(fake_run.evaluation(outcome.at, number, number))
            writer.flush()
            log.records(RunRecords.open(info.folder))
    client, run = logged(runs, info.name)
    assert run.info.status == "RUNNING"
    assert WHOLE_TAG not in run.data.tags
    assert len(history(client, run, "accuracy")) == 7
    assert len(history(client, run, "throughput")) == 1 + 14  # one at time 0, and a full window after every 20 pushes
    writer.close()
    log.finish("killed", RunRecords.open(info.folder), None, "interrupted")
    client, run = logged(runs, info.name)
    assert run.info.status == "KILLED"
    assert len(history(client, run, "accuracy")) == 7
    assert run.data.tags["mlflow.note.content"] == "interrupted"
    assert log.failed is None


def test_a_failed_run_without_records_is_failed(runs: Path) -> None:
    info, log = describe(runs, "20260101-120000-000003-failed"), MlflowLog()
    log.start(info)
    log.finish("failed", None, None, "worker 1 raised ValueError")
    _, run = logged(runs, info.name)
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.note.content"] == "worker 1 raised ValueError"


def test_the_database_is_away_for_a_part_of_the_run_and_nothing_is_missing_at_its_end(tmp_path: Path) -> None:
    new_store(tmp_path)
    undisturbed, disturbed = describe(tmp_path, "undisturbed"), describe(tmp_path, "disturbed")
    live(undisturbed)
    now, log = 0.0, MlflowLog(Patience(moment_s=0, attempt_s=0, last_s=0), now=lambda: now)
    with locked(tmp_path):
        log.start(disturbed)
    assert "database is locked" in (log.failed or "")
    records, summary = leave(disturbed)
    log.records(records)
    assert "disturbed" not in stored_runs(tmp_path), "it does not try again at once"
    now = 5.0
    log.records(records)
    assert log.failed is None
    assert stored_runs(tmp_path)["disturbed"].status == "RUNNING"
    with locked(tmp_path):
        log.records(records)
    log.finish("finished", records, summary, "")
    assert log.failed is None
    found = [as_logged(tmp_path, name).apart_from("dssp.run", "dssp.folder") for name in ("undisturbed", "disturbed")]
    assert found[0] == found[1]


def test_runs_of_killed_drivers_are_ended_as_soon_as_mlflow_can_be_reached(tmp_path: Path) -> None:
    runs = new_store(tmp_path)
    client, experiment = open_store(runs)
    client.create_run(experiment, tags={"dssp.run": "killed", "dssp.host": platform.node()})
    log = MlflowLog(NONE)
    info = describe(runs, "alive")
    with locked(runs):
        log.start(info)
    assert stored_runs(runs)["killed"].status == "RUNNING"
    records, summary = leave(info)
    log.records(records)
    assert stored_runs(runs)["killed"].status == "KILLED"
    log.finish("finished", records, summary, "")
    assert stored_runs(runs)["alive"].status == "FINISHED"


def test_attempts_become_rare_while_the_database_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_store(tmp_path)
    now = 0.0
    attempts: list[float] = []
    log = MlflowLog(Patience(moment_s=0, attempt_s=0, last_s=0), now=lambda: now)
    info = describe(tmp_path)
    records, _ = leave(info)

    def attempted() -> AbstractContextManager[None]:
        attempts.append(now)
        return nullcontext()

    monkeypatch.setattr(mlflow_log, "quiet", attempted)
    with locked(tmp_path):
        log.start(info)
        for second in range(1, 300):
            now = float(second)
            log.records(records)
    assert attempts == [0, 5, 15, 35, 75, 135, 195, 255]


def test_at_the_end_it_waits_some_time_for_the_database(tmp_path: Path) -> None:
    info = describe(new_store(tmp_path))
    now = 0.0

    def sleep(_seconds: float) -> None:
        nonlocal now
        now += 1
        if now == 3:
            somebody_else.close()

    log = MlflowLog(Patience(moment_s=0, attempt_s=0, last_s=10), now=lambda: now, sleep=sleep)
    records, summary = leave(info)
    with locked(tmp_path) as somebody_else:
        log.start(info)
        log.finish("finished", records, summary, "")
    assert now == 3
    assert log.failed is None
    assert stored_runs(tmp_path)[info.name].whole


def test_a_database_that_is_deleted_meanwhile_is_made_anew_with_the_whole_run_in_it(tmp_path: Path) -> None:
    new_store(tmp_path)
    undisturbed, info = describe(tmp_path, "undisturbed"), describe(tmp_path, "robbed")
    live(undisturbed)
    expected = as_logged(tmp_path, "undisturbed").apart_from("dssp.run", "dssp.folder")
    log = MlflowLog(NONE)
    log.start(info)
    records, summary = leave(info)
    (tmp_path / "mlflow.db").unlink()
    log.records(records)
    assert "No such file" in (log.failed or "")
    log.finish("finished", records, summary, "")
    assert log.failed is None
    assert as_logged(tmp_path, "robbed").apart_from("dssp.run", "dssp.folder") == expected


def test_much_that_is_new_is_logged_a_moment_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_log, "POINTS_IN_A_MOMENT", 50)
    info, log = describe(new_store(tmp_path)), MlflowLog()
    log.start(info)
    records, summary = leave(info)
    numbers = []
    for _ in range(3):
        log.records(records)
        client, run = logged(tmp_path, info.name)
        numbers.append(sum(len(history(client, run, key)) for key in run.data.metrics))
    assert numbers == [50, 100, 150]
    log.finish("finished", records, summary, "")
    assert len(as_logged(tmp_path, info.name).points["accuracy"]) == len(records.evaluations)


def test_what_it_does_not_get_it_names_with_the_remedy_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    info, log = describe(new_store(tmp_path)), MlflowLog(NONE)
    with locked(tmp_path):
        records, _ = live(info, log)
        log.records(records)
    [line] = [record.message for record in caplog.records]
    assert "database is locked" in line
    assert f"`dssp-bench sync {info.folder}`" in line


def test_without_a_store_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And does not wait for what will not change."""
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    log = MlflowLog(sleep=lambda seconds: pytest.fail(f"it waits for {seconds} s"))
    log.start(describe(tmp_path))
    log.records(fake_run.finished(tmp_path / "run", DSSP(3, 15)))
    log.finish("finished", None, None, "")
    assert log.failed
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].message


def test_a_run_that_goes_on_goes_on_in_mlflow_and_has_no_point_twice(tmp_path: Path) -> None:
    """After a kill, say: it is the same run, at its old start, with the same points as one that was never killed."""
    new_store(tmp_path)
    never_killed, info = describe(tmp_path, "never killed"), describe(tmp_path, "resumed")
    live(never_killed)
    first, second = MlflowLog(), MlflowLog()
    first.start(info)
    writer = RecordWriter(info.folder)
    for number, outcome in enumerate(fake_run.outcomes(DSSP(3, 15), pushes=200)):
        writer.on_outcome(outcome, [0.1] * len(outcome.updates))
        if number % 20 == 0:
            writer.on_evaluation(fake_run.evaluation(outcome.at, number, number))
    writer.flush()
    first.records(RunRecords.open(info.folder))
    first.finish("failed", None, None, "a worker died")
    _, run = logged(tmp_path, "resumed")
    assert run.info.status == "FAILED"
    points_then = sum(map(len, as_logged(tmp_path, "resumed").points.values()))
    assert points_then > 50

    second.start(info)
    _, run = logged(tmp_path, "resumed")
    assert run.info.status == "RUNNING"
    assert "mlflow.note.content" not in run.data.tags
    for file in info.folder.iterdir():
        file.unlink()
    records, summary = leave(info)
    second.records(records)
    second.finish("finished", records, summary, "")
    found = [as_logged(tmp_path, name).apart_from("dssp.run", "dssp.folder") for name in ("never killed", "resumed")]
    assert found[0] == found[1]


def test_a_run_that_was_moved_goes_on_with_the_parameters_that_it_had(runs: Path) -> None:
    info = describe(runs, "moved")
    here, there = (RunInfo(**{**info.__dict__, "config": {**CONFIG, "runs_dir": place}}) for place in ("here", "there"))
    for place in (here, there):
        log = MlflowLog()
        log.start(place)
        assert log.failed is None
    assert logged(runs, "moved")[1].data.params["runs_dir"] == "here"


def test_config_files_of_a_run_may_be_missing(runs: Path) -> None:
    info, log = describe(runs, "20260101-120000-000007-bare"), MlflowLog()
    info.folder.mkdir()
    write_yaml(info.folder / "config.yaml", CONFIG)
    log.start(info)
    log.finish("finished", None, None, "")
    client, run = logged(runs, info.name)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
