"""Figures are drawn for every paradigm and shape of run, and say what their axes mean."""

import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
from matplotlib.text import Annotation

from dssp_bench import plots
from dssp_bench.analysis.series import Series
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.plots import figures
from dssp_bench.plots.of_run import activities, distinct_names, of_run, opening
from dssp_bench.plots.style import _apart, save, settle
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter
from tests.plots import fake_arms
from tests.records import fake_run

OF_ANY_RUN = {"accuracy", "throughput", "lead", "lead_at_first", "staleness", "waiting", "timeline"}


@pytest.mark.parametrize(
    ("paradigm", "slowdowns"),
    [(ASP(), (1.0,)), (BSP(), (1.0, 1.0)), (SSP(3), tuple(np.linspace(1, 2, 40))), (DSSP(3, 15), (1.0, 1.57, 3.0))],
    ids=["alone", "BSP", "SSP of 40 workers", "DSSP"],
)
def test_a_run_has_a_figure_of_everything_that_it_has(
    tmp_path: Path, paradigm: Paradigm, slowdowns: tuple[float, ...]
) -> None:
    records = fake_run.finished(tmp_path, paradigm, slowdowns, 400)
    made = of_run(records)
    assert set(made) == OF_ANY_RUN | (set() if isinstance(paradigm, ASP) else {"threshold"})
    for name, figure in made.items():
        figure.draw_without_rendering()
        assert figure.axes[0].get_xlabel(), name


def test_figures_are_saved_under_the_run(tmp_path: Path) -> None:
    records = fake_run.finished(tmp_path, DSSP(3, 15))
    files = plots.save_all(records, tmp_path)
    assert sorted(files) == sorted((tmp_path / "figures").iterdir())
    assert {path.suffix for path in files} == {".png", ".svg"}
    before = {path: path.read_bytes() for path in files}
    plots.save_all(records, tmp_path)
    assert before == {path: path.read_bytes() for path in files}


def test_files_do_not_depend_on_their_order(tmp_path: Path) -> None:
    figure = settle(figures.waiting_bars({"fast": 0.25, "slow": 0.0}))
    files = [save(figure, tmp_path / name) for name in ("first.png", "second.svg", "third.png", "fourth.svg")]
    first, second, third, fourth = [path.read_bytes() for path in files]
    assert (first, second) == (third, fourth)


def test_a_run_that_ended_at_once_has_no_figures(tmp_path: Path) -> None:
    RecordWriter(tmp_path).close()
    assert plots.save_all(RunRecords.open(tmp_path), tmp_path) == []


def test_a_run_of_a_single_push_has_figures_too(tmp_path: Path) -> None:
    made = of_run(fake_run.finished(tmp_path, BSP(), slowdowns=(1.0,), pushes=1))
    assert made["threshold"].axes[0].get_xlim()[0] == 0


def test_a_run_of_a_known_engine_has_named_workers_and_virtual_seconds(tmp_path: Path) -> None:
    made = of_run(fake_arms.finished(tmp_path / "run", DSSP(3, 15)))
    assert {
        figure.axes[0].get_xlabel() for name, figure in made.items() if name in ("accuracy", "lead", "threshold")
    } == {"time (virtual s)"}
    assert {text.get_text() for text in made["lead"].axes[0].texts} == {"fast", "slow"}
    assert [label.get_text() for label in made["timeline"].axes[0].get_yticklabels()] == ["fast", "slow"]


def test_workers_have_numbers_where_names_are_missing_or_equal(tmp_path: Path) -> None:
    records = fake_run.finished(tmp_path, BSP())
    assert distinct_names(records) == ()
    records.config["cluster"] = {"workers": [{"name": "a"}, {"name": "a"}]}
    assert distinct_names(records) == ()
    records.config["cluster"] = {"workers": [{"name": "a"}, {"name": "b"}], "count": 3}
    assert distinct_names(records) == ("a", "b", "a_2")


def test_of_many_workers_only_the_extremes_are_named() -> None:
    leads = {f"worker {w}": Series(np.array([0.0, 9.0]), np.array([0.0, float(w)])) for w in range(40)}
    axes = figures.lead_over_time(leads).axes[0]
    assert {text.get_text() for text in axes.texts} == {"worker 39", "worker 0"}
    assert len(axes.lines) == 2


def test_labels_that_would_overlap_move_apart_and_stay_inside() -> None:
    assert _apart([10.0, 10.0, 50.0], 5.0, 0.0, 100.0) == [10.0, 15.0, 50.0]
    assert _apart([99.0, 98.0], 5.0, 0.0, 100.0) == [100.0, 95.0]


def test_the_timeline_shows_who_computed_and_who_was_held(tmp_path: Path) -> None:
    # fast pushes at 1 and is held until slow pushes at 2
    pushes = fake_run.finished(tmp_path, BSP(), slowdowns=(1.0, 2.0), pushes=4).pushes
    fast = activities(pushes, 4.0)["worker 0"]
    assert fast.computing.begin.tolist() == [0.0, 2.0]
    assert fast.held.begin.tolist() == [1.0, 3.0]
    assert fast.held.end.tolist() == [2.0, 4.0]


def test_the_opening_ends_when_the_fastest_has_pushed_often_enough(tmp_path: Path) -> None:
    pushes = fake_run.finished(tmp_path, ASP(), slowdowns=(1.0, 2.0), pushes=90).pushes
    assert opening(pushes, 30) == (0.0, 30.0)
    assert opening(pushes, 1000) == (0.0, float(pushes["arrived_s"].max()))


def test_thresholds_are_shown_around_the_first_grant_where_that_comes_late(tmp_path: Path) -> None:
    records = fake_run.finished(tmp_path, DSSP(20, 35), slowdowns=(1.0, 1.57), pushes=600)
    first = records.grants["at_s"].iloc[0]
    assert first > opening(records.pushes)[1]
    begin, end = of_run(records)["threshold"].axes[0].get_xlim()
    assert 0 < begin < first < end < records.pushes["arrived_s"].max()


def test_names_of_thresholds_stand_to_the_right_of_all_lines_also_where_time_begins_late() -> None:
    steps = {
        name: Series(np.array([100.0, end - 1, end]), np.array([3.0, 5.0, value]))
        for name, end, value in [("first", 109.6, 8.0), ("second", 110.0, 8.0), ("third", 109.8, 7.0)]
    }
    axes = figures.threshold_over_time(steps, {}).axes[0]
    assert axes.get_xlim() == pytest.approx((100.0, 110.1))
    labels = {text.get_text(): text for text in axes.texts if isinstance(text, Annotation)}
    assert {text.xy[0] for text in labels.values()} == {110.0}
    assert {name: text.xy[1] for name, text in labels.items()} == {"first": 8.0, "second": 8.0, "third": 7.0}


def test_throughput_is_in_the_runs_own_seconds_and_its_highest_point_is_inside(tmp_path: Path) -> None:
    axes = of_run(fake_arms.finished(tmp_path / "run", BSP()))["throughput"].axes[0]
    assert axes.get_ylabel() == "pushes per virtual second"
    assert axes.get_ylim()[1] > axes.dataLim.ymax


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, dssp_bench.plots, dssp_bench.plots.of_run; assert 'matplotlib' not in sys.modules"
    run([sys.executable, "-c", code], check=True)
