"""`dssp-bench resume`, as a user types it."""

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dssp_bench.cli.main import app
from dssp_bench.experiment.run import run
from dssp_bench.records.lock import going_on
from tests.experiment.specs import spec
from tests.experiment.watching import Watched

SLOWLY: dict[str, Any] = {"stop": {"epochs": 20}, "checkpoint": {"every_s": 1000}}


def typed(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["resume", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def interrupted(runs_dir: Path) -> Path:
    watched = Watched(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(spec(runs_dir, **SLOWLY), [watched])
    assert watched.run is not None
    return watched.run.folder


def test_an_interrupted_run_goes_on_by_its_name(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    left = json.loads((folder / "summary.json").read_text())
    assert left["status"] == "killed"
    code, output = typed(folder.name, "--runs-dir", tmp_path)
    assert code == 0, output
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["pushes"]) == ("finished", 600)
    assert [part["after_pushes"] for part in summary["resumed"]] == [left["pushes"]]
    assert "finished" in output


def test_or_by_its_folder_and_the_numbers_are_those_of_a_run_that_nobody_disturbed(tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "runs")
    assert typed(folder)[0] == 0
    whole = run(spec(tmp_path / "whole", **SLOWLY)).summary
    summary = json.loads((folder / "summary.json").read_text())
    assert whole is not None
    different = {key for key in whole if json.loads(json.dumps(whole[key])) != summary[key]}
    assert different <= {"startup_s"}


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    result = run(spec(tmp_path))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in result.folder.iterdir())
    code, output = typed(result.folder)
    assert code == 2
    assert f"error: RUN: {result.folder.name} has finished" in " ".join(output.split())
    assert sorted((path.name, path.stat().st_mtime_ns) for path in result.folder.iterdir()) == before


def test_a_run_that_still_goes_on_is_left_alone(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    with going_on(folder):
        code, output = typed(folder)
    assert code == 2
    assert f"{folder.name} still goes on" in " ".join(output.split())
    assert (folder / "summary.json").exists()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    code, output = typed("nothing", "--runs-dir", tmp_path)
    assert code == 2
    assert "there is no run folder 'nothing'" in " ".join(output.split())
    (tmp_path / "empty").mkdir()
    code, output = typed("empty", "--runs-dir", tmp_path)
    assert code == 2
    assert "has no config.yaml" in " ".join(output.split())


def test_a_replay_is_not_gone_on_with(tmp_path: Path) -> None:
    result = run(spec(tmp_path / "runs"))
    replay = run(spec(tmp_path / "replays", "dssp", str(result.folder)))
    (replay.folder / "summary.json").unlink()
    code, output = typed(replay.folder)
    assert code == 2, output


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.yaml", "[1]"), ("summary.json", "3"), ("environment.json", "[]"), ("summary.json", "{")],
)
def test_files_that_hold_something_else_are_named(file: str, content: str, tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    before = {path.name for path in folder.iterdir()}
    (folder / file).write_text(content)
    code, output = typed(folder)
    assert code == 2
    assert file in output
    assert {path.name for path in folder.iterdir()} == before


def test_a_run_of_which_nobody_wrote_down_where_it_ran_goes_on(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    (folder / "environment.json").unlink()
    assert typed(folder)[0] == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_if_nothing_can_be_written_that_is_said_and_nothing_is_lost(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(folder / "environment.json"))

    with monkeypatch.context() as full:
        full.setattr("dssp_bench.experiment.run.write_json", refuse)
        code, output = typed(folder)
    assert code == 2
    assert f"cannotgoonin{folder}:{os.strerror(number)}".replace(" ", "") in "".join(output.split())
    assert typed(folder)[0] == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["resumed"][0]["after_pushes"] > 0


def test_a_run_that_cannot_be_locked_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(tmp_path)

    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    code, output = typed(folder)
    assert code == 2
    assert "cannot be locked" in output
