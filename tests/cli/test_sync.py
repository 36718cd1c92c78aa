"""`dssp-bench sync`, as it is typed."""

import platform
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from dssp_bench.cli.main import app
from dssp_bench.experiment.mlflow_store import open_store, waiting_at_most
from dssp_bench.records.files import write_yaml
from tests.experiment.mlflow_runs import CONFIG, describe, leave, live, locked, new_store


def sync(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["sync", *map(str, arguments)])


def test_it_says_in_a_line_per_run_what_it_did(tmp_path: Path) -> None:
    new_store(tmp_path)
    live(describe(tmp_path, "logged"))
    leave(describe(tmp_path, "lacking"))
    leave(describe(tmp_path, "untracked"))
    write_yaml(tmp_path / "untracked" / "config.yaml", {**CONFIG, "tracking": {"mlflow": False}})
    result = sync("--runs-dir", tmp_path)
    assert result.exit_code == 0, result.output
    [line] = result.stdout.splitlines()
    assert line.startswith("lacking: made, ")
    assert line.endswith(" files sent, FINISHED")
    assert sync("--runs-dir", tmp_path).stdout == "nothing was missing\n"


def test_runs_may_be_named(tmp_path: Path) -> None:
    new_store(tmp_path)
    for name in ("one", "two", "three"):
        leave(describe(tmp_path, name))
    result = sync("one", tmp_path / "three", "--runs-dir", tmp_path)
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["one", "three"]
    write_yaml(tmp_path / "two" / "config.yaml", {**CONFIG, "tracking": {"mlflow": False}})
    said = sync("two", "--runs-dir", tmp_path).stdout.splitlines()
    assert said == ["two: left alone: its configuration says tracking.mlflow=false"]


def test_also_if_no_folder_is_left_what_mlflow_takes_to_go_on_is_ended(tmp_path: Path) -> None:
    new_store(tmp_path)
    client, experiment = open_store(tmp_path)
    client.create_run(experiment, tags={"dssp.run": "deleted", "dssp.host": platform.node()})
    assert sync("--runs-dir", tmp_path).stdout == "deleted: ended in MLflow, KILLED\n"
    assert sync("--runs-dir", tmp_path).stdout == "nothing was missing\n"


def test_what_cannot_work_is_said_in_a_line_or_two(tmp_path: Path) -> None:
    cases: list[tuple[list[str | Path], str]] = [
        (["--runs-dir", tmp_path / "empty"], "error: runs_dir: there are no runs under"),
        (["nobody", "--runs-dir", tmp_path], "error: RUNS: there is no run folder 'nobody'"),
    ]
    for arguments, message in cases:
        result = sync(*arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
        assert len(result.stderr.splitlines()) <= 4


def test_a_locked_database_and_a_damaged_run_are_told_apart(tmp_path: Path) -> None:
    new_store(tmp_path)
    leave(describe(tmp_path, "damaged"))
    with locked(tmp_path), waiting_at_most(0):
        result = sync("--runs-dir", tmp_path)
    assert result.exit_code == 2
    assert "cannot be used: database is locked" in " ".join(result.stderr.split())
    (tmp_path / "damaged" / "pushes.parquet").write_bytes(b"no parquet")
    result = sync("--runs-dir", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("damaged: not sent: RecordsError: ")
    assert result.stdout == ""


NOTHING_TO_SEND = """
import sys
from typer.testing import CliRunner
from dssp_bench.cli.main import app
print(CliRunner().invoke(app, ["sync", "--runs-dir", sys.argv[1]]).stdout.strip())
print(set(sys.modules) & {"mlflow", "torch", "pandas"} or "{}")
"""


def test_if_nothing_is_missing_it_answers_before_anything_heavy_could_be_imported(tmp_path: Path) -> None:
    live(describe(new_store(tmp_path), "logged"))
    command = [sys.executable, "-c", NOTHING_TO_SEND, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "nothing was missing\n{}\n"
