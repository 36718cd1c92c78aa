"""`dssp-bench trace`: one run as a timeline."""

import gzip
import math
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.text import Text

from dssp_bench.analysis.trace import write_trace
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment.folders import folders_of
from dssp_bench.experiment.spec import default_runs_dir
from dssp_bench.records.files import write_whole
from dssp_bench.records.reader import RunRecords

_FASTER = 4  # gzip's level: half the time of its default for a tenth more bytes


def trace(run: str, runs_dir: Path | None, output: Path | None, begin_s: float | None, end_s: float | None) -> None:
    """Write one run's trace, beside its records or where `output` says. Raises ConfigurationError, RecordsError."""
    begin, end = begin_s or 0.0, math.inf if end_s is None else end_s
    if end < begin:
        raise ConfigurationError("--to", f"{end:g} s is before --from, which is {begin:g} s")
    records = recorded_run(run, runs_dir)
    path = output or records.folder / "trace.json"
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with _text_file(temporary, packed=path.suffix == ".gz") as file:
            count = write_trace(records, file, begin, end)

    try:
        write_whole(path, write)
    except OSError as error:
        raise ConfigurationError("--output", f"cannot write {path}: {error.strerror}") from error
    size = path.stat().st_size / 1e6
    line = f"{path} ({count} events, {size:.1f} MB): open it at https://ui.perfetto.dev or in chrome://tracing"
    Console(highlight=False).print(Text(line), soft_wrap=True)


def recorded_run(run: str, runs_dir: Path | None) -> RunRecords:
    """A run by its folder, or by the folder's name under the runs folder. Raises ConfigurationError, RecordsError."""
    runs = runs_dir or default_runs_dir()
    if there := folders_of(run, runs):
        return RunRecords.open(there[0])
    raise ConfigurationError("RUN", f"there is no run folder {run!r}", f"runs are under {runs}; --runs-dir says others")


def _text_file(path: Path, packed: bool) -> IO[str]:
    if packed:
        return gzip.open(path, "wt", compresslevel=_FASTER, encoding="utf-8")
    return path.open("w", encoding="utf-8")
