"""A run over time, against a count of the pushes one by one."""

from pathlib import Path

import numpy as np
import pytest

from dssp_bench.analysis import series
from dssp_bench.analysis.waiting import lives
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from tests.records import fake_run


def test_windows_agree_with_counting_push_by_push(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, DSSP(3, 15), pushes=400).pushes
    ends = series.moments(pushes, 17)
    table = series.windows(pushes, ends)
    begin = 0.0
    for end, row in zip(ends, table.to_dict("records"), strict=True):
        inside = pushes[(pushes["arrived_s"] > begin) & (pushes["arrived_s"] <= end)]
        assert row["pushes_per_s"] == pytest.approx(len(inside) / (end - begin))
        assert row["max_lead"] == inside["lead"].max()
        assert row["mean_staleness"] == pytest.approx(inside["staleness"].mean())
        assert row["version"] == inside["version"].iloc[-1]
        begin = end
    assert table["pushes"].iloc[-1] == len(pushes)


def test_windows_can_be_asked_for_piece_by_piece(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, DSSP(3, 15), pushes=400).pushes
    ends = series.moments(pushes, 20)
    whole = series.windows(pushes, ends)
    rest = series.windows(pushes, ends[12:], begin_s=ends[11])
    np.testing.assert_allclose(whole.iloc[12:].to_numpy(), rest.to_numpy())


def test_a_window_without_pushes_has_no_lead_and_no_staleness(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, ASP(), slowdowns=(1.0,), pushes=3).pushes
    table = series.windows(pushes, [0.5, 1.0, 1.5, 3.0])
    assert table["pushes_per_s"].tolist() == [0.0, 2.0, 0.0, pytest.approx(2 / 1.5)]
    assert table["max_lead"].isna().tolist() == [True, False, True, False]
    assert table["mean_staleness"].isna().tolist() == [True, False, True, False]


def test_waiting_grows_while_the_worker_is_held_and_shrinks_while_it_computes(tmp_path: Path) -> None:
    # fast pushes at 1 and 3, held until 2 and 4
    life = lives(fake_run.finished(tmp_path, BSP(), slowdowns=(1.0, 2.0), pushes=4).pushes)[0]
    moments = np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 9.0])
    assert life.held_until(moments).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 2.0]
    assert life.share_until(moments).tolist() == pytest.approx([0, 0, 1 / 3, 0.5, 1 / 3, 0.5, 0.5])
    assert life.waiting_share == 0.5


def test_a_thinned_lead_keeps_its_peaks(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, DSSP(3, 15), pushes=2000).pushes
    leads = series.lead(pushes, points=50)
    assert len(leads[0].at_s) == 50
    assert leads[0].value.max() == pushes["lead"].max()


def test_the_threshold_of_a_paradigm_without_one_is_empty(tmp_path: Path) -> None:
    assert series.threshold(fake_run.finished(tmp_path, ASP()).pushes) == {}


def test_staleness_is_counted(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, ASP(), slowdowns=(1.0, 1.0), pushes=10).pushes
    assert series.staleness_counts(pushes) == {0: 1, 1: 9}


def test_there_are_never_more_windows_than_pushes(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, ASP(), pushes=7).pushes
    assert len(series.moments(pushes)) == 7
    assert len(series.moments(pushes.iloc[:0])) == 0
