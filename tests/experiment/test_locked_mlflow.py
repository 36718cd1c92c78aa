"""A real run while somebody else has MLflow's database for himself, from its first moment to its last.

For a few seconds; DSSP_BENCH_LOCKED_S=60 makes it a minute.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.experiment.mlflow_log import MlflowLog
from dssp_bench.experiment.mlflow_store import stored_runs
from dssp_bench.experiment.mlflow_sync import sync
from dssp_bench.experiment.run import run
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.schema import TABLES
from tests.experiment.mlflow_runs import history, locked, logged, new_store
from tests.experiment.specs import spec, troubled

pytestmark = pytest.mark.processes

LOCKED_S = float(os.environ.get("DSSP_BENCH_LOCKED_S", "2"))
TRACKED = {"mlflow": True, "figures": False}


def test_a_run_with_a_locked_database_completes_and_sync_sends_all_of_it_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = new_store(tmp_path / "runs")
    log = MlflowLog()
    changes: dict[str, Any] = {"model": troubled(pause_s=0.005), "stop": {"seconds": LOCKED_S}, "tracking": TRACKED}
    with locked(runs):
        result = run(spec(runs, "ssp", "local", **changes), [log])
    assert (result.status, result.error) == ("finished", "")
    assert log.failed
    assert "locked" in log.failed
    assert any("`dssp-bench sync" in message for message in caplog.messages)
    assert stored_runs(runs) == {}

    records = RunRecords.open(result.folder)
    assert result.summary is not None
    assert records.finished
    assert len(records.pushes) == result.summary["pushes"] == len(records.updates)
    for worker, clocks in records.pushes.groupby("worker")["clock"]:
        assert clocks.tolist() == [*range(1, 1 + len(clocks))], worker
    assert records.evaluations["version"].iloc[-1] == result.summary["updates"]
    assert result.summary["duration_s"] >= LOCKED_S * 0.9

    (sent,) = sync([result.folder], runs)
    assert not sent.failed
    assert sent.words.startswith("made, ")
    assert stored_runs(runs)[result.folder.name].whole
    client, found = logged(runs, result.folder.name)
    assert found.info.status == "FINISHED"
    assert len(history(client, found, "accuracy")) == len(records.evaluations)
    assert found.data.metrics["summary/pushes"] == len(records.pushes)
    tables = {file.path for file in client.list_artifacts(found.info.run_id, "records")}
    assert tables == {f"records/{table}.parquet" for table in TABLES}
    assert list(sync([result.folder], runs)) == []
