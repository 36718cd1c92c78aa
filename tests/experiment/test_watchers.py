"""All watchers as one: what they hear, and what happens to one that fails."""

import logging
from pathlib import Path

import pytest

from dssp_bench.core.messages import Evaluation
from dssp_bench.engines.status import Page, State, WorkerRow
from dssp_bench.experiment.watcher import RunInfo, Watcher, WorkerStatus
from dssp_bench.experiment.watchers import Watchers
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter
from tests.experiment.watching import Watched

INFO = RunInfo("run", Path("run"), Path(), {}, {}, {}, ("fast", "slow"), seed=1, total_pushes=None)
PAGE = Page(1.5, 3, 2, 0.25, (WorkerRow(2, 1, 0, 0.5, State.HELD), WorkerRow(1, 0, None, 0.0, State.COMPUTING)))


def test_a_page_reaches_watchers_with_the_names_of_the_workers() -> None:
    watched = Watched()
    watchers = Watchers([watched])
    watchers.start(INFO)
    watchers.progress(PAGE)
    (status,) = watched.statuses
    assert status[:4] == (1.5, 3, 2, 0.25)
    assert status.workers == (
        WorkerStatus("fast", 2, 1, 0, 0.5, "held"),
        WorkerStatus("slow", 1, 0, None, 0.0, "computing"),
    )


def test_every_watcher_hears_everything_in_order() -> None:
    first, second = Watched(), Watched()
    watchers = Watchers([first, second])
    watchers.start(INFO)
    watchers.evaluation(Evaluation(0, 0, 0, 0.0, 2.3, 0.1))
    watchers.finish("failed", None, None, "why")
    for watched in (first, second):
        assert watched.run is INFO
        assert [evaluation.accuracy for evaluation in watched.evaluations] == [0.1]
        assert watched.finished == [("failed", None, None, "why")]


def test_one_that_fails_is_reported_once_and_hears_no_more(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Watcher):
        heard = 0

        def evaluation(self, evaluation: Evaluation) -> None:
            self.heard += 1
            raise OSError("disk full")

    failing, watched = Failing(), Watched()
    watchers = Watchers([failing, watched])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watchers.evaluation(Evaluation(0, 0, 0, 0.0, 2.3, 0.1))
    assert failing.heard == 1
    assert len(watched.evaluations) == 3
    assert [record.getMessage() for record in caplog.records] == ["Failing failed and watches no longer: disk full"]


def test_ctrl_c_in_a_watcher_is_not_the_watchers_fault() -> None:
    class Interrupted(Watcher):
        def finish(self, *_: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watchers([Interrupted()]).finish("finished", None, None, "")


def test_records_are_shown_as_soon_as_there_are_any(tmp_path: Path) -> None:
    seen: list[RunRecords] = []

    class Reading(Watcher):
        def records(self, records: RunRecords) -> None:
            seen.append(records)

    watchers = Watchers([Reading()])
    watchers.records(tmp_path)
    assert not seen
    writer = RecordWriter(tmp_path)
    watchers.records(tmp_path)
    assert [len(records.pushes) for records in seen] == [0]
    writer.close()
