"""Opening a run's folder: what is there, what is not, and what is broken."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dssp_bench.core.errors import RecordsError
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.records.files import write_json
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter
from tests.records import fake_run


def test_a_folder_without_records_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=f"{tmp_path} holds no records"):
        RunRecords.open(tmp_path)
    with pytest.raises(RecordsError, match="nowhere is not a folder"):
        RunRecords.open(tmp_path / "nowhere")


def test_a_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    fake_run.finished(tmp_path, ASP())
    (tmp_path / "pushes.parquet").write_bytes(b"PAR1 but no more")
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "config.yaml").write_text("a: [")
    records = RunRecords.open(tmp_path)
    with pytest.raises(RecordsError, match=r"pushes\.parquet cannot be read"):
        _ = records.pushes
    with pytest.raises(RecordsError, match=r"summary\.json cannot be read"):
        _ = records.summary
    with pytest.raises(RecordsError, match=r"config\.yaml cannot be read"):
        _ = records.config


def test_files_of_another_version_are_refused(tmp_path: Path) -> None:
    fake_run.finished(tmp_path, ASP())
    pd.DataFrame({"worker": [1]}).to_parquet(tmp_path / "pushes.parquet")
    with pytest.raises(RecordsError, match=r"pushes\.parquet has other columns .*: worker"):
        _ = RunRecords.open(tmp_path).pushes
    with pytest.raises(RecordsError, match=r"pushes\.parquet has other columns .*: worker"):
        RunRecords.open(tmp_path).numbers("pushes", "clock")


def test_the_numbers_of_a_column_are_the_same_while_the_run_goes_on_and_when_it_is_over(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    fake_run.write(writer, fake_run.outcomes(SSP(1), pushes=120))
    writer.flush()
    going_on = RunRecords.open(tmp_path)
    for name in ("worker", "clock", "arrived_s", "held_s", "staleness", "threshold"):
        numbers = going_on.numbers("pushes", name)
        assert len(numbers) == 120
        np.testing.assert_array_equal(numbers, going_on.pushes[name].to_numpy(numbers.dtype, na_value=math.nan))
    writer.close()
    over = RunRecords.open(tmp_path)
    for name in ("worker", "clock", "arrived_s", "held_s", "staleness", "threshold"):
        np.testing.assert_array_equal(over.numbers("pushes", name), going_on.numbers("pushes", name))
        assert over.numbers("pushes", name).dtype == going_on.numbers("pushes", name).dtype


def test_what_was_not_written_yet_is_none_or_an_error(tmp_path: Path) -> None:
    RecordWriter(tmp_path).close()
    records = RunRecords.open(tmp_path)
    assert records.summary is None
    assert records.environment is None
    with pytest.raises(RecordsError, match=r"no config\.yaml"):
        _ = records.config


def test_config_summary_and_environment_are_read(tmp_path: Path) -> None:
    fake_run.finished(tmp_path, ASP())
    write_json(tmp_path / "summary.json", {"status": "finished"})
    records = RunRecords.open(tmp_path)
    assert records.config == {"paradigm": {"name": "asp"}, "seed": 1}
    assert records.environment == {"git_commit": "0123abc"}
    assert records.summary == {"status": "finished"}


def test_missing_integers_stay_integers(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, ASP()).pushes
    assert pushes["threshold"].dtype == pushes["staleness"].dtype == pd.Int64Dtype()
    assert pushes["threshold"].isna().all()
    assert pushes["clock"].dtype == "int64"


def test_a_run_that_ends_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    fake_run.write(writer, fake_run.outcomes(ASP()))
    records = RunRecords.open(tmp_path)
    writer.close()
    assert len(records.pushes) == 100
