"""A watcher that draws a run's figures into its folder when the run is over."""

from pathlib import Path
from typing import Any

from dssp_bench.experiment.watcher import RunInfo, Status, Watcher
from dssp_bench.records.reader import RunRecords


class Figures(Watcher):
    """Draws once, at the end; comes before the watchers that pass the figures on."""

    def start(self, run: RunInfo) -> None:
        """Remember where the figures go."""
        self._folder: Path = run.folder

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        """Draw what there is."""
        from dssp_bench.plots import save_all  # with matplotlib, which takes a while

        if records is not None:
            save_all(records, self._folder)
