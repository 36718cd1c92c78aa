"""Which folder is meant."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dssp_bench.cli.main import app
from dssp_bench.experiment.folders import folders_of, is_there

IMPOSSIBLE = ["~nobody-of-that-name/x", "x" * 5000, "a\0b"]


def test_a_path_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "a", tmp_path / "runs" / "a", tmp_path / "runs" / "b"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    runs = tmp_path / "runs"
    assert folders_of("a", runs) == [Path("a"), runs / "a"]
    assert folders_of("b", runs) == [runs / "b"]
    assert folders_of("~/a", runs) == [tmp_path / "a"]
    assert folders_of("c", runs) == []


@pytest.mark.parametrize("path", IMPOSSIBLE)
def test_what_can_be_no_path_is_none(path: str, tmp_path: Path) -> None:
    assert folders_of(path, tmp_path) == []
    assert not is_there(path)


@pytest.mark.parametrize("path", IMPOSSIBLE[:2])
@pytest.mark.parametrize(
    "command", ["resume", "sync", "trace", "compare", "calibrate", "run engine=replay engine.run="]
)
def test_every_command_says_that_it_is_not_there(command: str, path: str, tmp_path: Path) -> None:
    words = command.split()
    words = [*words[:-1], f"{words[-1]}'{path}'"] if words[-1].endswith("=") else [*words, path]
    options = [] if words[0] == "run" else ["--runs-dir", str(tmp_path)]
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*words, *options])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) <= 4
