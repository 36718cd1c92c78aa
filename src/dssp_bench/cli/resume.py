"""`dssp-bench resume`: go on with a run that came to no end."""

from pathlib import Path

from rich.console import Console

from dssp_bench.cli.errors import FAILED, INTERRUPTED
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment.folders import folders_of
from dssp_bench.experiment.spec import default_runs_dir


def resume(run: str, runs_dir: Path | None) -> int:
    """Go on with the run in this folder, or of this name; the exit code. Raises DsspBenchError."""
    from dssp_bench.cli.run import watchers
    from dssp_bench.experiment.resume import left_spec
    from dssp_bench.experiment.run import resume as go_on

    runs = runs_dir.absolute() if runs_dir else default_runs_dir()
    there = folders_of(run, runs)
    if not there:
        raise ConfigurationError("RUN", f"there is no run folder {run!r}", f"runs are under {runs}")
    folder = there[0].absolute()
    try:
        result = go_on(folder, watchers(left_spec(folder), in_sweep=False))
    except KeyboardInterrupt:
        Console(stderr=True, highlight=False).print("interrupted", style="yellow")
        return INTERRUPTED
    return 0 if result.status == "finished" else FAILED
