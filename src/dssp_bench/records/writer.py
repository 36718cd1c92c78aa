"""Writes a run's records as the run goes: rows gather in lists, and are converted and appended in bulk.

A list of rows is flat, field after field, so that nothing is kept of a row that the garbage collector would visit again
and again.

While the run goes on the rows are in Arrow IPC streams, which can be read up to their last whole batch at any moment, a
kill included. `close` turns them into Parquet files whose bytes depend on the rows alone. A kill loses what came after
the latest flush; the first row that comes `FLUSH_EVERY_S` after one makes the next, so that is at most a second's.
Only `close` and checkpoints force data to disk; until then a crash of the machine, unlike one of the process, may cost
more.

A full disk costs nothing but memory: what it does not take waits there, and only `close` waits for room.

Not thread-safe: the server's thread owns the writer.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dssp_bench.core.errors import RecordsError
from dssp_bench.core.messages import Evaluation, Outcome, PushRecord, Release, Update, Use, WorkerId
from dssp_bench.records.checkpoints import put_streams_away, stream_of
from dssp_bench.records.files import when_there_is_room, write_whole
from dssp_bench.records.schema import LATE, PUSHES, STREAMS, TABLES
from dssp_bench.records.streams import Late, read_batches, read_stream

ROWS_PER_FLUSH = 32_768
ROWS_PER_GROUP = 65_536
FLUSH_EVERY_S = 1.0

_WIDTH, _STALENESS, _HELD = len(PUSHES), PUSHES.get_field_index("staleness"), PUSHES.get_field_index("held_s")
_ENTRIES_PER_FLUSH = ROWS_PER_FLUSH * _WIDTH
_FEW_VALUES = {"worker", "lead", "staleness", "action", "threshold", "learning_rate", "pushes", "r_star"}
_APPLY, _BUFFER, _DROP = Use.APPLY, Use.BUFFER, Use.DROP  # looking a member up takes long, and so does its hash
_ACTIONS = pa.array([use.name.lower() for use in Use], pa.string())
_log = logging.getLogger(__name__)


class RecordWriter:
    """The records of one run, in one folder; `now` reads any steady clock in seconds, which only paces the flushes.

    `go_on_at`, the `positions` of an earlier writer, cuts its streams there and goes on with them: what is noted before
    `relived` is in them already. Raises RecordsError if the folder holds records, and none to go on with.
    """

    def __init__(
        self,
        folder: Path,
        now: Callable[[], float] = time.monotonic,
        go_on_at: Mapping[str, int] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [file for name in STREAMS for file in (f"{name}.arrows", f"{name}.parquet") if (folder / file).exists()]
        if taken and go_on_at is None:
            raise RecordsError(f"{folder} holds the records of a run already: {', '.join(taken)}")
        self.folder = folder
        self.closed = False
        self._reliving = go_on_at is not None
        self._now = now
        self._flush_at = now() + FLUSH_EVERY_S
        self._flushed_pushes = 0
        self._pushes: list[Any] = []
        self._updates: list[Any] = []
        self._evaluations: list[Any] = []
        self._grants: list[Any] = []
        self._late: list[Any] = []
        self._unapplied: dict[tuple[WorkerId, int], int] = {}  # the row of each buffered push
        self._unreleased: dict[tuple[WorkerId, int], int] = {}  # the row of each push whose worker is held
        self._full = False
        self._streams = {
            name: _Stream(folder / f"{name}.arrows", schema, (go_on_at or {}).get(name))
            for name, schema in STREAMS.items()
        }

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Note one outcome, with the learning rate of each of its updates."""
        _, push, updates, released, _, _, grant = outcome
        pushes = self._pushes
        if push is not None:
            if push.held is None or push.staleness is None:
                self._expect_news(push)
            pushes += push
        if updates:
            rows = self._updates
            for number, (version, at, gradients) in enumerate(updates):
                rows += version, at, len(gradients), learning_rates[number]
            if self._unapplied:
                self._note_staleness(updates)
        if released and self._unreleased:
            self._note_holds(released)
        if grant is not None:
            self._grants += grant
        if self._now() >= self._flush_at or len(pushes) >= _ENTRIES_PER_FLUSH:
            self.flush()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Note the result of one evaluation."""
        self._evaluations += evaluation
        if self._now() >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Append everything noted so far to the streams, where readers see it."""
        self._flush_at = self._now() + FLUSH_EVERY_S
        self._flushed_pushes += len(self._pushes) // _WIDTH
        for name, rows, columns in (
            ("pushes", self._pushes, _push_columns),
            ("late", self._late, _late_columns),
            ("updates", self._updates, _update_columns),
            ("evaluations", self._evaluations, _evaluation_columns),
            ("grants", self._grants, _grant_columns),
        ):
            if rows and not self._reliving:
                width = len(STREAMS[name])
                self._streams[name].add(columns([rows[i::width] for i in range(width)]))
            rows.clear()
        try:
            self._append()
        except OSError as error:
            if not self._full:
                _log.warning("the records wait in memory until they can be written: %s", error)
            self._full = True

    def relived(self) -> None:
        """What was noted so far is in the streams already; what comes is new."""
        self.flush()
        self._reliving = False

    def positions(self) -> dict[str, int] | None:
        """How many bytes of each stream hold all that was noted so far; None if the disk does not take it all."""
        self.flush()
        return None if self._full else {name: stream.size for name, stream in self._streams.items()}

    def close(self) -> None:
        """Flush and turn the streams into the finished Parquet files; a second call does nothing."""
        if self.closed:
            return
        self.flush()
        self.closed = True
        when_there_is_room(self._append)
        for stream in self._streams.values():
            stream.close()
        when_there_is_room(lambda: consolidate(self.folder))

    def _append(self) -> None:
        for stream in self._streams.values():
            stream.append()
        self._full = False

    def _expect_news(self, push: PushRecord) -> None:
        """Of the push that comes into the next row."""
        worker, clock, _, _, _, staleness, _, _, held, use, _, _ = push
        row = self._flushed_pushes + len(self._pushes) // _WIDTH
        key = (worker, clock)
        if held is None:
            self._unreleased[key] = row
        if staleness is None and use is _BUFFER:
            self._unapplied[key] = row

    def _note_staleness(self, updates: Iterable[Update]) -> None:
        """Of gradients that were buffered at an earlier push and are part of an update now: in their rows, or late."""
        rows, waiting, flushed = self._unapplied, self._pushes, self._flushed_pushes
        for update in updates:
            for message, staleness, _ in update.gradients:
                if (row := rows.pop(message, None)) is None:
                    continue
                if row >= flushed:
                    waiting[(row - flushed) * _WIDTH + _STALENESS] = staleness
                else:
                    self._late += row, staleness, None

    def _note_holds(self, released: Iterable[Release]) -> None:
        """Of workers that were held at an earlier push and are released now."""
        rows, waiting, flushed = self._unreleased, self._pushes, self._flushed_pushes
        for _, held, after in released:
            if (row := rows.pop(after, None)) is None:
                continue
            if row >= flushed:
                waiting[(row - flushed) * _WIDTH + _HELD] = held
            else:
                self._late += row, None, held


