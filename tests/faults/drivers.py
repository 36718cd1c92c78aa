"""Driver processes, made by the dozen: a nurse imports everything once and forks one whenever it is asked to.

The nurse has no thread, no fork server and nothing of a run in it, and so neither has a new driver, as if Python had
been started anew, which takes two seconds. Whatever a dead driver leaves behind becomes the nurse's child, so that
nothing escapes.
"""

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_READY = b"ready"


# --- from outside ---


class Kin(NamedTuple):
    """One process of a family: its number, its parent's, its state (as `ps` shows it), and when it began."""

    pid: int
    parent: int
    state: str
    began: int


class Driver:
    """A process that carries out one command after the other, each a run or the resumption of one."""

    def __init__(self, pid: int, to: Connection, log: Path, began_at: int) -> None:
        self.pid = pid
        self.log = log
        self.roles: dict[str, int] = {}  # processes of the run that goes on, by name
        self.ended: list[dict[str, Any]] = []
        self._to = to
        self._log_read = began_at

    def send(self, command: dict[str, Any]) -> None:
        """Have it do something."""
        self.roles = {}
        self._to.send(command)

    def says(self, within_s: float) -> tuple[str, dict[str, Any]] | None:
        """What it tells within that time, if anything: a word and what belongs to it. Raises EOFError if it is gone."""
        if not self._to.poll(max(0.0, within_s)):
            return None
        try:
            word, content = self._to.recv()
        except ConnectionResetError:
            raise EOFError from None
        if word == "started":
            self.roles = content
        if word == "ended":
            self.ended.append(content)
        return word, content

    def fork_server(self) -> int | None:
        """The process that forks the processes of its runs."""
        for kin in family(self.pid):
            if kin.parent == self.pid and b"forkserver" in _command(kin.pid):
                return kin.pid
        return None

    def new_log(self) -> str:
        """What it and its processes have written since somebody looked."""
        with self.log.open("rb") as log:
            log.seek(self._log_read)
            content = log.read()
        self._log_read += len(content)
        return content.decode(errors="replace")

    def dismiss(self) -> None:
        """Let it end."""
        self._to.close()


class Nursery:
    """Where drivers come from."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        code = f"from tests.faults.drivers import nurse; nurse({theirs.fileno()})"
        self._nurse = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        theirs.close()
        if self._control.recv(100) != _READY:
            raise RuntimeError("there is no nurse")
        self._drivers: list[Driver] = []

    def close(self) -> None:
        """Leave no process and no file."""
        for kin in family(self._nurse.pid):
            with suppress(ProcessLookupError):
                os.kill(kin.pid, signal.SIGKILL)
        self._control.close()
        self._nurse.wait()
        self._temporary.cleanup()

    def driver(self) -> Driver:
        """A new one."""
        ours, theirs = multiprocessing.Pipe()
        log = self.folder / "log"
        began_at = log.stat().st_size if log.exists() else 0
        socket.send_fds(self._control, [str(self.folder).encode()], [theirs.fileno()])
        theirs.close()
        pid = int(self._control.recv(100))
        self._drivers.append(Driver(pid, ours, log, began_at))
        return self._drivers[-1]

    def forget(self, driver: Driver) -> None:
        """From now on the driver and its helpers should not be there."""
        driver.dismiss()
        self._drivers.remove(driver)

    def left(self) -> list[Kin]:
        """All processes that are there but drivers, the processes that fork for them, and those that free resources."""
        alive = family(self._nurse.pid)
        drivers = {driver.pid for driver in self._drivers}
        return [kin for kin in alive if not {kin.pid, kin.parent} & drivers]


def family(pid: int) -> list[Kin]:
    """The processes that this one started, and those that they started, oldest first."""
    there = [kin for stat in Path("/proc").glob("[0-9]*/stat") if (kin := _kin(stat))]
    found = {pid}
    while more := {kin.pid for kin in there if kin.parent in found} - found:
        found |= more
    # One that is dead may have threads that are not, and then it still has its children.
    return sorted((k for k in there if k.pid in found - {pid} and k.state != "Z"), key=lambda kin: (kin.began, kin.pid))


def _kin(stat: Path) -> Kin | None:
    try:
        after_name = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None  # it has just ended
    return Kin(int(stat.parent.name), int(after_name[1]), after_name[0], int(after_name[19]))


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


# --- the nurse ---


def nurse(control_file: int) -> None:
    """Fork drivers until nobody is there to ask for one."""
    import dssp_bench.experiment.run
    import dssp_bench.experiment.tracking  # noqa: F401

    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, _bury)
    control = socket.socket(fileno=control_file)
    control.send(_READY)
    while True:
        folder, files, _, _ = socket.recv_fds(control, 4096, 1)
        if not folder:
            return
        if (pid := os.fork()) == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            control.close()
            _drive(Connection(files[0]), Path(folder.decode()))
            sys.exit(0)
        os.close(files[0])
        control.send(str(pid).encode())


def _bury(_number: int, _frame: object) -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


# --- a driver ---


def _drive(to: Connection, folder: Path) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    while True:
        _hear(signal.SIG_IGN)
        try:
            command = to.recv()
        except EOFError:
            return
        to.send(("ended", {**_carried_out(command, to), **_held()}))


def _carried_out(command: dict[str, Any], to: Connection) -> dict[str, Any]:
    """Ctrl-C and termination are heard from here on, until the run is over."""
    answer = {"status": "interrupted", "error": ""}
    try:
        with _hearing():
            answer = _run(command, to)
    except KeyboardInterrupt:
        _hear(signal.SIG_IGN)
    except BaseException:
        answer = {"status": "raised", "error": traceback.format_exc()}
    return answer


@contextmanager
def _hearing() -> Iterator[None]:
    _hear(signal.default_int_handler)
    try:
        yield
    finally:
        _hear(signal.SIG_IGN)


def _hear(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _run(command: dict[str, Any], to: Connection) -> dict[str, Any]:
    from dssp_bench.experiment.run import resume, run
    from dssp_bench.experiment.spec import build_spec
    from dssp_bench.experiment.tracking import tracking
    from dssp_bench.experiment.watcher import RunInfo, RunStatus, Watcher

    class Telling(Watcher):
        """Says when the processes are there, and when the first push was made."""

        told = False

        def start(self, run: RunInfo) -> None:
            children = multiprocessing.active_children()
            to.send(("started", {child.name.removeprefix("dssp-bench "): child.pid for child in children}))

        def progress(self, status: RunStatus) -> None:
            if status.pushes and not self.told:
                self.told = True
                to.send(("training", {}))

    spec = build_spec(command["config"], command["choices"])
    watchers = [*tracking(spec), Telling()]
    result = resume(Path(command["resume"]), watchers) if "resume" in command else run(spec, watchers)
    return {"status": result.status, "error": result.error}


def _held() -> dict[str, Any]:
    """Children, open files, and bytes of memory."""
    children = [child.name for child in multiprocessing.active_children()]  # this lets go of those that have ended
    gc.collect()
    files = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            files.append(os.readlink(f"/proc/self/fd/{name}"))
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return {"children": children, "files": sorted(files), "bytes": pages * os.sysconf("SC_PAGE_SIZE")}
