"""`dssp-bench doctor`: what this machine offers, and what earlier runs left on it."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dssp_bench.cli.errors import FAILED, show_error
from dssp_bench.cli.hydra_errors import config_dir
from dssp_bench.core.errors import DsspBenchError
from dssp_bench.experiment.environment import environment
from dssp_bench.experiment.leftovers import Leftover, Unfinished, leftovers, open_in_mlflow, unfinished_runs
from dssp_bench.experiment.spec import default_runs_dir

_GB = 1e9
_MOST = 20


def doctor(runs_dir: Path | None, clean: bool) -> int:
    """Say what there is; with `clean`, remove what is left. The exit code: 0 if nothing is left in the end."""
    place = runs_dir.absolute() if runs_dir else default_runs_dir()
    console = Console(highlight=False)
    _show(console, "this machine", [*_machine(), *_places(place)])
    _show(console, "data sets", _data_sets())
    _show_runs(console, list(unfinished_runs(place)))
    left = list(leftovers(place))
    if clean:
        found, left = left, _remove(left)
        _show(console, "removed", [(one.kind, one.what) for one in found if one not in left])
    title = "could not be removed" if clean else "left by runs that were killed; dssp-bench doctor --clean removes it"
    _show(console, title, [(one.kind, one.what) for one in left])
    running = _open_in_mlflow(place)
    _show(console, "over, but not in MLflow; dssp-bench sync ends them there", [(name, "") for name in running or ()])
    if left or running or running is None:
        return FAILED
    console.print("nothing is left over")
    return 0


def _show_runs(console: Console, runs: Sequence[Unfinished]) -> None:
    """The newest of the runs that came to no end."""
    rows = [(f"{run.status}, {'has a' if run.has_checkpoint else 'no'} checkpoint", run.name) for run in runs]
    _show(console, "runs that came to no end; dssp-bench resume NAME goes on, or begins again", rows[::-1])


def _show(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    rows = list(rows)
    if not rows:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, words in rows[:_MOST]:
        table.add_row(Text(name), Text(words))
    if len(rows) > _MOST:
        table.add_row(Text(f"and {len(rows) - _MOST} more"), Text(""))
    console.print(title, style="bold")
    console.print(table)
    console.print()


# --- what there is ---


def _machine() -> list[tuple[str, str]]:
    hardware = environment()["hardware"]
    memory = f"{(hardware['memory_bytes'] or 0) / _GB:.0f} GB of memory"
    rows = [("cores", f"{hardware['cores']} of {hardware['cpu']}, {memory}")]
    return [*rows, *_gpus(hardware["gpus"])]


def _gpus(names: Sequence[str]) -> list[tuple[str, str]]:
    import torch

    seen = torch.cuda.device_count()
    if not seen:
        return [("GPUs", f"{len(names)}, of which torch can use none" if names else "none")]
    rows = [(f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(seen)]
    pairs = [(a, b) for a in range(seen) for b in range(seen) if a != b]
    without = [f"{a}-{b}" for a, b in pairs if not torch.cuda.can_device_access_peer(a, b)]
    if pairs:
        rows.append(("between GPUs", f"no direct access: {', '.join(without)}" if without else "direct access"))
    return rows


def _places(runs_dir: Path) -> list[tuple[str, str]]:
    there = next(folder for folder in (runs_dir, *runs_dir.parents) if folder.exists())
    rows = [("runs", f"{runs_dir}, {_free(there)}")]
    if not os.access(there, os.W_OK):
        rows.append(("", "nothing can be written there"))
    shared = Path("/dev/shm")
    return [*rows, ("/dev/shm", _free(shared) if shared.is_dir() else "is not there")]


def _free(folder: Path) -> str:
    usage = shutil.disk_usage(folder)
    return f"{usage.free / _GB:.1f} of {usage.total / _GB:.1f} GB free"


def _data_sets() -> list[tuple[str, str]]:
    return [(file.stem, _data_set(file)) for file in sorted((config_dir() / "dataset").glob("*.yaml"))]


def _data_set(file: Path) -> str:
    """Read it as a run would, but without a download; how large it is, or what is missing."""
    from importlib import import_module

    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    module, _, name = options.pop("_target_").rpartition(".")
    if "download" in options:
        options["download"] = False
    try:
        data = getattr(import_module(module), name)(**options).load()
    except DsspBenchError as error:
        return str(error).replace(" (download is off)", "")
    return f"there: {data.examples} examples to train on, {len(data.test_labels)} to test"


# --- what is left ---


def _remove(found: Iterable[Leftover]) -> list[Leftover]:
    """Remove all; those that would not go."""
    left = []
    for one in found:
        try:
            one.remove()
        except OSError:
            left.append(one)
    return left


def _open_in_mlflow(runs_dir: Path) -> list[str] | None:
    """The runs that MLflow shows as running although they are over; None, and a message, if it cannot be read."""
    try:
        return open_in_mlflow(runs_dir)
    except DsspBenchError as error:
        show_error(error)
        return None
