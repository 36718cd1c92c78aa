"""What MLflow lacks of runs that are over, sent from their folders."""

import platform
import shutil
from pathlib import Path

import pytest

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.experiment.leftovers import open_in_mlflow
from dssp_bench.experiment.mlflow_log import MlflowLog
from dssp_bench.experiment.mlflow_store import open_store, stored_runs, waiting_at_most
from dssp_bench.experiment.mlflow_sync import Synced, runs_in, sync
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.records.files import write_yaml
from dssp_bench.records.lock import going_on
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter
from tests.experiment.mlflow_runs import (
    CONFIG,
    NONE,
    Logged,
    as_logged,
    describe,
    leave,
    live,
    locked,
    logged,
    make_folder,
    new_store,
)
from tests.records import fake_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs with a store in it."""
    return new_store(tmp_path / "runs")


def synced(runs: Path) -> list[Synced]:
    return list(sync(runs_in(runs)))


def found(runs: Path, name: str) -> Logged:
    return as_logged(runs, name).apart_from("dssp.run", "dssp.folder")


def killed(info: RunInfo) -> RecordWriter:
    """A run of which only the streams are left, as after SIGKILL."""
    make_folder(info)
    writer = RecordWriter(info.folder)
    fake_run.write(writer, fake_run.outcomes(DSSP(3, 15), pushes=300))
    writer.flush()
    return writer


def test_a_run_that_was_not_logged_at_all_looks_as_if_nothing_had_been_in_the_way(runs: Path) -> None:
    live(describe(runs, "undisturbed"))
    log = MlflowLog(NONE)
    with locked(runs):
        live(describe(runs, "disturbed"), log)
    assert log.failed
    assert stored_runs(runs).keys() == {"undisturbed"}
    [run] = synced(runs)
    assert run.name == "disturbed"
    assert run.words.startswith("made, ")
    assert run.words.endswith("files sent, FINISHED")
    assert found(runs, "disturbed") == found(runs, "undisturbed")


def test_of_one_that_was_logged_in_part_the_rest_is_sent(runs: Path) -> None:
    live(describe(runs, "undisturbed"))
    info, log = describe(runs, "disturbed"), MlflowLog(NONE)
    log.start(info)
    records, summary = leave(info)
    log.records(records)
    with locked(runs):
        log.finish("finished", records, summary, "")
    assert not stored_runs(runs)["disturbed"].whole
    assert stored_runs(runs)["disturbed"].status == "RUNNING"
    in_part, all_points = (sum(map(len, as_logged(runs, n).points.values())) for n in ("disturbed", "undisturbed"))
    [run] = synced(runs)
    assert 0 < in_part < all_points
    assert f" {all_points - in_part} points and" in f" {run.words}"
    assert found(runs, "disturbed") == found(runs, "undisturbed")


def test_the_second_time_there_is_nothing_to_send(runs: Path) -> None:
    live(describe(runs, "one"))
    with locked(runs):
        live(describe(runs, "two"), MlflowLog(NONE))
    assert len(synced(runs)) == 1
    before = {name: as_logged(runs, name) for name in ("one", "two")}
    assert synced(runs) == []
    assert {name: as_logged(runs, name) for name in ("one", "two")} == before


def test_a_run_that_has_everything_but_the_word_for_it_is_sent_nothing_twice(runs: Path) -> None:
    """As if sending it had been interrupted at the very end."""
    live(describe(runs, "one"))
    before = as_logged(runs, "one")
    client, run = logged(runs, "one")
    client.delete_tag(run.info.run_id, "dssp.logged")
    [again] = synced(runs)
    assert again.words.startswith("0 points and ")
    assert as_logged(runs, "one") == before


def test_everything_is_sent_again_if_the_database_was_deleted(runs: Path) -> None:
    infos = [describe(runs, name) for name in ("one", "two")]
    for info in infos:
        live(info)
    before = {info.name: as_logged(runs, info.name) for info in infos}
    (runs / "mlflow.db").unlink()
    shutil.rmtree(runs / "artifacts")
    assert [run.name for run in synced(runs)] == ["one", "two"]
    assert {info.name: as_logged(runs, info.name) for info in infos} == before


def test_a_killed_run_is_completed_and_sent_as_killed_when_its_last_push_came(runs: Path) -> None:
    info = describe(runs, "killed")
    MlflowLog().start(info)
    writer = killed(info)
    [run] = synced(runs)
    assert run.words.endswith("files sent, KILLED")
    records = RunRecords.open(info.folder)
    assert records.finished
    assert len(records.pushes) == 300
    _, in_mlflow = logged(runs, "killed")
    assert in_mlflow.info.status == "KILLED"
    last_s = records.pushes["arrived_s"].max()
    assert in_mlflow.info.end_time - in_mlflow.info.start_time == round(1000 * last_s)
    assert as_logged(runs, "killed").points["elapsed_s"][-1][2] == last_s
    assert synced(runs) == []
    assert not writer.closed


def test_a_run_that_goes_on_is_left_alone(runs: Path) -> None:
    info = describe(runs, "alive")
    writer = killed(info)
    with going_on(info.folder):
        [run] = synced(runs)
    assert run == Synced("alive", "left alone: it goes on")
    assert not stored_runs(runs)
    assert not RunRecords.open(info.folder).finished
    writer.close()


def test_one_of_another_machine_may_go_on_unless_it_has_a_summary(runs: Path) -> None:
    elsewhere = {"host": "another machine", "started_at": "2026-01-01T12:00:00+00:00"}
    alive = RunInfo(**{**describe(runs, "may be alive").__dict__, "environment": elsewhere})
    over = RunInfo(**{**describe(runs, "over").__dict__, "environment": elsewhere})
    killed(alive)
    leave(over)
    words = {run.name: run.words for run in synced(runs)}
    assert words["may be alive"] == "left alone: it may go on on another machine, where it was begun"
    assert words["over"].endswith("FINISHED")


def test_what_mlflow_is_not_to_have_is_not_sent(runs: Path) -> None:
    untracked, replay, deleted = (describe(runs, name) for name in ("a", "b", "c"))
    for info in (untracked, replay):
        leave(info)
    live(deleted)
    client, run = logged(runs, "c")
    client.delete_run(run.info.run_id)
    write_yaml(untracked.folder / "config.yaml", {**CONFIG, "tracking": {"mlflow": False}})
    make_folder(RunInfo(**{**replay.__dict__, "environment": {**replay.environment, "replayed": "x"}}))
    found = synced(runs)
    assert [run.words.partition(":")[0] for run in found] == ["left alone"] * 3
    assert [run.unasked for run in found] == [True, True, False]
    assert {run.name: run.deleted for run in stored_runs(runs).values()} == {"c": True}


def test_a_failed_run_says_why(runs: Path) -> None:
    leave(describe(runs, "failed"), status="failed", error="worker 1 raised ValueError")
    synced(runs)
    _, run = logged(runs, "failed")
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.note.content"] == "worker 1 raised ValueError"


def test_a_damaged_run_does_not_keep_the_others_from_being_sent(runs: Path) -> None:
    leave(describe(runs, "a"))
    leave(describe(runs, "b"))
    (runs / "a" / "pushes.parquet").write_bytes(b"no parquet")
    damaged, whole = synced(runs)
    assert damaged.failed
    assert damaged.words.startswith("not sent: RecordsError: ")
    assert not whole.failed
    assert stored_runs(runs)["b"].whole
    assert not stored_runs(runs)["a"].whole


def test_a_database_that_stays_locked_is_said_once(runs: Path) -> None:
    leave(describe(runs, "a"))
    leave(describe(runs, "b"))
    with (
        locked(runs),
        waiting_at_most(0),
        pytest.raises(DsspBenchError, match=r"mlflow.db cannot be used: database is locked"),
    ):
        synced(runs)
    assert open_store(runs)


def test_a_run_whose_folder_is_gone_is_ended(runs: Path) -> None:
    client, experiment = open_store(runs)
    for name, host in (("deleted", platform.node()), ("elsewhere", "another machine")):
        client.create_run(experiment, tags={"dssp.run": name, "dssp.host": host})
    assert open_in_mlflow(runs) == ["deleted"]
    assert list(sync([], runs)) == [Synced("deleted", "ended in MLflow, KILLED")]
    assert open_in_mlflow(runs) == []
    assert stored_runs(runs)["elsewhere"].status == "RUNNING"
    assert list(sync([], runs)) == []
