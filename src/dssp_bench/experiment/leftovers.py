"""What runs that were killed left behind: what is safe to remove, and what somebody may want to go on with.

Everything here belongs to this user, on this machine. A process is known by its command line, which all processes of
a run share with the one that forked them. Its driver is gone when nobody holds the pipe that tells that one to end.
"""

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dssp_bench.experiment.mlflow_store import database, stale_runs
from dssp_bench.records.lock import goes_on

PROC, SHM = Path("/proc"), Path("/dev/shm")
_FORKED = re.compile(r"multiprocessing\.forkserver.*main\(\d+, (\d+), \[.*'dssp_bench\.", re.DOTALL)
_TORCHS_NAME = re.compile(r"torch_(\d+)_")
_CUDAS_NAME = re.compile(r"cuda\.shm\.[^.]*\.([0-9a-f]+)\.")
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
_SURELY_OVER_S = 3600.0
_ENDS_WITHIN_S = 3.0


class Leftover(NamedTuple):
    """Something that can be removed without loss."""

    kind: str
    what: str
    remove: Callable[[], object]


class Unfinished(NamedTuple):
    """A run that came to no end: `killed`, `failed`, or whatever else is known, and whether it has a checkpoint."""

    name: str
    status: str
    has_checkpoint: bool


def leftovers(runs_dir: Path) -> Iterator[Leftover]:
    """All that can be removed: processes first, as they may hold the rest."""
    yield from _processes()
    yield from _names_in_memory()
    yield from _folders_of_fork_servers()
    yield from _unfinished_files(runs_dir)


# --- processes ---


def _processes() -> Iterator[Leftover]:
    alone = _without_driver()
    if alone:  # perhaps only for the moment that they take to end
        time.sleep(_ENDS_WITHIN_S)
        alone &= _without_driver()
    for pid in sorted(alone):
        yield Leftover("process", f"{pid}, whose driver is gone", partial(_kill, pid))


def _without_driver() -> set[int]:
    """The processes of runs for which nobody holds the pipe by which a driver ends the one that forked them."""
    pipes = {pid: pipe for pid in _own_processes() if (pipe := _drivers_pipe(pid))}
    held = {link for pid in _own_processes() if pid not in pipes for link in _open_by(pid)} if pipes else set()
    parents = {pid: _parent(pid) for pid in pipes}

    def eldest(pid: int) -> int:
        return eldest(parents[pid]) if parents[pid] in pipes else pid

    return {pid for pid in pipes if pipes[eldest(pid)] not in held}


def _own_processes() -> Iterator[int]:
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if folder.stat().st_uid == os.getuid():
                    yield int(folder.name)


def _drivers_pipe(pid: int) -> str | None:
    """What the process has where its fork server has the pipe of the driver; None for processes of other kinds."""
    with suppress(OSError):
        command = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
        if forked := _FORKED.search(command):
            descriptor = PROC / str(pid) / "fd" / forked.group(1)
            return os.readlink(descriptor) if descriptor.is_symlink() else "nothing"
    return None


def _open_by(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                yield os.readlink(descriptor)


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int((PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return 0


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if _drivers_pipe(pid):  # still the same process, and so it stays
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


# --- names and folders ---


def _names_in_memory() -> Iterator[Leftover]:
    """What torch and CUDA keep in /dev/shm for processes that do not exist any more."""
    for path in _own(SHM, "*"):
        found = _TORCHS_NAME.match(path.name), _CUDAS_NAME.match(path.name)
        pid = int(found[0].group(1)) if found[0] else int(found[1].group(1), 16) if found[1] else None
        if pid is not None and not _exists(pid):
            yield Leftover("shared memory", str(path), partial(path.unlink, missing_ok=True))


def _folders_of_fork_servers() -> Iterator[Leftover]:
    """Those of Python's fork servers in the temporary folder on whose sockets nobody listens any more."""
    listening = (PROC / "net" / "unix").read_text(encoding="utf-8", errors="replace")
    for folder in _own(Path(tempfile.gettempdir()), "pymp-*"):
        with suppress(OSError):
            in_use = any(not path.is_socket() or str(path) in listening for path in folder.iterdir())
            if not in_use and time.time() - folder.stat().st_mtime > _SURELY_OVER_S:
                yield Leftover("temporary folder", str(folder), partial(_remove_folder, folder))


def _unfinished_files(runs_dir: Path) -> Iterator[Leftover]:
    """What was being written when its writer was killed."""
    levels = "", "*/", "*/*/", "reports/*/*/", "reports/*/*/*/"
    for path in [path for level in levels for path in _own(runs_dir, f"{level}.*.tmp")]:
        temporary = _TEMPORARY.fullmatch(path.name)
        if temporary and not _exists(int(temporary.group(1))):
            yield Leftover("unfinished file", str(path), partial(path.unlink, missing_ok=True))
    for folder in _own(runs_dir, "*/checkpoints/.*.unfinished"):
        if not goes_on(folder.parents[1]):
            yield Leftover("unfinished checkpoint", str(folder), partial(_remove_folder, folder))
    for path in _own(runs_dir, ".mlflow.db.new*"):
        if time.time() - path.stat().st_mtime > _SURELY_OVER_S:
            yield Leftover("unfinished file", str(path), partial(path.unlink, missing_ok=True))


def _own(folder: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(folder.glob(pattern)):
        with suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                yield path


def _exists(pid: int) -> bool:
    return (PROC / str(pid)).exists()


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


# --- runs ---


def unfinished_runs(runs_dir: Path) -> Iterator[Unfinished]:
    """Runs that came to no end and do not go on now."""
    for folder in sorted(path.parent for path in runs_dir.glob("*/config.yaml")):
        status = _status(folder)
        if status == "finished" or goes_on(folder):
            continue
        yield Unfinished(folder.name, status, any((folder / "checkpoints").glob("[0-9]*")))


def _status(folder: Path) -> str:
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return str(summary["status"])
    except FileNotFoundError:
        return "no end"
    except (OSError, ValueError, LookupError, TypeError):
        return "unreadable"


def open_in_mlflow(runs_dir: Path) -> list[str]:
    """The runs of this machine that MLflow shows as running although they do not go on. Raises RecordsError."""
    if not database(runs_dir).exists():
        return []
    return sorted(run.name for run in stale_runs(runs_dir))
