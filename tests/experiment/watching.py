"""A watcher that acts when a run has come far enough, and a look at what processes a run has and leaves."""

import gc
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dssp_bench.core.messages import Evaluation
from dssp_bench.experiment.watcher import RunInfo, RunStatus, Status, Watcher
from dssp_bench.records.reader import RunRecords

_LOOKS = 50
_LOOKS_EVERY_S = 0.1


class Watched(Watcher):
    """Keeps what it hears; calls `act` once, when so many pushes were made."""

    def __init__(self, act: Callable[[], object] = lambda: None, after_pushes: int = 1) -> None:
        self._act = act
        self._after_pushes = after_pushes
        self.acted = False
        self.run: RunInfo | None = None
        self.statuses: list[RunStatus] = []
        self.evaluations: list[Evaluation] = []
        self.finished: list[tuple[Status, RunRecords | None, dict[str, Any] | None, str]] = []

    def start(self, run: RunInfo) -> None:
        self.run = run

    def progress(self, status: RunStatus) -> None:
        self.statuses.append(status)
        if not self.acted and status.pushes >= self._after_pushes:
            self.acted = True
            self._act()

    def evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        self.finished.append((status, records, summary, error))


def kill(*names: str) -> None:
    """Kill the processes of this run with these names, without a warning."""
    for process in multiprocessing.active_children():
        if process.name.removeprefix("dssp-bench ") in names and process.pid:
            with suppress(ProcessLookupError):  # it has died by itself
                os.kill(process.pid, signal.SIGKILL)


def run_processes() -> list[str]:
    """The names of the processes that runs of this process have now."""
    return sorted(process.name.removeprefix("dssp-bench ") for process in multiprocessing.active_children())


def descendants(pid: int) -> list[int]:
    """The processes that this one started, and those that they started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if after_name[0] != "Z":
            children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def internet_sockets(pid: int) -> int:
    """How many TCP and UDP sockets a process has."""
    inodes = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = Path(f"/proc/{pid}/net/{table}")
        if path.exists():
            inodes |= {line.split()[9] for line in path.read_text(encoding="utf-8").splitlines()[1:]}
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except OSError:
            continue  # closed in the meantime
    return sum(link.removeprefix("socket:[").removesuffix("]") in inodes for link in links)


def held_resources() -> tuple[int, int]:
    """Open descriptors and descendants of this process: what a run may not leave."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(descendants(os.getpid()))


def shared_memory() -> set[str]:
    """The names that shared memory has now."""
    return set(os.listdir("/dev/shm"))


def _shared_memory_in_use() -> set[str]:
    """The names of shared memory that any other process has mapped."""
    names: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != str(os.getpid()):
            with suppress(OSError):
                names |= set(re.findall(r"/dev/shm/(\S+)", (process / "maps").read_text(encoding="utf-8")))
    return names


def shared_memory_left(before: set[str]) -> set[str]:
    """New names that no other process uses, and that are not removed soon; the tests beside this one have theirs."""
    left = shared_memory() - before
    for _ in range(_LOOKS):
        if not left:
            break
        left = shared_memory() - before - _shared_memory_in_use()
        time.sleep(_LOOKS_EVERY_S * bool(left))
    return left


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether it comes to be so, within a time that is far longer than it should take."""
    deadline = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pids: Iterable[int]) -> bool:
    """Whether all of them end within a while."""

    def is_gone(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return eventually(lambda: all(is_gone(pid) for pid in pids))


def environment() -> dict[str, str]:
    """In which a script finds what these tests are made of."""
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}
