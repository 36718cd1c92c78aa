"""Reads a run's folder back, whether the run finished, still goes on, or was killed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from dssp_bench.core.errors import RecordsError
from dssp_bench.records.schema import LATE, NULLABLE_INTEGERS, TABLES
from dssp_bench.records.streams import Late, read_stream


class RunRecords:
    """One run as it stands on disk. A table is read when it is first asked for and then kept; open anew to see more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished = all((folder / f"{name}.parquet").exists() for name in TABLES)

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a run's folder. Raises RecordsError if it is none."""
        folder = Path(folder)
        if not folder.is_dir():
            raise RecordsError(f"{folder} is not a folder")
        records = cls(folder)
        if not records.finished and not (folder / "pushes.arrows").exists():
            raise RecordsError(f"{folder} holds no records of a run (neither pushes.parquet nor pushes.arrows)")
        return records

    @cached_property
    def pushes(self) -> pd.DataFrame:
        """A row per push, in the order in which the server handled them; `staleness` and `threshold` may be `<NA>`."""
        return self._frame("pushes")

    @cached_property
    def updates(self) -> pd.DataFrame:
        """A row per update of the weights."""
        return self._frame("updates")

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """A row per evaluation, in the order in which their results came."""
        return self._frame("evaluations")

    @cached_property
    def grants(self) -> pd.DataFrame:
        """A row per grant of DSSP's controller; none for other paradigms."""
        return self._frame("grants")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's resolved configuration. Raises RecordsError if it is missing."""
        config: dict[str, Any] | None = self._parsed("config.yaml", _yaml)
        if config is None:
            raise RecordsError(f"{self.folder} has no config.yaml")
        return config

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The run's summary; None while there is none."""
        summary: dict[str, Any] | None = self._parsed("summary.json", json.loads)
        return summary

    @cached_property
    def environment(self) -> dict[str, Any] | None:
        """Where and with what the run was made; None if that was not written."""
        environment: dict[str, Any] | None = self._parsed("environment.json", json.loads)
        return environment

    def table(self, name: str) -> pa.Table:
        """One of the tables as Arrow, read anew. Raises RecordsError if it cannot be read."""
        return self._table(name, TABLES[name])

    def column(self, table: str, name: str) -> pa.ChunkedArray:
        """One column of a table as Arrow, read anew, so that a long run's need not be in memory side by side."""
        return self._table(table, pa.schema([TABLES[table].field(name)]))[name]

    def numbers(self, table: str, name: str) -> npt.NDArray[Any]:
        """One column of numbers as numpy, for a finished run read piece by piece: a long one's fits in memory once.

        Integers of which some may be missing are floats here.
        """
        dtype = float if name in NULLABLE_INTEGERS else TABLES[table].field(name).type.to_pandas_dtype()
        if not self.finished:
            return np.asarray(self.column(table, name).to_numpy(), dtype)
        path = self.folder / f"{table}.parquet"
        with _readable(path), pq.ParquetFile(path) as file:
            _check(path, file.schema_arrow, TABLES[table])
            values = np.empty(file.metadata.num_rows, dtype)
            filled = 0
            for batch in file.iter_batches(columns=[name]):
                values[filled : filled + len(batch)] = batch.column(0).to_numpy(zero_copy_only=False)
                filled += len(batch)
        return values

    def _table(self, name: str, schema: pa.Schema) -> pa.Table:
        """The columns that the schema has."""
        if self.finished:
            return self._finished(name, schema)
        table = read_stream(self.folder / f"{name}.arrows", TABLES[name])
        if name == "pushes":
            late = Late.of(read_stream(self.folder / "late.arrows", LATE))
            table = late.merged_into(table, 0)
        if not (self.folder / f"{name}.arrows").exists() and (self.folder / f"{name}.parquet").exists():
            return self._finished(name, schema)  # the run ended since the folder was opened
        return table.select(schema.names)

    def _finished(self, name: str, schema: pa.Schema) -> pa.Table:
        path = self.folder / f"{name}.parquet"
        with _readable(path):
            table = pq.read_table(path, columns=None if schema is TABLES[name] else schema.names)
        _check(path, table.schema, schema)
        return table

    def _frame(self, name: str) -> pd.DataFrame:
        table = self.table(name)
        return pd.DataFrame({column: _series(column, table[column]) for column in table.schema.names})

    def _parsed(self, name: str, parse: Any) -> Any:
        path = self.folder / name
        try:
            if not path.exists():
                return None
            parsed = parse(path.read_text(encoding="utf-8"))
            if parsed is not None and not isinstance(parsed, dict):
                raise ValueError("it holds no keys")
            return parsed
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RecordsError(f"{path} cannot be read: {error}") from error


def _check(path: Path, found: pa.Schema, wanted: pa.Schema) -> None:
    if not found.equals(wanted):
        raise RecordsError(f"{path} has other columns than this version reads: {', '.join(found.names)}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise RecordsError(f"{path} cannot be read: {error}") from error


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # libyaml, if it is there, is fast


def _series(name: str, column: pa.ChunkedArray) -> "pd.Series[Any]":
    """As pandas keeps it: missing integers as <NA>, missing numbers as nan."""
    types_mapper = {pa.int64(): pd.Int64Dtype()}.get if name in NULLABLE_INTEGERS else None
    series: pd.Series[Any] = column.to_pandas(types_mapper=types_mapper)
    return series
