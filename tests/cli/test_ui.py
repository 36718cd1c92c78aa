"""`dssp-bench ui`: addresses, messages, and a server that leaves nothing behind."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from dssp_bench.cli.ui import comparison_address, experiment_of, free_port, ui
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment.mlflow_store import EXPERIMENT
from dssp_bench.experiment.mlflow_view import VIEW_KEY, VIEW_TAG


def store(folder: Path, *statements: str) -> Path:
    path = folder / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT)")
        connection.execute("CREATE TABLE experiment_tags (experiment_id INTEGER, key TEXT, value TEXT)")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


def test_the_comparison_opens_with_charts_and_the_saved_view() -> None:
    assert comparison_address(5000, "1", "key") == (
        "http://127.0.0.1:5000/#/experiments/1/runs"
        "?compareRunsMode=CHART&workflowType=machine_learning&viewStateShareKey=key"
    )


def test_without_a_saved_view_the_address_is_the_plain_one() -> None:
    assert comparison_address(5000, "1", None) == (
        "http://127.0.0.1:5000/#/experiments/1/runs?compareRunsMode=CHART&workflowType=machine_learning"
    )
    assert comparison_address(5000, None, None) == "http://127.0.0.1:5000/#/experiments"


def test_the_experiment_and_its_view_are_found_in_the_database(tmp_path: Path) -> None:
    path = store(
        tmp_path,
        f"INSERT INTO experiments VALUES (0, 'Default'), (3, '{EXPERIMENT}')",
        f"INSERT INTO experiment_tags VALUES (3, '{VIEW_TAG}', '...')",
    )
    assert experiment_of(path) == ("3", VIEW_KEY)


def test_a_database_without_them_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert experiment_of(store(tmp_path)) == (None, None)
    (tmp_path / "other.db").write_bytes(b"no database at all")
    assert experiment_of(tmp_path / "other.db") == (None, None)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"no run has been logged under {tmp_path} yet .*dssp-bench run"):
        ui(tmp_path, 5000)


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    store(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"{port} cannot be used: another program listens there"):
            ui(tmp_path, port)
    assert free_port(0) > 0


def test_a_port_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ports end at 65535"):
        free_port(70_000)


SERVE = """
import sys
from pathlib import Path
from dssp_bench.experiment.mlflow_store import open_store
from dssp_bench.cli.ui import ui
open_store(Path(sys.argv[1]))
ui(Path(sys.argv[1]), 0)
"""


@pytest.mark.processes
def test_the_page_answers_until_ctrl_c_and_then_nothing_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SERVE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0] == "MLflow is starting ...\n"
        address = lines[1].split()[-1]
        assert address.endswith(f"viewStateShareKey={VIEW_KEY}")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address.split("#")[0]) as page:
            assert b"MLflow" in page.read()
        children = _group_of_the_server(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    assert not any(_alive(pid) for pid in children)


def _group_of_the_server(parent: int) -> list[int]:
    leaders = [pid for pid, ppid, _ in _processes() if ppid == parent]
    return [pid for pid, _, group in _processes() if group in leaders]


def _processes() -> list[tuple[int, int, int]]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        found.append((int(entry.parent.name), int(fields[1]), int(fields[2])))
    return found


def _alive(pid: int) -> bool:
    """Whether the process still runs; one that ended but was not yet collected by its new parent does not."""
    for _ in range(20):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return True
