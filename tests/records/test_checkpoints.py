"""Checkpoints on disk: whole, or refused; and what is refused costs no more than the time since the one before."""

import errno
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssp_bench.core.errors import RecordsError
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.records import checkpoints
from dssp_bench.records.checkpoints import CheckpointStore, checked, newest
from dssp_bench.records.schema import STREAMS, TABLES
from dssp_bench.records.writer import RecordWriter, complete
from tests.records import fake_run

PAGE = 4096


def saved(folder: Path, times: int, keep: int = 3) -> RecordWriter:
    """A run that goes on, with so many checkpoints of different tensors and longer and longer records."""
    writer = RecordWriter(folder)
    store = CheckpointStore(folder, keep)
    outcomes = list(fake_run.outcomes(DSSP(1, 5), pushes=40 * times))
    for number in range(times):
        fake_run.write(writer, iter(outcomes[number * 40 : (number + 1) * 40]))
        tensors = {"weights": np.arange(3000, dtype=np.float32) + number, "none": np.empty(0, np.float32)}
        store.save({"number": number, "records": writer.positions()}, tensors)
    return writer


def test_the_newest_is_found_with_all_that_was_saved(tmp_path: Path) -> None:
    saved(tmp_path, times=2)
    checkpoint, refused = newest(tmp_path)
    assert checkpoint is not None
    assert refused == []
    assert checkpoint.state["number"] == 1
    tensors = checkpoint.tensors()
    assert tensors["weights"].tolist() == (np.arange(3000) + 1).tolist()
    assert tensors["none"].shape == (0,)
    assert set(checkpoint.state["records"]) == set(STREAMS)


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, times=5, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000004", "000005"]


def test_a_run_without_any_has_none(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])


def flip(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def cut(content: bytearray, draw: random.Random) -> None:
    del content[draw.randrange(len(content)) :]


def zero(content: bytearray, draw: random.Random) -> None:
    start = draw.randrange(0, len(content), PAGE)
    end = min(start + PAGE, len(content))
    content[start:end] = bytes(end - start)


def grow(content: bytearray, draw: random.Random) -> None:
    content += draw.randbytes(draw.randrange(1, 9))


@pytest.mark.parametrize(("damage", "times"), [(flip, 334), (cut, 333), (zero, 333), (grow, 100)])
def test_whatever_is_damaged_is_refused_and_the_one_before_is_taken(
    damage: Callable[[bytearray, random.Random], None], times: int, tmp_path: Path
) -> None:
    """A thousand flipped bits, truncations and zeroed pages, and some bytes too many."""
    saved(tmp_path, times=2)
    files = sorted((tmp_path / "checkpoints" / "000002").iterdir())
    assert [file.name for file in files] == ["manifest.json", "state.json", "tensors.safetensors"]
    draw = random.Random(damage.__name__)
    refusals = 0
    while refusals < times:
        file = draw.choice(files)
        before = file.read_bytes()
        content = bytearray(before)
        damage(content, draw)
        if bytes(content) == before:
            continue  # zeros in the place of zeros do not count
        file.write_bytes(content)
        checkpoint, refused = newest(tmp_path)
        assert checkpoint is not None
        assert checkpoint.folder.name == "000001"
        (reason,) = refused
        assert "000002" in reason
        assert "damaged" in reason
        refusals += 1
        file.write_bytes(before)
    checkpoint, refused = newest(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.folder.name, refused) == ("000002", [])


def unreadable(path: Path, monkeypatch: pytest.MonkeyPatch, number: int, when: str = "read") -> None:
    """From now on the system answers so when this file is opened, or read."""
    opened = Path.open

    class Broken(io.FileIO):
        def read(self, *_: object) -> bytes:
            raise OSError(number, os.strerror(number))

    def open_it(self: Path, *arguments: Any, **options: Any) -> Any:
        if self != path:
            return opened(self, *arguments, **options)
        if when == "open":
            raise OSError(number, os.strerror(number), str(self))
        return Broken(self)

    monkeypatch.setattr(Path, "open", open_it)


UNREADABLE = [(errno.EIO, "read"), (errno.EIO, "open"), (errno.EACCES, "open"), (errno.EMFILE, "open")]


@pytest.mark.parametrize(("number", "when"), UNREADABLE)
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors"])
def test_if_the_newest_cannot_be_read_the_one_before_is_taken(
    name: str, number: int, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, times=2)
    unreadable(tmp_path / "checkpoints" / "000002" / name, monkeypatch, number, when)
    checkpoint, (reason,) = newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.folder.name == "000001"
    assert "000002" in reason
    assert reason.endswith(f"cannot be read: {os.strerror(number)}")


def test_whether_one_is_valid_is_not_said_if_it_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, times=2)
    unreadable(tmp_path / "pushes.arrows", monkeypatch, errno.EACCES, "open")
    with pytest.raises(RecordsError, match=r"pushes\.arrows cannot be read: Permission denied"):
        newest(tmp_path)


