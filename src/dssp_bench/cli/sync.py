"""`dssp-bench sync`: what MLflow lacks of runs that are over, sent."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dssp_bench.cli.errors import FAILED
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment.folders import folders_of
from dssp_bench.experiment.mlflow_store import database
from dssp_bench.experiment.mlflow_sync import runs_in, sync
from dssp_bench.experiment.spec import default_runs_dir


def sync_runs(runs: Sequence[str], runs_dir: Path | None) -> int:
    """Send what is missing of these runs, or of all, and say so; the exit code. Raises DsspBenchError."""
    place = runs_dir.absolute() if runs_dir else default_runs_dir()
    folders = [_folder(run, place) for run in runs] or runs_in(place)
    if not folders and not database(place).exists():
        raise ConfigurationError("runs_dir", f"there are no runs under {place}", "--runs-dir says another place")
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    said = failed = 0
    for run in sync(folders, place):
        if run.unasked and not runs:
            continue
        said, failed = said + 1, failed + run.failed
        line = Text(f"{run.name}: {run.words}", style="red" if run.failed else "")
        (errors if run.failed else console).print(line, soft_wrap=True)
    if not said:
        console.print("nothing was missing")
    return FAILED if failed else 0


def _folder(run: str, runs_dir: Path) -> Path:
    for folder in folders_of(run, runs_dir):
        if (folder / "config.yaml").is_file():
            return folder.absolute()
    hint = f"runs are under {runs_dir}; --runs-dir says others"
    raise ConfigurationError("RUNS", f"there is no run folder {run!r}", hint)
