"""Runs in MLflow: what is logged, when, and what happens if MLflow does not play along."""

import base64
import json
import os
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from dssp_bench.analysis.summary import summarise
from dssp_bench.experiment import mlflow_log
from dssp_bench.experiment.mlflow_log import (
    EXPERIMENT,
    REPORTS,
    VIEW_TAG,
    MlflowLog,
    comparison_view,
    end_stale_runs,
    flatten,
    log_report,
    name_of,
    open_store,
    tags_of,
    window_ends,
)
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.records.files import write_json, write_yaml
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter
from tests.records import fake_run

CONFIG = {
    "name": None,
    "paradigm": {"_target_": "dssp_bench.paradigms.dssp.DSSP", "lower": 3, "upper": 15, "variant": "bounded"},
    "cluster": {"workers": [{"slowdown": 1.0}, {"slowdown": 1.57}]},
    "dataset": {"name": "digits"},
    "learning rate@": 0.1,
}


def describe(runs: Path, name: str = "20260101-120000-000001-dssp-hetero-digits-seed7") -> RunInfo:
    return RunInfo(
        name=name,
        folder=runs / name,
        runs_dir=runs,
        config=CONFIG,
        choices={"paradigm": "dssp", "cluster": "hetero", "model": "mlp", "dataset": "digits", "engine": "simulated"},
        environment={"git": {"commit": "0123abc", "dirty": False}},
        worker_names=("fast", "slow"),
        seed=7,
        total_pushes=None,
        tags={"command": "dssp-bench run paradigm=dssp", "sweep": "s1"},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a store in it."""
    folder = tmp_path_factory.mktemp("runs")
    open_store(folder)
    return folder


def logged(runs: Path, name: str) -> tuple[Any, Any]:
    client, experiment = open_store(runs)
    (run,) = client.search_runs([experiment], f"tags.`dssp.run` = '{name}'")
    return client, run


def history(client: Any, run: Any, key: str) -> list[tuple[float, int, float]]:
    """(engine seconds, version, value) of each point."""
    points = client.get_metric_history(run.info.run_id, key)
    return sorted(((p.timestamp - run.info.start_time) / 1000, p.step, p.value) for p in points)


def log_finished(info: RunInfo) -> tuple[RunRecords, dict[str, Any]]:
    """A run of DSSP from its start to its end, logged."""
    log = MlflowLog()
    log.start(info)
    records = fake_run.finished(info.folder, DSSP(3, 15), pushes=400)
    identity = {"paradigm": "dssp", "batch_size": 32, "seed": 7}
    summary = summarise(records, identity=identity, status="finished", startup_s=1.0, targets=[0.8])
    write_json(info.folder / "summary.json", summary)
    (info.folder / "figures").mkdir()
    (info.folder / "figures" / "lead.png").write_bytes(b"a picture")
    log.finish("finished", records, summary, "")
    assert log.failed is None
    return records, summary


def test_a_finished_run_is_logged_with_all_that_it_left(runs: Path) -> None:
    info = describe(runs)
    records, summary = log_finished(info)
    client, run = logged(runs, info.name)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "dssp(3,15) hetero seed 7 simulated"
    expected = {
        "paradigm": "dssp", "cluster": "hetero", "model": "mlp", "dataset": "digits", "engine": "simulated",
        "seed": "7", "sweep": "s1", "mlflow.source.git.commit": "0123abc", "dssp.pid": str(os.getpid()),
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
    assert len(history(client, run, "accuracy")) == 7
    assert len(history(client, run, "throughput")) == 7  # one for each window, and one at time 0
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


def test_what_mlflow_refuses_for_a_while_is_logged_at_the_end(
    runs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, log = describe(runs, "20260101-120000-000004-locked"), MlflowLog()
    log.start(info)
    records = fake_run.finished(info.folder, DSSP(3, 15))
    with monkeypatch.context() as patch:
        patch.setattr(type(log._client), "log_batch", _locked)
        log.records(records)
        log.records(records)
    assert log.failed == "OSError: database is locked"
    assert [record.message for record in caplog.records] == [
        "MLflow does not take this run, which goes on without it: OSError: database is locked"
    ]
    log.finish("finished", records, None, "")
    client, run = logged(runs, info.name)
    assert run.info.status == "FINISHED"
    assert len(history(client, run, "accuracy")) == len(records.evaluations)


def _locked(*_: object, **__: object) -> None:
    raise OSError("database\nis locked")


def test_without_a_store_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    log = MlflowLog()
    log.start(describe(tmp_path))
    log.records(fake_run.finished(tmp_path / "run", DSSP(3, 15)))
    log.finish("finished", None, None, "")
    assert log.failed
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].message


def test_a_run_whose_process_is_gone_is_ended(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: gone.pid)
        MlflowLog().start(describe(runs, "20260101-120000-000005-stale"))
    MlflowLog().start(describe(runs, "20260101-120000-000006-alive"))
    end_stale_runs(*open_store(runs))
    assert logged(runs, "20260101-120000-000005-stale")[1].info.status == "KILLED"
    assert logged(runs, "20260101-120000-000006-alive")[1].info.status == "RUNNING"


@pytest.mark.parametrize(("summary", "status"), [('{"status": "finished"}', "FINISHED"), ("{", "KILLED")])
def test_a_run_whose_process_died_after_its_summary_ends_as_that_says(
    summary: str, status: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    info = describe(runs, f"20260101-120000-000007-{status}")
    info.folder.mkdir(parents=True, exist_ok=True)
    (info.folder / "summary.json").write_text(summary)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: gone.pid)
        MlflowLog().start(info)
    end_stale_runs(*open_store(runs))
    assert logged(runs, info.name)[1].info.status == status


def test_a_database_that_was_interrupted_in_the_making_is_made_anew(tmp_path: Path) -> None:
    """MLflow itself refuses such a file for ever."""
    with sqlite3.connect(tmp_path / ".mlflow.db.new") as half_made:
        half_made.execute("CREATE TABLE trace_metrics (x)")
    half_made.close()
    client, experiment = open_store(tmp_path)
    assert client.create_run(experiment).info.status == "RUNNING"
    assert not (tmp_path / ".mlflow.db.new").exists()


FULL = 2  # sqlite's default: what was committed is on the disk


def test_only_a_database_in_the_making_is_not_waited_for(tmp_path: Path) -> None:
    open_store(tmp_path)
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/mlflow.db")
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("PRAGMA synchronous")).scalar() == FULL
        assert connection.execute(sqlalchemy.text("PRAGMA journal_mode")).scalar() == "wal"
    engine.dispose()


FIRST_USER = """
import sys
from pathlib import Path
from dssp_bench.experiment.mlflow_log import open_store
client, experiment = open_store(Path(sys.argv[1]))
client.create_run(experiment)
"""


def test_several_first_users_at_once_share_one_store_and_say_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FIRST_USER, str(tmp_path / "runs")]
    users = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)]
    said = [user.communicate()[0].decode() for user in users]
    assert said == ["", "", ""]
    assert [user.returncode for user in users] == [0, 0, 0]
    client, experiment = open_store(tmp_path / "runs")
    assert len(client.search_runs([experiment])) == 3
    assert (tmp_path / "runs" / "mlflow.db").read_bytes()[18:20] == b"\x02\x02"  # write-ahead log


def test_the_saved_view_is_on_the_experiment_and_draws_metrics_that_are_logged(runs: Path) -> None:
    client, experiment = open_store(runs)
    tag = client.get_experiment(experiment).tags[VIEW_TAG]
    assert client.get_experiment(experiment).name == EXPERIMENT
    saved = json.loads(tag)
    assert saved["state"] == json.loads(comparison_view(0))["state"]
    view = json.loads(zlib.decompress(base64.b64decode(saved["state"].removeprefix("deflate;"))))
    sections = {section["uuid"] for section in view["compareRunSections"]}
    drawn = {chart["metricKey"] for chart in view["compareRunCharts"]}
    info = describe(runs, "20260101-120000-000008-viewed")
    log_finished(info)
    _, run = logged(runs, info.name)
    assert drawn <= run.data.metrics.keys()
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == sections
    assert len({chart["uuid"] for chart in view["compareRunCharts"]}) == len(view["compareRunCharts"])


def test_mlflow_is_told_to_send_nothing_home(runs: Path) -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_mlflow_is_imported_only_to_log() -> None:
    code = "import sys, dssp_bench.experiment.mlflow_log; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


FINDER = """
import sys
from pathlib import Path
from dssp_bench.experiment.mlflow_log import name_by_id
print(name_by_id(Path(sys.argv[1]), sys.argv[2]), name_by_id(Path(sys.argv[1]), "0" * 32), "mlflow" in sys.modules)
"""


def test_a_run_is_found_by_its_id_without_importing_mlflow(tmp_path: Path) -> None:
    client, experiment = open_store(tmp_path)
    run_id = client.create_run(experiment, tags={"dssp.run": "mine"}).info.run_id
    found = subprocess.run([sys.executable, "-c", FINDER, tmp_path, run_id], capture_output=True, check=True, text=True)
    assert found.stdout.split() == ["mine", "None", "False"]


def test_a_nested_configuration_becomes_flat_names_that_mlflow_takes() -> None:
    assert flatten(CONFIG) == {
        "name": "null",
        "paradigm._target_": "dssp_bench.paradigms.dssp.DSSP",
        "paradigm.lower": "3",
        "paradigm.upper": "15",
        "paradigm.variant": "bounded",
        "cluster.workers": '[{"slowdown": 1.0}, {"slowdown": 1.57}]',
        "dataset.name": "digits",
        "learning rate_": "0.1",
    }
    assert len(flatten({"long": "x" * 10_000})["long"]) == mlflow_log._LONGEST_VALUE


def test_a_name_that_the_user_gave_is_kept(tmp_path: Path) -> None:
    info = describe(tmp_path)
    assert name_of(info) == "dssp(3,15) hetero seed 7 simulated"
    assert name_of(RunInfo(**{**info.__dict__, "config": {**CONFIG, "name": "mine"}})) == "mine"
    assert "mlflow.source.git.commit" not in tags_of(RunInfo(**{**info.__dict__, "environment": {}}))


def test_windows_grow_with_the_run(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, DSSP(3, 15), pushes=2000).pushes
    end = float(pushes["arrived_s"].max())
    assert window_ends(pushes, end / 2, over=False) == [end]
    assert window_ends(pushes, end * 0.999, over=False) == []
    assert len(window_ends(pushes, 0.0, over=True)) == 100
    assert window_ends(pushes, 0.0, over=True)[-1] == end
    assert len(window_ends(pushes, end / 2, over=True)) == 50
    assert window_ends(pushes, end * 0.999, over=True) == [end]
    assert window_ends(pushes.iloc[:0], 0.0, over=True) == []


def test_a_run_of_few_pushes_has_few_windows(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, DSSP(3, 15), pushes=25).pushes
    assert len(window_ends(pushes, 0.0, over=True)) == 2


def test_config_files_of_a_run_may_be_missing(runs: Path) -> None:
    info, log = describe(runs, "20260101-120000-000007-bare"), MlflowLog()
    info.folder.mkdir()
    write_yaml(info.folder / "config.yaml", CONFIG)
    log.start(info)
    log.finish("finished", None, None, "")
    client, run = logged(runs, info.name)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["config.yaml"]


def test_a_report_is_shown_once_in_an_experiment_of_its_own_as_it_is_now(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "clocks.svg").write_text("<svg/>", encoding="utf-8")
    for text in ("first", "second"):
        (tmp_path / "report.md").write_text(text, encoding="utf-8")
        log_report(runs, "fig4-mini", tmp_path)
    client, compared = open_store(runs)
    experiment = client.get_experiment_by_name(REPORTS).experiment_id
    [run] = client.search_runs([experiment])
    assert experiment != compared
    assert (run.info.run_name, run.info.status) == ("fig4-mini", "FINISHED")
    [shown] = (runs / "artifacts").glob("*/artifacts/report.md")
    assert shown.read_text(encoding="utf-8") == "second"
    assert (shown.parent / "figures" / "clocks.svg").is_file()
