"""A watcher that draws a run's figures into its folder when the run is over."""

from typing import Any

from dssp_bench.experiment.watcher import Status, Watcher
from dssp_bench.records.reader import RunRecords


class Figures(Watcher):
    """Draws once, at the end; comes before the watchers that pass the figures on."""

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        """Draw what there is."""
        from dssp_bench.plots import save_all  # with matplotlib, which takes a while

        if records is not None:
            save_all(records, records.folder)