def consolidate(folder: Path) -> None:
    """Turn a run's streams into the finished Parquet files, as `close` does; also for a killed run.

    The streams are removed, or put away if the run may go on from a checkpoint.
    """
    late = Late.of(read_stream(stream_of(folder, "late"), LATE))
    for name, schema in TABLES.items():
        groups = _groups(read_batches(stream_of(folder, name), schema), schema)
        if name == "pushes":
            groups = late.merged_into_each(groups)
        write_whole(folder / f"{name}.parquet", partial(_write_parquet, groups, schema))
    put_streams_away(folder)


def complete(folder: Path) -> None:
    """Leave the finished files in a run's folder, whatever stands there: nothing, streams of a killed run, or these.

    Once all finished files are there, streams beside them are what an interruption left.
    """
    if all((folder / f"{name}.parquet").exists() for name in TABLES):
        put_streams_away(folder)
    elif any(stream_of(folder, name).exists() for name in STREAMS):
        consolidate(folder)
    else:
        RecordWriter(folder).close()


def _groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of all batches in tables of ROWS_PER_GROUP rows, the last of which may be shorter."""
    rest = schema.empty_table()
    for batch in batches:
        rest = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        while rest.num_rows >= ROWS_PER_GROUP:
            yield rest.slice(0, ROWS_PER_GROUP)
            rest = rest.slice(ROWS_PER_GROUP)
    if rest.num_rows:
        yield rest


def _write_parquet(groups: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    dictionary = [name for name in schema.names if name in _FEW_VALUES]
    encoding = {name: _encoding(schema.field(name)) for name in schema.names if name not in _FEW_VALUES}
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=dictionary, column_encoding=encoding
    ) as writer:
        for group in groups:
            writer.write_table(group.combine_chunks(), row_group_size=ROWS_PER_GROUP)


def _encoding(field: pa.Field) -> str:
    """What makes files a quarter as large as the default, in a third of the time."""
    return "BYTE_STREAM_SPLIT" if pa.types.is_floating(field.type) else "DELTA_BINARY_PACKED"


class _Stream:
    """An Arrow IPC stream that grows batch by batch, each whole or not at all; it goes on at `size`, if that is given.

    Every batch is with the operating system when `append` returns; if that raises, it is still waiting here.
    """

    def __init__(self, path: Path, schema: pa.Schema, size: int | None = None) -> None:
        self._schema = schema
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._waiting: deque[memoryview] = deque()
        self.size = size or 0
        os.ftruncate(self._file, self.size)
        if not self.size:
            self._waiting.append(memoryview(schema.serialize()))

    def add(self, columns: Sequence[Any]) -> None:
        arrays = [
            column.cast(field.type) if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._waiting.append(memoryview(pa.record_batch(arrays, schema=self._schema).serialize()))

    def append(self) -> None:
        while self._waiting:
            batch = self._waiting[0]
            written = 0
            try:
                while written < len(batch):
                    written += os.pwrite(self._file, batch[written:], self.size + written)
            except OSError:
                os.ftruncate(self._file, self.size)
                raise
            self.size += len(batch)
            self._waiting.popleft()

    def close(self) -> None:
        os.close(self._file)


# --- rows to columns, in the order of the schema ---


def _seconds(nanoseconds: Sequence[int | None]) -> pa.Array:
    return pc.divide(pa.array(nanoseconds, pa.int64()).cast(pa.float64(), safe=False), 1e9)


def _push_columns(columns: Sequence[Any]) -> list[Any]:
    worker, clock, lead, pulled, version, staleness, at, compute, held, use, threshold, loss = columns
    numbers = [0 if u is _APPLY else 1 if u is _BUFFER else 2 if u is _DROP else 3 for u in use]
    actions = _ACTIONS.take(pa.array(numbers, pa.int8()))
    return [
        worker, clock, lead, pulled, version, staleness,
        _seconds(at), _seconds(compute), _seconds(held), actions, threshold, _losses(loss),
    ]  # fmt: skip


def _losses(losses: Sequence[float | None]) -> pa.Array:
    return pa.array(losses, pa.float64()).cast(pa.float32(), safe=False)


def _late_columns(columns: Sequence[Any]) -> list[Any]:
    row, staleness, held = columns
    return [row, staleness, _seconds(held)]


def _update_columns(columns: Sequence[Any]) -> list[Any]:
    version, at, pushes, learning_rate = columns
    return [version, _seconds(at), pushes, learning_rate]


def _evaluation_columns(columns: Sequence[Any]) -> list[Any]:
    at, version, samples, epoch, loss, accuracy = columns
    return [_seconds(at), version, samples, *(np.asarray(column, float) for column in (epoch, loss, accuracy))]


def _grant_columns(columns: Sequence[Any]) -> list[Any]:
    worker, at, lead, r_star, predicted_wait = columns
    return [_seconds(at), worker, lead, r_star, _seconds(predicted_wait)]
