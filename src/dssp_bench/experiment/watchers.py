"""All watchers of a run as one, which cannot hurt it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dssp_bench.core.errors import RecordsError
from dssp_bench.core.messages import Evaluation
from dssp_bench.engines.status import Page
from dssp_bench.experiment.watcher import RunInfo, RunStatus, Status, Watcher, WorkerStatus
from dssp_bench.records.reader import RunRecords

_log = logging.getLogger(__name__)


class Watchers:
    """Passes on what happens; a watcher that fails is reported once and left out from then on."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = list(watchers)
        self._names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watchers)

    def start(self, run: RunInfo) -> None:
        """The folder exists and the workers are being started."""
        self._names = run.worker_names
        self._tell(lambda watcher: watcher.start(run))

    def progress(self, page: Page) -> None:
        """The page says how the run stands."""
        workers = tuple(
            WorkerStatus(name, row.clock, row.lead, row.staleness, row.waited_s, row.state.name.lower())  # type: ignore[arg-type]
            for name, row in zip(self._names, page.workers, strict=True)
        )
        status = RunStatus(page.elapsed_s, page.pushes, page.updates, page.loss, workers)
        self._tell(lambda watcher: watcher.progress(status))

    def evaluation(self, evaluation: Evaluation) -> None:
        """A snapshot was evaluated."""
        self._tell(lambda watcher: watcher.evaluation(evaluation))

    def records(self, folder: Path) -> None:
        """What is on disk so far may be read."""
        try:
            records = RunRecords.open(folder)
        except RecordsError:
            return  # nothing is there yet
        self._tell(lambda watcher: watcher.records(records))

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        """The run is over."""
        self._tell(lambda watcher: watcher.finish(status, records, summary, error))

    def _tell(self, call: Callable[[Watcher], None]) -> None:
        for watcher in list(self._watchers):
            try:
                call(watcher)
            except Exception as error:
                self._watchers.remove(watcher)
                _log.warning("%s failed and watches no longer: %s", type(watcher).__name__, error)
