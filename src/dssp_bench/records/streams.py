"""Reading what a running or killed run has written so far: whole batches only, late news joined in."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dssp_bench.core.errors import RecordsError


def read_stream(path: Path, schema: pa.Schema) -> pa.Table:
    """The rows of a stream up to its last whole batch; none if it was not begun.

    The table is mapped to the file, so it costs memory only where it is looked at. Raises RecordsError if the file is
    a stream of something else.
    """
    return pa.Table.from_batches(list(read_batches(path, schema, pa.memory_map)), schema)


def read_batches(
    path: Path, schema: pa.Schema, open_file: Callable[[str], pa.NativeFile] = pa.OSFile
) -> Iterator[pa.RecordBatch]:
    """The same batch by batch, of which only one is in memory. Raises RecordsError."""
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        stream = pa.ipc.open_stream(open_file(str(path)))
    except (pa.ArrowInvalid, OSError):  # killed while it wrote the very first bytes
        return
    if not stream.schema.equals(schema):
        raise RecordsError(f"{path} has other columns than this version reads: {', '.join(stream.schema.names)}")
    while True:
        try:
            batch = stream.read_next_batch()
        except (StopIteration, pa.ArrowException, OSError):  # the end, or a last batch that was cut off
            return
        yield batch


class Late(NamedTuple):
    """What became known of earlier pushes, by row of the table of pushes, each array sorted by row."""

    applied: npt.NDArray[np.int64]
    staleness: npt.NDArray[np.int64]
    released: npt.NDArray[np.int64]
    held_s: npt.NDArray[np.float64]

    @classmethod
    def of(cls, late: pa.Table) -> Self:
        """Sort the rows of `late.arrows`."""
        return cls(*_by_row(late, "staleness"), *_by_row(late, "held_s"))

    def merged_into(self, pushes: pa.Table, first_row: int) -> pa.Table:
        """The pushes, the first of which is row `first_row` of the run, with what became known of them."""
        pushes = _filled(pushes, "staleness", first_row, self.applied, self.staleness)
        return _filled(pushes, "held_s", first_row, self.released, self.held_s)

    def merged_into_each(self, pushes: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same for tables that follow each other, from the run's first row on."""
        first_row = 0
        for table in pushes:
            yield self.merged_into(table, first_row)
            first_row += table.num_rows


def _by_row(late: pa.Table, column: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    known = late.select(["row", column]).filter(pc.is_valid(late[column]))
    rows, values = known["row"].to_numpy(), known[column].to_numpy()
    order = np.argsort(rows, kind="stable")
    return rows[order], values[order]


def _filled(
    table: pa.Table, column: str, first_row: int, rows: npt.NDArray[np.int64], news: npt.NDArray[Any]
) -> pa.Table:
    """The table with the news written over the nulls of one column."""
    start, end = np.searchsorted(rows, [first_row, first_row + table.num_rows])
    if start == end:
        return table
    old = table[column]
    known = pc.is_valid(old).to_numpy().copy()
    values = old.fill_null(0).to_numpy().copy()
    here = rows[start:end] - first_row
    values[here] = news[start:end]
    known[here] = True
    index = table.schema.get_field_index(column)
    return table.set_column(index, table.schema.field(index), pa.array(values, old.type, mask=~known))
