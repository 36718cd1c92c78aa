"""`dssp-bench bench`, as it is typed. How fast this machine is, is not asserted."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from dssp_bench.cli.bench import Measured, default_workers, turn_s
from dssp_bench.cli.main import app
from dssp_bench.experiment.contenders import in_processes
from dssp_bench.experiment.round_trips import LEARNING_RATE, Case, Medians, Weights

FIELDS = {
    "paradigm", "device", "parameters", "workers", "per_s", "p50_ms", "p99_ms", "cpu_ms", "server_cpu", "made",
    "turns", "spread", "right", "limit_per_s", "memcpy_per_s", "of_limit", "of_memcpy",
}  # fmt: skip


def bench(*arguments: str, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["bench", *arguments])


def quickly(*arguments: str) -> Result:
    return bench("--seconds", "0.1", "--repeats", "1", *arguments)


def case(parameters: int, workers: int, p50_ms: float | None) -> Measured:
    medians = Medians(100.0, p50_ms, 2.0, 1.0, 0.5, made=100, turns=3, spread=0.1, right=True)
    return Measured(parameters, workers, medians, limit=200.0, memcpy=400.0)


def no_room(case: Case, worker: int, together: Any) -> Weights:
    """What a contender's process does."""
    raise MemoryError("no room")


def test_shares_are_those_of_the_bounds_if_all_had_time_enough() -> None:
    measured = case(1_000, 1, 1.0)
    values = measured.values()
    assert (values["of_limit"], values["of_memcpy"]) == (0.5, 0.25)
    values = replace(measured, limit=0.0, server=replace(measured.server, per_s=0.0)).values()
    assert all(values[name] is None for name in ("per_s", "limit_per_s", "of_limit", "of_memcpy"))


def test_a_turn_is_longer_for_what_takes_longer() -> None:
    assert turn_s(1_000, 1) < turn_s(10_000_000, 1) < turn_s(10_000_000, 4)


def test_by_default_there_is_one_worker_and_as_many_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in [(1, [1, 2]), (2, [1, 2]), (3, [1, 3]), (64, [1, 4])]:
        monkeypatch.setattr("os.sched_getaffinity", lambda _process, cores=cores: set(range(cores)))
        assert default_workers() == workers


@pytest.mark.processes
class TestMeasured:
    @pytest.mark.parametrize("columns", [40, 80])
    def test_a_table_has_a_row_for_each_case_and_says_what_is_in_it(self, columns: int) -> None:
        result = bench("--seconds", "0.1", "--repeats", "1", "--sizes", "1e3,2000", "--workers", "2", columns=columns)
        assert result.exit_code == 0, result.output
        table, _, legend = result.stdout.partition("\n\n")
        rows = [line.split() for line in table.splitlines()[2:]]
        assert [row[:2] for row in rows] == [["1,000", "2"], ["2,000", "2"]]
        assert {row[-1] for row in rows} == {"right"}
        assert max(map(len, table.splitlines())) <= 80
        assert "…" not in table
        assert "A round trip is" in legend

    def test_what_was_measured_before_ctrl_c_is_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measured = iter([case(1_000, 1, 1.5)])

        def impatient(*_: object) -> Measured:
            for each in measured:
                return each
            raise KeyboardInterrupt

        monkeypatch.setattr("dssp_bench.cli.bench._measured", impatient)
        result = quickly("--sizes", "1000,2000", "--workers", "1")
        assert result.exit_code == 130
        assert [line.split()[:2] for line in result.stdout.splitlines()[2:3]] == [["1,000", "1"]]
        assert "2,000" not in result.stdout

    def test_each_case_is_a_line_of_json_if_that_is_wanted(self) -> None:
        result = quickly("--sizes", "1000", "--workers", "1,2", "--paradigm", "ssp", "--json")
        assert result.exit_code == 0, result.output
        lines: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
        assert [(line["parameters"], line["workers"]) for line in lines] == [(1000, 1), (1000, 2)]
        for line in lines:
            assert set(line) == FIELDS
            assert (line["paradigm"], line["device"], line["right"]) == ("ssp", "cpu", True)
            assert line["made"] > 0

    def test_wrong_weights_are_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dssp_bench.experiment.contenders.LEARNING_RATE", LEARNING_RATE / 2)
        result = quickly("--sizes", "1000", "--workers", "1")
        assert result.exit_code == 1
        assert "WRONG" in result.stdout
        message = "error: with 1,000 parameters and 1 worker the weights at the end are not those of the updates made"
        assert " ".join(result.stderr.split()) == message

    def test_what_keeps_it_from_measuring_is_told_without_a_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dssp_bench.experiment.contenders.limit", partial(in_processes, no_room, servers=0))
        result = quickly("--sizes", "1000", "--workers", "1")
        assert result.exit_code == 2
        assert result.stderr == "error: MemoryError: no room\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "big"], "error: --sizes: must be whole numbers above 0, got 'big'"),
        (["--sizes", "1e5,"], "error: --sizes: must be whole numbers above 0, got ''"),
        (["--sizes", "inf"], "error: --sizes: must be whole numbers above 0, got 'inf'"),
        (["--sizes", "1e15"], "error: --sizes: 1,000,000,000 M parameters and"),
        (["--workers", "0"], "error: --workers: must be whole numbers above 0, got '0'"),
        (["--workers", "1.5"], "error: --workers: must be whole numbers above 0, got '1.5'"),
        (["--workers", "101", "--sizes", "1"], "error: --workers: must be at most 100, got 101"),
        (["--paradigm", "spp"], "error: paradigm: there is no paradigm=spp did you mean paradigm=ssp?"),
        (["--paradigm", "ssp,dssp"], "error: --paradigm: must be one name, got 'ssp,dssp'"),
        (["--paradigm", "null,a=1"], "error: --paradigm: must be one name, got 'null,a=1'"),
        (["--seconds", "0"], "error: --seconds: must be above 0 and at most 600, got 0"),
        (["--seconds", "nan"], "error: --seconds: must be above 0 and at most 600, got nan"),
        (["--device", "tpu"], "error: --device: must be cpu or cuda, got 'tpu'"),
    ],
)
def test_on_wrong_options_nothing_is_started(arguments: list[str], message: str) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr.splitlines()) <= 4
    assert not result.stdout


def test_a_repeat_is_needed() -> None:
    assert bench("--repeats", "0").exit_code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_cuda_device_none_can_be_measured() -> None:
    result = bench("--device", "cuda")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: --device: this machine has no CUDA device\n  allowed: cpu\n"


@pytest.mark.gpu
@pytest.mark.processes
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_weights_on_the_gpu_are_right() -> None:
    result = bench("--device", "cuda", "--sizes", "1e5", "--seconds", "0.5", "--repeats", "1", "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["right"] for line in result.stdout.splitlines()] == [True, True]
