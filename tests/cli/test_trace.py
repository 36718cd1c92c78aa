"""`dssp-bench trace`, as it is typed."""

import gzip
import json
from pathlib import Path

from typer.testing import CliRunner, Result

from dssp_bench.cli.main import app
from dssp_bench.paradigms.bsp import BSP
from tests.records import fake_run


def trace(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["trace", *map(str, arguments)])


def test_it_lies_beside_the_records_unless_told_otherwise(tmp_path: Path) -> None:
    fake_run.finished(tmp_path / "mine", BSP())
    result = trace("mine", "--runs-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "ui.perfetto.dev" in result.stdout
    beside = json.loads((tmp_path / "mine" / "trace.json").read_text())
    trace(tmp_path / "mine", "--output", tmp_path / "there.json.gz")
    assert json.loads(gzip.decompress((tmp_path / "there.json.gz").read_bytes())) == beside


def test_a_window_is_asked_for_in_seconds(tmp_path: Path) -> None:
    fake_run.finished(tmp_path, BSP())
    assert trace(tmp_path, "--from", "3", "--to", "5").exit_code == 0
    moments = [e["ts"] for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if "ts" in e]
    assert moments
    assert max(moments) <= 5_000_000


def test_what_cannot_work_is_said_in_a_line_or_two_and_leaves_nothing(tmp_path: Path) -> None:
    fake_run.finished(tmp_path / "mine", BSP())
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[str | Path], str]] = [
        (["nobody", "--runs-dir", tmp_path], "error: RUN: there is no run folder 'nobody'"),
        ([tmp_path / "empty"], "holds no records of a run"),
        ([tmp_path / "mine", "--from", "3", "--to", "1"], "error: --to: 1 s is before --from, which is 3 s"),
        ([tmp_path / "mine", "--output", tmp_path / "no" / "trace.json"], "error: --output: cannot write"),
    ]
    for arguments, message in cases:
        result = trace(*arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
        assert len(result.stderr.splitlines()) <= 4
    assert not (tmp_path / "mine" / "trace.json").exists()
