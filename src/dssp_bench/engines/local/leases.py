"""How long a worker may compute before it is taken to hang, and the end of one that does."""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from statistics import median

from dssp_bench.core.messages import SECOND, Nanoseconds, WorkerId

LOOKS_EVERY_S = 1.0
_TIMES_MEDIAN = 20
_REMEMBERED = 31
_SUSPENDED_S = 5.0
_log = logging.getLogger(__name__)


class Leases:
    """The moments at which workers began, what their iterations took, and their processes.

    A process is held by a descriptor and not by its number, which could be another's when it is killed. `hang_up` ends
    the conversation with the worker, so that its loss is noticed also if its process is on another machine (its number
    is 0, and it cannot be killed), does not die before a system call returns, or has left its socket to a child. If the
    server has not looked for much longer than it wanted to, the whole run was suspended, and nobody hung.
    """

    def __init__(
        self, lease_s: float, hang_up: Callable[[WorkerId], object], kill: Callable[[int], object] | None = None
    ) -> None:
        self._lease = round(lease_s * SECOND)
        self._hang_up = hang_up
        self._kill = kill or (lambda process: signal.pidfd_send_signal(process, signal.SIGKILL))
        self._processes: dict[WorkerId, int] = {}
        self._at_least: dict[WorkerId, Nanoseconds] = {}
        self._first: dict[WorkerId, Nanoseconds] = {}  # what an iteration may well take, as long as none was seen
        self._began: dict[WorkerId, Nanoseconds] = {}
        self._expected: set[WorkerId] = set()
        self._took: dict[WorkerId, deque[Nanoseconds]] = {}
        self._looked_at: Nanoseconds = 0

    def watch(self, worker: WorkerId, pid: int, iteration_s: float) -> None:
        """This is the worker's process, and an iteration of its own may well take so long."""
        self.forget(worker)
        self._at_least[worker] = self._lease
        self._first[worker] = round(iteration_s * SECOND)
        self._took[worker] = deque(maxlen=_REMEMBERED)
        if pid:
            with suppress(ProcessLookupError):  # it has died, as the end of its channel will say
                self._processes[worker] = os.pidfd_open(pid)

    def expect(self, worker: WorkerId, pid: int, within_s: float, at: Nanoseconds) -> None:
        """This process is to be ready within so long."""
        self.watch(worker, pid, 0.0)
        self._at_least[worker] = round(within_s * SECOND)
        self._began[worker] = at
        self._expected.add(worker)

    def begin(self, worker: WorkerId, at: Nanoseconds) -> None:
        """The worker begins an iteration."""
        self._began[worker] = at

    def end(self, worker: WorkerId, at: Nanoseconds) -> None:
        """The worker has pushed; what it took since it began is what a lease is measured by, transfers included."""
        began = self._began.pop(worker, None)
        if began is not None:
            self._took[worker].append(at - began)

    def forget(self, worker: WorkerId) -> None:
        """The worker has left."""
        self._began.pop(worker, None)
        self._expected.discard(worker)
        if (process := self._processes.pop(worker, None)) is not None:
            os.close(process)

    def look(self, now: Nanoseconds) -> None:
        """Kill those whose lease has run out; their death is noticed as any other."""
        if now - self._looked_at < LOOKS_EVERY_S * SECOND:
            return
        if now - self._looked_at > _SUSPENDED_S * SECOND:
            self._began = dict.fromkeys(self._began, now)
        self._looked_at = now
        for worker, began in list(self._began.items()):
            usual = median(self._took[worker] or [self._first[worker]])
            if now - began > max(self._at_least[worker], _TIMES_MEDIAN * usual):
                self._end(worker, (now - began) / SECOND)

    def _end(self, worker: WorkerId, computed_s: float) -> None:
        del self._began[worker]  # it is told once
        process = self._processes.get(worker)
        end = "given up" if process is None else "killed"
        if worker in self._expected:
            _log.warning("worker %d was not ready after %.0f s; it is %s", worker, computed_s, end)
        else:
            _log.warning("worker %d has been busy for %.0f s and is taken to hang; it is %s", worker, computed_s, end)
        if process is not None:
            with suppress(ProcessLookupError):
                self._kill(process)
        self._hang_up(worker)  # what it has said already is still heard
