"""A watcher that logs a run to MLflow, as a view of its records; it never disturbs the run, and nobody waits for it.

It is fed in the driver process, never in the server or a worker, and in the driver's own loop: as no attempt waits for
longer than a moment, there is nothing that a thread would have to wait for in its place.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from dssp_bench.experiment.mlflow_content import points_of
from dssp_bench.experiment.mlflow_run import MlflowRun
from dssp_bench.experiment.mlflow_store import end_stale_runs, quiet, waiting_at_most
from dssp_bench.experiment.watcher import RunInfo, Status, Watcher
from dssp_bench.records.reader import RunRecords

POINTS_IN_A_MOMENT = 2000
_log = logging.getLogger(__name__)


class Patience(NamedTuple):
    """For how many seconds a run may wait for a database that somebody else has locked.

    While it goes on an attempt waits for `moment_s`; after one that failed there is none for `rest_s`, after the next
    for twice as long. At its end attempts of `attempt_s` are made for `last_s`; for `killed_s` if somebody waits.
    """

    moment_s: float = 0.25
    rest_s: float = 5.0
    longest_rest_s: float = 60.0
    attempt_s: float = 1.0
    last_s: float = 5.0
    killed_s: float = 1.0


PATIENCE = Patience()


class MlflowLog(Watcher):
    """Logs one run to the store of its folder of runs; a run that MLflow has already goes on there.

    What MLflow does not take while the run goes on, since somebody has locked its database or it is not there, is tried
    again, less and less often; at the run's end for some seconds. What is lacking then, `dssp-bench sync` sends.
    `failed` says why something is lacking.
    """

    def __init__(
        self,
        patience: Patience = PATIENCE,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.failed: str | None = None
        self._patience = patience
        self._now = now
        self._sleep = sleep
        self._run: RunInfo | None = None
        self._in_mlflow: MlflowRun | None = None
        self._failures = 0
        self._rests_until = 0.0
        self._stale_may_be_there = True

    def start(self, run: RunInfo) -> None:
        """Create the run, and the store if there is none."""
        self._run = run
        self._done(lambda _there: None, self._patience.moment_s)

    def records(self, records: RunRecords) -> None:
        """Log what is new in the records."""
        if self._now() >= self._rests_until:
            self._done(
                lambda there: there.log(points_of(records, over=False), POINTS_IN_A_MOMENT), self._patience.moment_s
            )

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        """Log the rest, the summary and the files, and end the run as what it is."""
        if self._run is None:
            return  # it failed before it could start
        in_all_s = self._patience.killed_s if status == "killed" else self._patience.last_s
        give_up_at = self._now() + in_all_s
        while not self._done(lambda there: there.end(status, records, summary, error), self._patience.attempt_s):
            if not self._is_away or self._now() >= give_up_at:
                _log.warning(
                    "MLflow lacks this run or a part of it (%s); its folder has everything, and "
                    "`dssp-bench sync %s` sends it",
                    self.failed,
                    self._run.folder,
                )
                return
            self._sleep(self._patience.moment_s)

    @property
    def _is_away(self) -> bool:
        """Whether it may help to wait."""
        return self.failed is not None and "locked" in self.failed

    def _done(self, action: Callable[[MlflowRun], object], wait_s: float) -> bool:
        """Whether the action was carried out; after one that was not, MLflow is asked anew what is there."""
        assert self._run is not None
        try:
            with waiting_at_most(wait_s), quiet():
                if self._in_mlflow is None:
                    self._in_mlflow = MlflowRun.of(self._run)
                    self._in_mlflow.go_on()
                action(self._in_mlflow)
                self._end_stale(self._in_mlflow, self._run)
        except Exception as error:
            self.failed = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self._in_mlflow = None
            rest_s = min(self._patience.longest_rest_s, self._patience.rest_s * 2**self._failures)
            self._failures += 1
            self._rests_until = self._now() + rest_s
            return False
        self.failed = None
        self._failures = 0
        return True

    def _end_stale(self, there: MlflowRun, run: RunInfo) -> None:
        """End the runs of killed drivers, once; if that is in vain, it is tried again, and harms this run in no way."""
        if self._stale_may_be_there:
            with suppress(Exception):
                end_stale_runs(there.client, run.runs_dir, run.name)
                self._stale_may_be_there = False
