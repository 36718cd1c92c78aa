"""What the writer leaves on disk: while the run goes on, after it, and after a kill."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dssp_bench.core.errors import RecordsError
from dssp_bench.core.messages import SECOND, Applied, Evaluation, MessageId, Outcome, PushRecord, Release, Update, Use
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.schema import EVALUATIONS, GRANTS, PUSHES, STREAMS, TABLES, UPDATES
from dssp_bench.records.writer import FLUSH_EVERY_S, ROWS_PER_FLUSH, RecordWriter, complete, consolidate
from tests.records import fake_run

MERGING = SSP(threshold=1, held_gradients="merge_mean")


def push(worker: int, clock: int, **known: object) -> PushRecord:
    record = PushRecord(worker, clock, 0, 0, 1, 0, SECOND, SECOND // 2, 0, Use.APPLY, 3, 0.25)
    return record._replace(**known)  # type: ignore[arg-type]


def test_the_columns_are_the_documented_ones() -> None:
    def columns(schema: object) -> list[str]:
        return [f"{field.name}: {field.type}" for field in schema]  # type: ignore[attr-defined]

    assert columns(PUSHES) == [
        "worker: int32", "clock: int64", "lead: int64", "pulled_version: int64", "version: int64", "staleness: int64",
        "arrived_s: double", "compute_s: double", "held_s: double", "action: string", "threshold: int64", "loss: float",
    ]  # fmt: skip
    assert columns(UPDATES) == ["version: int64", "at_s: double", "pushes: int64", "learning_rate: double"]
    assert columns(EVALUATIONS) == [
        "at_s: double", "version: int64", "samples: int64", "epoch: double", "loss: double", "accuracy: double",
    ]  # fmt: skip
    assert columns(GRANTS) == [
        "at_s: double", "worker: int32", "lead: int64", "r_star: int64", "predicted_wait_s: double",
    ]  # fmt: skip


def test_a_push_is_kept_as_the_coordinator_saw_it(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    at = 123_456_789_012_345
    seen = PushRecord(2, 7, 4, 10, 13, 2, at, 1_000_000_001, 0, Use.APPLY, 5, 0.1)
    writer.on_outcome(Outcome(at, seen, (Update(13, at, (Applied(MessageId(2, 7), 2, 1.0),)),)), [0.05])
    writer.close()
    records = RunRecords.open(tmp_path)
    assert records.pushes.to_dict("records") == [
        {
            "worker": 2, "clock": 7, "lead": 4, "pulled_version": 10, "version": 13, "staleness": 2,
            "arrived_s": at / 1e9, "compute_s": 1_000_000_001 / 1e9, "held_s": 0.0, "action": "apply", "threshold": 5,
            "loss": np.float32(0.1),
        }
    ]  # fmt: skip
    assert records.updates.to_dict("records") == [{"version": 13, "at_s": at / 1e9, "pushes": 1, "learning_rate": 0.05}]


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.on_outcome(Outcome(5, push(0, 1, staleness=None, held=None, use=Use.DROP, threshold=None, loss=None)), [])
    writer.close()
    row = pq.read_table(tmp_path / "pushes.parquet").to_pylist()[0]
    assert row["action"] == "drop"
    assert [name for name, value in row.items() if value is None] == ["staleness", "held_s", "threshold", "loss"]


def test_staleness_and_hold_that_become_known_later_find_their_push(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    held = MessageId(0, 1)
    writer.on_outcome(Outcome(SECOND, push(0, 1, staleness=None, held=None, use=Use.BUFFER)), [])
    writer.flush()
    update = Update(1, 4 * SECOND, (Applied(held, 0, 0.5), Applied(MessageId(1, 1), 0, 0.5)))
    released = (Release(1, 0, MessageId(1, 1)), Release(0, 3 * SECOND, held))
    writer.on_outcome(Outcome(4 * SECOND, push(1, 1, at=4 * SECOND, use=Use.BUFFER), (update,), released), [0.1])
    writer.close()
    records = RunRecords.open(tmp_path)
    assert records.pushes["held_s"].tolist() == [3.0, 0.0]
    assert records.pushes["staleness"].tolist() == [0, 0]
    assert records.updates["pushes"].tolist() == [2]


def test_a_worker_that_joins_again_does_not_change_its_earlier_push_of_the_same_clock(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for held in (SECOND, 2 * SECOND):
        writer.on_outcome(Outcome(SECOND, push(0, 5, held=None)), [])
        writer.on_outcome(Outcome(2 * SECOND, None, (), (Release(0, held, MessageId(0, 5)),)), [])
    writer.close()
    assert RunRecords.open(tmp_path).pushes["held_s"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("paradigm", [ASP(), BSP(), MERGING, DSSP(3, 15)], ids=lambda p: type(p).__name__)
def test_equal_rows_make_equal_bytes_however_they_were_flushed(tmp_path: Path, paradigm: Paradigm) -> None:
    for folder, flush_every in (("once", 0), ("often", 7)):
        writer = RecordWriter(tmp_path / folder)
        fake_run.write(writer, fake_run.outcomes(paradigm, pushes=300), flush_every=flush_every)
        writer.close()
    for name in TABLES:
        once, often = ((tmp_path / folder / f"{name}.parquet").read_bytes() for folder in ("once", "often"))
        assert once == often, name


@pytest.mark.parametrize("paradigm", [ASP(), BSP(), MERGING, DSSP(3, 15)], ids=lambda p: type(p).__name__)
def test_a_running_run_reads_as_the_finished_one(tmp_path: Path, paradigm: Paradigm) -> None:
    writer = RecordWriter(tmp_path)
    fake_run.write(writer, fake_run.outcomes(paradigm, pushes=300), flush_every=50)
    writer.flush()
    running = RunRecords.open(tmp_path)
    assert not running.finished
    tables = {name: getattr(running, name) for name in TABLES}
    writer.close()
    finished = RunRecords.open(tmp_path)
    assert finished.finished
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, getattr(finished, name))


def test_only_the_finished_files_are_left(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.close()
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.parquet" for name in TABLES)
    assert len(RunRecords.open(tmp_path).grants) == 0


def test_a_full_buffer_is_flushed(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for clock in range(ROWS_PER_FLUSH + 1):
        writer.on_outcome(Outcome(0, push(0, clock)), [])
    assert len(RunRecords.open(tmp_path).pushes) == ROWS_PER_FLUSH
    writer.close()
    assert len(RunRecords.open(tmp_path).pushes) == ROWS_PER_FLUSH + 1


def test_what_was_noted_is_visible_when_something_comes_a_second_later(tmp_path: Path) -> None:
    now = 100.0
    writer = RecordWriter(tmp_path, now=lambda: now)

    def visible() -> int:
        return len(RunRecords.open(tmp_path).pushes)

    writer.on_outcome(Outcome(0, push(0, 1)), [])
    assert visible() == 0
    now += FLUSH_EVERY_S
    writer.on_outcome(Outcome(0, push(0, 2)), [])
    assert visible() == 2
    writer.on_outcome(Outcome(0, push(0, 3)), [])
    assert visible() == 2
    now += FLUSH_EVERY_S
    writer.on_evaluation(Evaluation(0, 0, 0, 0.0, 1.0, 0.5))
    assert visible() == 3
    writer.close()


def test_a_folder_that_holds_records_is_not_written_over(tmp_path: Path) -> None:
    RecordWriter(tmp_path).close()
    with pytest.raises(RecordsError, match=r"holds the records of a run already: pushes\.parquet"):
        RecordWriter(tmp_path)


def test_an_evaluation_is_kept(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.on_evaluation(Evaluation(1_500_000_000, 3, 96, 0.5, float("nan"), 0.25))
    writer.close()
    row = RunRecords.open(tmp_path).evaluations.iloc[0]
    assert (row["at_s"], row["version"], row["samples"], row["epoch"], row["accuracy"]) == (1.5, 3, 96, 0.5, 0.25)
    assert np.isnan(row["loss"])


WRITE_FOR_EVER = """
    import sys
    from pathlib import Path
    from dssp_bench.core.messages import MessageId, Applied, Outcome, PushRecord, Release, Update, Use
    from dssp_bench.records.writer import RecordWriter

    writer = RecordWriter(Path(sys.argv[1]))
    clock = 0
    while True:
        clock += 1
        name = MessageId(0, clock)
        record = PushRecord(0, clock, 1, 0, clock, None, clock, 1, None, Use.BUFFER, None, 0.5)
        writer.on_outcome(Outcome(clock, record), [])
        writer.on_outcome(Outcome(clock, None, (Update(clock, clock, (Applied(name, 3, 1.0),)),),
                                  (Release(0, 2, name),)), [0.1])
        if clock % 500 == 0:
            writer.flush()
        if clock == 5000:
            print("going", flush=True)
