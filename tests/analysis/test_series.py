"""A run over time, against a count of the pushes one by one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dssp_bench.analysis import series
from dssp_bench.analysis.series import Series
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


RAMP = Series(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.1, 0.5, 0.4, 0.9]))
LATER = Series(np.array([1.0, 2.0, 5.0]), np.array([0.2, 0.4, 0.6]))


def test_the_mean_of_curves_is_taken_point_by_point_over_moments_and_values() -> None:
    mean = series.mean([RAMP, LATER])
    assert mean.at_s.tolist() == [0.5, 1.5, 3.5]
    assert mean.value.tolist() == pytest.approx([0.15, 0.45, 0.5])


def test_a_band_reaches_from_the_lowest_to_the_highest_while_all_curves_last() -> None:
    band = series.band([RAMP, LATER], points=3)
    assert band.at_s.tolist() == [1.0, 2.0, 3.0]
    assert band.low.tolist() == pytest.approx([0.2, 0.4, 0.4 + 0.2 / 3])
    assert band.high.tolist() == pytest.approx([0.5, 0.4, 0.9])


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([0.1, 0.1, 0.1], [(0, 0.1), (2, 0.1)]),
        ([0.1, 0.1, 0.01, 0.01], [(0, 0.1), (2, 0.01), (3, 0.01)]),
        ([0.1, 0.01], [(0, 0.1), (1, 0.01)]),
        ([], []),
    ],
)
def test_of_the_learning_rate_only_its_changes_and_its_end_are_kept(
    rates: list[float], expected: list[tuple[float, float]]
) -> None:
    updates = pd.DataFrame({"at_s": np.arange(len(rates), dtype=float), "learning_rate": np.array(rates, float)})
    curve = series.learning_rate(updates)
    assert list(zip(curve.at_s.tolist(), curve.value.tolist(), strict=True)) == expected


def test_a_learning_rate_that_always_changes_is_thinned_between_its_ends() -> None:
    updates = pd.DataFrame({"at_s": np.arange(1000.0), "learning_rate": 1 / np.arange(1.0, 1001.0)})
    curve = series.learning_rate(updates, points=50)
    assert len(curve.at_s) == 50
    assert (curve.at_s[0], curve.at_s[-1]) == (0.0, 999.0)


def test_quantiles_are_values_that_occur() -> None:
    times = series.counts(np.array([5, 0, 0, 7, 5, 5, 5, 5, 5, 100]))
    assert times == {0: 2, 5: 6, 7: 1, 100: 1}
    assert series.quantiles(times, (0, 0.2, 0.21, 0.5, 0.8, 0.9, 0.99, 1)) == [0, 0, 5, 5, 5, 7, 100, 100]


def test_accuracy_can_be_followed_over_epochs_and_updates(tmp_path: Path) -> None:
    evaluations = fake_run.finished(tmp_path, BSP(), pushes=40).evaluations
    over_time, over_epochs = series.accuracy(evaluations), series.accuracy(evaluations, over="epoch")
    assert over_epochs.at_s.tolist() == evaluations["epoch"].tolist()
    assert over_epochs.value.tolist() == over_time.value.tolist()
