"""Many runs, several at a time. What is finished is not run again, so an interrupted batch goes on where it was."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dssp_bench
from dssp_bench.analysis.arms import fingerprint
from dssp_bench.core.errors import DsspBenchError
from dssp_bench.engines.options import SimulatedOptions
from dssp_bench.engines.termination import termination_as_interrupt
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.watcher import RunInfo, RunStatus, Watcher

_ENDS_WITHIN_S = 20.0
_LOOKS_EVERY_S = 0.5


@dataclass(frozen=True)
class Item:
    """One run of a batch, with a name for people."""

    label: str
    spec: RunSpec

    @property
    def fingerprint(self) -> str:
        """What finished runs with the same settings, seed and version have in their summary."""
        return fingerprint(self.spec.config, dssp_bench.__version__)


class BatchProgress:
    """Hears how a batch goes on; does nothing unless a method is overridden."""

    def started(self, item: Item) -> None:
        """The item's run begins."""

    def moved(self, item: Item, share: float) -> None:
        """The item's run has come so far, between 0 and 1."""

    def ended(self, item: Item, error: str) -> None:
        """The item's run is over; `error` says why it failed, if it did."""


def finished_runs(runs_dir: Path) -> dict[str, Path]:
    """The folders of finished runs by the fingerprint of their configuration; of several the oldest."""
    found: dict[str, Path] = {}
    for path in sorted(runs_dir.glob("*/summary.json")):
        with suppress(OSError, ValueError):
            summary = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(summary, dict) and summary.get("status") == "finished" and "configuration" in summary:
                found.setdefault(str(summary["configuration"]), path.parent)
    return found


def carry_out(items: Sequence[Item], progress: BatchProgress, processes: int | None = None) -> dict[str, str]:
    """Make the runs of all items, some at a time; returns why those that failed did, by their label.

    Runs in virtual time share the machine's cores, or so many processes; runs in real processes need it for themselves
    and come one after the other, in this process. KeyboardInterrupt is raised again when all that had begun is ended.
    Raises DataNotFound before anything is started.
    """
    for dataset in {repr(item.spec.dataset): item.spec.dataset for item in items if item.spec.trains}.values():
        dataset.load()
    virtual = [item for item in items if isinstance(item.spec.engine, SimulatedOptions)]
    real = [item for item in items if not isinstance(item.spec.engine, SimulatedOptions)]
    errors: dict[str, str] = {}
    with termination_as_interrupt():
        if virtual:
            errors |= _Pool(virtual, progress, processes or _cores(virtual)).to_the_end()
        for item in real:
            progress.started(item)
            error = _made(item, _Share(lambda share, item=item: progress.moved(item, share)))
            progress.ended(item, error)
            errors |= {item.label: error} if error else {}
    return errors


def _cores(items: Sequence[Item]) -> int:
    """How many at a time: each needs so many cores as its engine has threads."""
    threads = max(getattr(item.spec.engine, "threads", 1) for item in items)
    return max(1, min(len(os.sched_getaffinity(0)) // threads, len(items)))


def _made(item: Item, watcher: Watcher) -> str:
    """Make one run in this process; why it failed, or nothing."""
    from dssp_bench.experiment.run import run
    from dssp_bench.experiment.tracking import tracking

    try:
        result = run(item.spec, [watcher, *tracking(item.spec)])
    except DsspBenchError as error:
        return str(error)
    return "" if result.status == "finished" else result.error or result.status


class _Share(Watcher):
    """Says how much of a run is done, as far as its length is known."""

    def __init__(self, tell: Any) -> None:
        self._tell = tell
        self._total: int | None = None

    def start(self, run: RunInfo) -> None:
        """Keep how long the run is."""
        self._total = run.total_pushes

    def progress(self, status: RunStatus) -> None:
        """Say how far it is."""
        if self._total:
            self._tell(min(1.0, status.pushes / self._total))


@dataclass
class _Member:
    """A process of the pool, and what it is at."""

    process: BaseProcess
    connection: Connection
    item: Item


class _Pool:
    """Processes that make one run after the other; one that dies fails its run and is replaced.

    They come from the process that has imported torch already, with Ctrl-C blocked: what a terminal sends to all of
    them is this process's business.
    """

    def __init__(self, items: Sequence[Item], progress: BatchProgress, size: int) -> None:
        from dssp_bench.engines.local.fork_server import start_fork_server

        start_fork_server(("dssp_bench.experiment.batch", "dssp_bench.experiment.run"))
        self._waiting = deque(items)
        self._progress = progress
        self._size = size
        self._members: dict[Connection, _Member] = {}
        self._errors: dict[str, str] = {}

    def to_the_end(self) -> dict[str, str]:
        """Make all runs; returns why those that failed did."""
        try:
            while self._waiting and len(self._members) < self._size:
                self._hire()
            while self._members:
                for connection in wait(list(self._members)):
                    assert isinstance(connection, Connection)
                    self._listen(self._members[connection])
        finally:
            self._dismiss()
        return self._errors

    def _hire(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._assign(_Member(process, ours, self._waiting[0]))

    def _assign(self, member: _Member) -> None:
        """Give a member its next run, or let it go."""
        if not self._waiting:
            self._members.pop(member.connection, None)
            member.connection.close()
            member.process.join()
            return
        member.item = self._waiting.popleft()
        self._members[member.connection] = member
        with suppress(OSError):  # it died while it had nothing to do; the next look at it says so
            member.connection.send(member.item)
        self._progress.started(member.item)

    def _listen(self, member: _Member) -> None:
        try:
            news: float | str = member.connection.recv()
        except (EOFError, OSError):
            self._lost(member)
            return
        if isinstance(news, float):
            self._progress.moved(member.item, news)
            return
        self._over(member.item, news)
        self._assign(member)

    def _lost(self, member: _Member) -> None:
        del self._members[member.connection]
        member.process.join()
        self._over(member.item, f"its process ended with exit code {member.process.exitcode}")
        if self._waiting:
            self._hire()

    def _over(self, item: Item, error: str) -> None:
        self._progress.ended(item, error)
        if error:
            self._errors[item.label] = error

    def _dismiss(self) -> None:
        """End what still goes on: each run stops at a safe point and says in its records that it was killed."""
        for member in self._members.values():
            with suppress(ProcessLookupError):
                os.kill(member.process.pid or 0, signal.SIGTERM)
        deadline = time.monotonic() + _ENDS_WITHIN_S
        for member in self._members.values():
            member.process.join(max(0.0, deadline - time.monotonic()))
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
            member.connection.close()
        self._members = {}


def _serve(connection: Connection) -> None:
    """A process of the pool: make the runs that come in, until there are none or nobody listens."""
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            item: Item = connection.recv()
            connection.send(_reported(item, _Share(_Teller(connection))))


def _reported(item: Item, watcher: Watcher) -> str:
    try:
        return _made(item, watcher)
    except KeyboardInterrupt:
        raise
    except Exception as error:  # a bug; the other runs may do without it
        return f"{type(error).__name__}: {error}"


class _Teller:
    """Sends shares at most a few times a second; ends this process when nobody listens any more."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._due = 0.0

    def __call__(self, share: float) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _LOOKS_EVERY_S
        try:
            self._connection.send(share)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)
