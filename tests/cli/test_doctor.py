"""What the doctor says, and its exit code."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dssp_bench.cli import doctor as command
from dssp_bench.cli.main import app
from dssp_bench.experiment import leftovers


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is left, however the one is that this runs on."""
    for name in ("shm", "tmp", "runs"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(leftovers, "SHM", tmp_path / "shm")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(leftovers, "_processes", lambda: iter(()))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("dssp_bench.tasks.data.fashion_mnist.DEBIAN", tmp_path)
    return tmp_path


def doctor(machine: Path, *options: str) -> Result:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["doctor", "--runs-dir", f"{machine}/runs", *options])
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    return result


def leave_a_name(machine: Path) -> Path:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    name = machine / "shm" / f"torch_{process.pid}_1_0"
    name.touch()
    return name


def test_on_a_clean_machine_nothing_is_left_and_it_says_what_there_is(machine: Path) -> None:
    result = doctor(machine)
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    assert f"{len(os.sched_getaffinity(0))} of" in said
    assert "digits there: 1437 examples to train on, 360 to test" in said
    assert "cifar10 CIFAR10 is not on this machine: unpack https://" in said
    assert said.endswith("nothing is left over")


def test_what_is_left_is_named_and_stays_until_it_is_to_be_removed(machine: Path) -> None:
    name = leave_a_name(machine)
    result = doctor(machine)
    assert (result.exit_code, name.exists()) == (1, True)
    assert name.name in "".join(result.stdout.split())
    cleaned = doctor(machine, "--clean")
    assert (cleaned.exit_code, name.exists()) == (0, False)
    assert "removed" in cleaned.stdout


def test_what_cannot_be_removed_is_said(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError

    stubborn = leftovers.Leftover("process", "7, whose driver is gone", refuse)
    monkeypatch.setattr(command, "leftovers", lambda runs_dir: iter([stubborn]))
    result = doctor(machine, "--clean")
    assert result.exit_code == 1
    assert "could not be removed" in result.stdout


def test_a_run_that_can_go_on_is_no_leftover(machine: Path) -> None:
    run = machine / "runs" / "killed_run"
    (run / "checkpoints" / "000001").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 1\n")
    result = doctor(machine, "--clean")
    assert result.exit_code == 0
    assert "resume NAME" in result.stdout
    assert "no end, has a checkpoint  killed_run" in result.stdout
    assert (run / "checkpoints" / "000001").is_dir()


def test_runs_that_mlflow_still_shows_as_running_are_for_sync(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_in_mlflow", lambda runs_dir: ["a_run"])
    result = doctor(machine, "--clean")
    assert result.exit_code == 1
    assert "dssp-bench sync" in result.stdout


def test_a_database_that_cannot_be_read_is_said(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "runs" / "mlflow.db").write_text("no database")
    result = doctor(machine)
    assert result.exit_code == 1
    assert "mlflow.db cannot be read" in " ".join(result.stderr.split())
    assert "nothing is left" not in result.stdout
