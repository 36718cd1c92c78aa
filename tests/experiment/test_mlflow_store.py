"""The store of a folder of runs: made once, opened by many, locked by some, deleted by others."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from dssp_bench.experiment import mlflow_store
from dssp_bench.experiment.mlflow_store import (
    REPORTS,
    end_stale_runs,
    log_report,
    open_store,
    stored_runs,
    waiting_at_most,
)
from dssp_bench.records.lock import going_on
from tests.experiment.mlflow_runs import locked, new_store


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


def test_the_disk_is_not_waited_for_by_the_engine_that_makes_the_tables_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "new.db").touch()
    making = sqlalchemy.create_engine(mlflow_store._uri(tmp_path / "new.db", "&making=1"))
    others = [sqlalchemy.create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("other", "new")]
    said = []
    for engine in (making, *others):
        with engine.connect() as connection:
            said.append(connection.execute(sqlalchemy.text("PRAGMA synchronous")).scalar())
        engine.dispose()
    assert said == [0, FULL, FULL]


FIRST_USER = """
import sys
from pathlib import Path
from dssp_bench.experiment.mlflow_store import open_store
client, experiment = open_store(Path(sys.argv[1]))
client.create_run(experiment)
"""


def test_several_first_users_at_once_share_one_store_and_say_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FIRST_USER, str(tmp_path / "runs")]
    users = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [user.communicate()[0].decode() for user in users]
    assert said == ["", ""]
    assert [user.returncode for user in users] == [0, 0]
    client, experiment = open_store(tmp_path / "runs")
    assert len(client.search_runs([experiment])) == 2
    assert (tmp_path / "runs" / "mlflow.db").read_bytes()[18:20] == b"\x02\x02"  # write-ahead log


@pytest.mark.parametrize("readers_too", [False, True])
def test_nobody_waits_longer_for_a_locked_one_than_is_said(readers_too: bool, tmp_path: Path) -> None:
    client, experiment = open_store(new_store(tmp_path))
    run_id = client.create_run(experiment).info.run_id
    engine = client._tracking_client.store.engine
    asked: list[int] = []

    def ask(_connection: object, cursor: sqlite3.Cursor, *_: object) -> None:
        asked.append(cursor.connection.execute("PRAGMA busy_timeout").fetchone()[0])

    sqlalchemy.event.listen(engine, "before_cursor_execute", ask)
    engine.dispose()  # no connection of ours keeps others from being alone
    with locked(tmp_path, readers_too), waiting_at_most(0.007):
        with pytest.raises(Exception, match="database is locked"):
            client.log_metric(run_id, "loss", 1.0)
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            open_store(tmp_path)
    assert set(asked) == {7}
    asked.clear()
    client.log_metric(run_id, "loss", 1.0)
    assert set(asked) == {20_000}


def test_one_that_was_deleted_is_made_anew_and_used_from_then_on(tmp_path: Path) -> None:
    client, experiment = open_store(new_store(tmp_path))
    client.create_run(experiment, tags={"dssp.run": "lost"})
    (tmp_path / "mlflow.db").unlink()  # and what SQLite had beside it stays
    assert (tmp_path / "mlflow.db-wal").exists()
    client, experiment = open_store(tmp_path)
    client.create_run(experiment, tags={"dssp.run": "new"})
    assert stored_runs(tmp_path).keys() == {"new"}


def test_a_run_that_nobody_is_at_is_ended_as_its_summary_says(tmp_path: Path) -> None:
    client, experiment = open_store(new_store(tmp_path))
    host = os.uname().nodename
    for name in ("alive", "killed", "finished", "torn", "deleted"):
        client.create_run(experiment, tags={"dssp.run": name, "dssp.host": host})
        (tmp_path / name).mkdir()
    client.create_run(experiment, tags={"dssp.run": "elsewhere", "dssp.host": "another machine"})
    (tmp_path / "finished" / "summary.json").write_text('{"status": "finished"}')
    (tmp_path / "torn" / "summary.json").write_text("{")
    (tmp_path / "deleted").rmdir()
    with going_on(tmp_path / "alive"):
        end_stale_runs(client, tmp_path)
        end_stale_runs(client, tmp_path)
    assert {name: run.status for name, run in stored_runs(tmp_path).items()} == {
        "alive": "RUNNING", "elsewhere": "RUNNING",
        "killed": "KILLED", "finished": "FINISHED", "torn": "KILLED", "deleted": "KILLED",
    }  # fmt: skip


def test_mlflow_is_told_to_send_nothing_home(tmp_path: Path) -> None:
    open_store(new_store(tmp_path))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_mlflow_is_imported_only_to_log() -> None:
    code = "import sys, dssp_bench.experiment.mlflow_log; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


FINDER = """
import sys
from pathlib import Path
from dssp_bench.experiment.mlflow_store import name_by_id
print(name_by_id(Path(sys.argv[1]), sys.argv[2]), name_by_id(Path(sys.argv[1]), "0" * 32), "mlflow" in sys.modules)
"""


def test_a_run_is_found_by_its_id_without_importing_mlflow(tmp_path: Path) -> None:
    client, experiment = open_store(new_store(tmp_path))
    run_id = client.create_run(experiment, tags={"dssp.run": "mine"}).info.run_id
    found = subprocess.run([sys.executable, "-c", FINDER, tmp_path, run_id], capture_output=True, check=True, text=True)
    assert found.stdout.split() == ["mine", "None", "False"]


def test_a_report_is_shown_once_in_an_experiment_of_its_own_as_it_is_now(tmp_path: Path) -> None:
    runs = new_store(tmp_path / "runs")
    report = tmp_path / "report"
    (report / "figures").mkdir(parents=True)
    (report / "figures" / "clocks.svg").write_text("<svg/>", encoding="utf-8")
    for text in ("first", "second"):
        (report / "report.md").write_text(text, encoding="utf-8")
        log_report(runs, "fig4-mini", report)
    client, compared = open_store(runs)
    experiment = client.get_experiment_by_name(REPORTS).experiment_id
    [run] = client.search_runs([experiment])
    assert experiment != compared
    assert (run.info.run_name, run.info.status) == ("fig4-mini", "FINISHED")
    [shown] = (runs / "artifacts").glob("*/artifacts/report.md")
    assert shown.read_text(encoding="utf-8") == "second"
    assert (shown.parent / "figures" / "clocks.svg").is_file()