"""


def test_a_killed_run_leaves_records_up_to_its_last_flush(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITE_FOR_EVER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    records = RunRecords.open(tmp_path)
    pushes = records.pushes
    assert not records.finished
    assert len(pushes) >= 5000
    assert pushes["clock"].tolist() == list(range(1, len(pushes) + 1))
    complete = pushes.iloc[: len(pushes) - 500]  # the kill may fall between the batch of pushes and its late news
    assert complete["staleness"].eq(3).all()
    assert complete["held_s"].eq(2e-9).all()


def test_a_batch_cut_off_anywhere_costs_only_itself(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run")
    stream, size = tmp_path / "run" / "pushes.arrows", [0]
    for clock in range(3):
        writer.on_outcome(Outcome(0, push(0, clock)), [])
        writer.flush()
        size.append(os.path.getsize(stream))
    whole = stream.read_bytes()
    cuts = sorted({0, 1, 50, *size, *(s - 1 for s in size[1:]), *range(size[1], size[3], 97)})
    for cut in cuts:
        stream.write_bytes(whole[:cut])
        expected = sum(cut >= s for s in size[1:])
        assert RunRecords.open(tmp_path / "run").pushes["clock"].tolist() == list(range(expected)), cut


def test_a_killed_run_can_be_made_a_finished_one(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    fake_run.write(writer, fake_run.outcomes(DSSP(3, 15), pushes=200))
    writer.flush()
    with (tmp_path / "pushes.arrows").open("ab") as stream:
        stream.write(b"\xff\xff\xff\xff torn")
    before = RunRecords.open(tmp_path).pushes
    consolidate(tmp_path)
    after = RunRecords.open(tmp_path)
    assert after.finished
    pd.testing.assert_frame_equal(before, after.pushes)


def test_a_folder_without_records_is_completed_with_empty_ones(tmp_path: Path) -> None:
    complete(tmp_path)
    assert RunRecords.open(tmp_path).finished
    assert len(RunRecords.open(tmp_path).pushes) == 0


def test_a_kill_while_streams_are_removed_loses_nothing(tmp_path: Path) -> None:
    for removed in range(len(STREAMS) + 1):
        folder = tmp_path / str(removed)
        writer = RecordWriter(folder)
        fake_run.write(writer, fake_run.outcomes(DSSP(3, 15), pushes=200))
        writer.flush()
        streams = {name: (folder / f"{name}.arrows").read_bytes() for name in STREAMS}
        writer.close()
        before = RunRecords.open(folder).pushes
        assert len(before) == 200
        for name in list(STREAMS)[removed:]:
            (folder / f"{name}.arrows").write_bytes(streams[name])
        complete(folder)
        pd.testing.assert_frame_equal(RunRecords.open(folder).pushes, before)
        assert not list(folder.glob("*.arrows"))


def test_what_a_killed_run_left_is_completed_and_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.on_outcome(Outcome(0, push(0, 1)), [])
    writer.flush()
    complete(tmp_path)
    assert RunRecords.open(tmp_path).finished
    before = (tmp_path / "pushes.parquet").stat().st_mtime_ns
    complete(tmp_path)
    assert (tmp_path / "pushes.parquet").stat().st_mtime_ns == before
    assert len(RunRecords.open(tmp_path).pushes) == 1


class FullDisk:
    """Takes so many bytes and then no more, until there is room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write = os.pwrite

    def pwrite(self, file: int, content: memoryview, position: int) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(file, content[: self.room], position)
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 700, 5_000])
def test_a_full_disk_costs_nothing_and_nobody_waits_for_it(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_run.finished(tmp_path / "whole", DSSP(3, 15), pushes=300)
    disk = FullDisk(room)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    writer = RecordWriter(tmp_path / "full")
    fake_run.write(writer, fake_run.outcomes(DSSP(3, 15), pushes=300), evaluate_every=15, flush_every=10)
    assert writer.positions() is None
    assert [record.message for record in caplog.records] == [
        "the records wait in memory until they can be written: [Errno 28] No space left on device"
    ]
    disk.room = 1 << 30
    writer.flush()
    assert len(RunRecords.open(tmp_path / "full").pushes) == 300
    assert writer.positions() is not None
    writer.close()
    for name in TABLES:
        whole, full = ((tmp_path / folder / f"{name}.parquet").read_bytes() for folder in ("whole", "full"))
        assert whole == full, name


def test_what_a_reader_sees_of_a_run_on_a_full_disk_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(6_000)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    writer = RecordWriter(tmp_path)
    fake_run.write(writer, fake_run.outcomes(ASP(), pushes=300), flush_every=10)
    seen = RunRecords.open(tmp_path).pushes
    assert 0 < len(seen) < 300
    assert len(seen) % 10 == 0
    disk.room = 1 << 30
    writer.close()


def test_at_the_end_it_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(0)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    waits: list[float] = []

    def somebody_makes_room(seconds: float) -> None:
        waits.append(seconds)
        disk.room = 1 << 30 if len(waits) == 3 else 0

    monkeypatch.setattr(time, "sleep", somebody_makes_room)
    writer = RecordWriter(tmp_path)
    fake_run.write(writer, fake_run.outcomes(ASP(), pushes=50))
    writer.close()
    assert len(waits) == 3
    assert len(RunRecords.open(tmp_path).pushes) == 50


def test_other_trouble_with_the_disk_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RecordWriter(tmp_path)

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    fake_run.write(writer, fake_run.outcomes(ASP(), pushes=5))
    with pytest.raises(OSError, match="Input/output error"):
        writer.close()


@pytest.mark.parametrize("paradigm", [ASP(), BSP(), MERGING, DSSP(3, 15)], ids=lambda p: type(p).__name__)
def test_a_writer_goes_on_where_another_one_was_and_nobody_can_tell(tmp_path: Path, paradigm: Paradigm) -> None:
    run = list(fake_run.outcomes(paradigm, pushes=300))
    whole = RecordWriter(tmp_path / "whole")
    fake_run.write(whole, iter(run), flush_every=0)
    whole.close()
    folder = tmp_path / "left"
    first = RecordWriter(folder)
    fake_run.write(first, iter(run[:101]), flush_every=7)
    positions = first.positions()
    fake_run.write(first, iter(run[101:140]))  # lost, and cut off
    first.flush()
    second = RecordWriter(folder, go_on_at=positions)
    written = second.on_outcome
    for number, outcome in enumerate(run):
        if number == 101:
            second.relived()
        written(outcome, [0.1] * len(outcome.updates))
    second.close()
    for name in ("pushes", "updates", "grants"):
        assert (folder / f"{name}.parquet").read_bytes() == (tmp_path / "whole" / f"{name}.parquet").read_bytes(), name