def test_damaged_records_refuse_those_checkpoints_that_need_them(tmp_path: Path) -> None:
    saved(tmp_path, times=2)
    stream = tmp_path / "pushes.arrows"
    first = json.loads((tmp_path / "checkpoints" / "000001" / "state.json").read_text())["records"]["pushes"]["bytes"]
    content = bytearray(stream.read_bytes())
    content[first + 7] ^= 4
    stream.write_bytes(content)
    checkpoint, refused = newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.folder.name == "000001"
    assert refused == [f"{stream} is damaged, or is not of {tmp_path}/checkpoints/000002"]
    stream.unlink()
    assert newest(tmp_path)[0] is None


def test_tensors_that_change_after_they_were_checked_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, times=1)
    checkpoint = checked(tmp_path / "checkpoints" / "000001")
    file = checkpoint.folder / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(RecordsError, match="is damaged"):
        checkpoint.tensors()


def test_a_save_that_fails_leaves_nothing_and_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = saved(tmp_path, times=1)
    store = CheckpointStore(tmp_path, keep=1)

    def full(path: Path) -> None:
        if path.name == "state.json":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "force_to_disk", full)
    with pytest.raises(OSError, match="No space left"):
        store.save({"number": 1, "records": writer.positions()}, {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000001"]
    found, _ = newest(tmp_path)
    assert found is not None
    assert found.state["number"] == 0


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared_by_the_next(tmp_path: Path) -> None:
    writer = saved(tmp_path, times=1)
    shutil.copytree(tmp_path / "checkpoints" / "000001", tmp_path / "checkpoints" / ".000002.unfinished")
    found, _ = newest(tmp_path)
    assert found is not None
    assert found.folder.name == "000001"
    CheckpointStore(tmp_path, keep=3).save({"number": 1, "records": writer.positions()}, {})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000001", "000002"]


def test_the_streams_of_a_run_that_may_go_on_are_put_away_at_its_end_and_brought_back(tmp_path: Path) -> None:
    writer = saved(tmp_path, times=2)
    before = {name: (tmp_path / f"{name}.arrows").read_bytes() for name in STREAMS}
    writer.close()
    assert not list(tmp_path.glob("*.arrows"))
    assert (tmp_path / "pushes.parquet").exists()
    found, refused = newest(tmp_path)
    assert found is not None
    assert refused == []
    complete(tmp_path)  # changes nothing
    checkpoints.bring_streams_back(tmp_path)
    assert not list(tmp_path.glob("*.parquet"))
    assert {name: (tmp_path / f"{name}.arrows").read_bytes() for name in STREAMS} == before
    assert newest(tmp_path)[0] is not None


@pytest.mark.parametrize("brought", range(len(STREAMS)))
def test_if_only_some_streams_were_brought_back_none_is_taken_for_empty(brought: int, tmp_path: Path) -> None:
    writer = saved(tmp_path, times=2)
    writer.close()
    whole = {table: (tmp_path / f"{table}.parquet").read_bytes() for table in TABLES}
    for name in list(STREAMS)[:brought]:  # then it was killed
        (tmp_path / f"{name}.parquet").unlink(missing_ok=True)
        checkpoints.stream_of(tmp_path, name).replace(tmp_path / f"{name}.arrows")
    for table in TABLES:
        (tmp_path / f"{table}.parquet").unlink(missing_ok=True)
    complete(tmp_path)
    assert {table: (tmp_path / f"{table}.parquet").read_bytes() for table in TABLES} == whole
    assert newest(tmp_path)[0] is not None
