"""Figures of a comparison: what is drawn for which runs, and that all of it is named."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import BboxBase

from dssp_bench import plots
from dssp_bench.analysis.arms import Arm
from dssp_bench.analysis.series import Series
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.plots import arm_figures, style
from dssp_bench.plots.arm_figures import Distribution, Seeds
from dssp_bench.plots.of_arms import clocks, of_arms
from tests.plots import fake_arms

FOUR: tuple[Paradigm, ...] = (BSP(), ASP(), SSP(3), DSSP(3, 15))
NAMES = ["BSP", "ASP", "SSP 3", "DSSP 3-15"]
OF_LEARNING = {"accuracy_time", "accuracy_samples", "accuracy_updates", "time_to_target"}
OF_TIMING = {
    "learning_rate", "throughput", "duration", "updates_per_iteration",
    "waiting", "lead", "staleness", "timeline", "threshold",
}  # fmt: skip
LONG = "held_gradients=merge_sum interval=hold_corrected cluster=paper"  # more than 60 letters
CURVE = Series(np.array([0.0, 10.0, 20.0]), np.array([0.1, 0.8, 0.85]))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Arm]:
    """An arm of each paradigm, with two seeds."""
    return fake_arms.arms(tmp_path_factory.mktemp("four"), FOUR, seeds=2)


@pytest.fixture(scope="module")
def drawn(four: list[Arm]) -> dict[str, Figure]:
    """The figures of the four."""
    return of_arms(four, targets=[0.4])


def test_a_comparison_has_a_figure_of_everything_that_its_runs_have(drawn: dict[str, Figure]) -> None:
    assert set(drawn) == OF_LEARNING | OF_TIMING


def test_runs_without_training_have_no_accuracies_and_nothing_is_drawn_without_runs(tmp_path: Path) -> None:
    assert set(of_arms(fake_arms.arms(tmp_path, FOUR, trained=False), targets=[0.4])) == OF_TIMING
    assert of_arms([], targets=[0.4]) == {}


def test_without_targets_there_are_no_times_to_them_and_without_grants_no_thresholds(tmp_path: Path) -> None:
    assert not {"time_to_target", "threshold"} & set(of_arms(fake_arms.arms(tmp_path, [BSP(), SSP(3)])))


def test_every_axis_says_what_it_measures_and_in_what(drawn: dict[str, Figure]) -> None:
    labels = {name: figure.axes[-1].get_xlabel() for name, figure in drawn.items()}
    assert labels == {
        "accuracy_time": "time (virtual s)",
        "accuracy_samples": "epoch (passes over the training set)",
        "accuracy_updates": "server updates",
        "time_to_target": "time (virtual s)",
        "learning_rate": "time (virtual s)",
        "throughput": "pushes per virtual second",
        "duration": "duration (virtual s)",
        "updates_per_iteration": "updates per iteration of the slowest worker",
        "waiting": "",
        "lead": "lead (iterations)",
        "staleness": "staleness (updates)",
        "timeline": "time (virtual s)",
        "threshold": "time (virtual s)",
    }
    assert drawn["waiting"].axes[0].get_title(loc="left") == "Held by the server, % of the worker's time"
    assert drawn["accuracy_time"].axes[0].get_ylabel() == "test accuracy (%)"


def test_sixteen_arms_with_long_names_leave_every_word_inside_the_figure(four: list[Arm]) -> None:
    long = [replace(arm, label=f"{n} {LONG}") for n, arm in enumerate(sorted(4 * four, key=lambda arm: arm.label))]
    made = of_arms(long, targets=[0.3, 0.4, 0.95])
    made["clocks"] = clocks({"updates": long, "samples": long})
    for name, figure in made.items():
        outside = [what for what, box in written(figure).items() if not within(box, figure.bbox)]
        assert not outside, f"{name}: {outside}"


def test_a_name_without_spaces_is_broken_too_and_rows_are_as_high_as_their_names() -> None:
    short, long = [Seeds("BSP", "0.5", [1.0])] * 8, [Seeds("x" * 100, "0.5", [1.0])] * 8
    low, high = arm_figures.bars("duration (s)", short), arm_figures.bars("duration (s)", long)
    assert high.get_figheight() > low.get_figheight()
    style.settle(high)
    names = [label.get_window_extent() for label in high.axes[0].get_yticklabels()]
    assert len(names) == 8
    assert not overlapping(names)


def test_a_legend_of_many_lines_makes_the_figure_higher_and_not_the_axes_lower(four: list[Arm]) -> None:
    long = [replace(arm, label=f"{arm.label} {LONG}") for arm in four]
    few, many = (style.settle(of_arms(arms)["accuracy_time"]).axes[0] for arms in (four, long))
    assert many.get_window_extent().height == pytest.approx(few.get_window_extent().height, rel=0.06)


def test_runs_of_both_engines_have_both_units_of_time(four: list[Arm], tmp_path: Path) -> None:
    real = fake_arms.finished(tmp_path / "real", BSP())
    real.config["choices"]["engine"] = "local"
    made = of_arms([replace(four[1], label="ASP"), replace(four[0], label="BSP local", runs=(real,))], targets=[0.4])
    for name in ("accuracy_time", "time_to_target", "learning_rate", "timeline"):
        assert made[name].axes[-1].get_xlabel() == "time (s or virtual s)", name
    assert made["duration"].axes[0].get_xlabel() == "duration (s or virtual s)"
    assert made["throughput"].axes[0].get_xlabel() == "pushes per second or virtual second"


@pytest.mark.parametrize("name", ["accuracy_time", "accuracy_samples", "accuracy_updates", "learning_rate"])
def test_every_arm_is_a_line_and_in_the_legend(drawn: dict[str, Figure], name: str) -> None:
    wanted = NAMES if name == "learning_rate" else [*NAMES, "target 40 %"]
    assert legend(drawn[name]) == wanted
    assert [line.get_label() for line in drawn[name].axes[0].lines] == wanted


@pytest.mark.parametrize("name", ["throughput", "duration", "updates_per_iteration", "waiting", "lead", "staleness"])
def test_every_arm_is_a_row(drawn: dict[str, Figure], name: str) -> None:
    assert [label.get_text() for label in drawn[name].axes[0].get_yticklabels()] == NAMES


def test_up_to_four_arms_of_a_paradigm_are_lines_of_their_own(tmp_path: Path) -> None:
    made = of_arms(fake_arms.arms(tmp_path, [SSP(s) for s in range(4)], pushes=30))["accuracy_time"]
    assert legend(made) == ["SSP 0", "SSP 1", "SSP 2", "SSP 3"]


def test_more_than_four_arms_of_a_paradigm_are_one_line_with_each_of_them_grey_behind_it(tmp_path: Path) -> None:
    made = of_arms(fake_arms.arms(tmp_path, [BSP(), *(SSP(s) for s in range(3, 9))], pushes=30))
    assert legend(made["accuracy_time"]) == ["BSP", "SSP 3-8, each", "SSP 3-8, mean"]
    colors = Counter(line.get_color() for line in made["accuracy_time"].axes[0].lines)
    assert sorted(colors.values()) == [1, 1, 6]
    assert colors[style.FAINT] == 6
    assert legend(made["learning_rate"]) == ["BSP", "SSP 3-8, each"]
    assert len(made["throughput"].axes[0].get_yticklabels()) == 7


def test_the_band_reaches_over_the_seeds_and_one_seed_has_none(tmp_path: Path) -> None:
    one = of_arms(fake_arms.arms(tmp_path / "one", [BSP()]))["accuracy_time"]
    three = of_arms(fake_arms.arms(tmp_path / "three", [BSP()], seeds=3))["accuracy_time"]
    assert len(one.axes[0].collections) == 0
    assert len(three.axes[0].collections) == 1
    assert any("lowest to highest of 3 seeds" in text.get_text() for text in three.axes[0].texts)


def test_published_curves_are_grey_and_named_where_they_end(tmp_path: Path) -> None:
    made = of_arms(fake_arms.arms(tmp_path, [BSP()]), published={"BSP": CURVE, "SSP 3": CURVE})["accuracy_time"]
    assert legend(made) == ["BSP", "published"]
    assert {text.get_text() for text in made.axes[0].texts} == {"BSP", "SSP 3"}


def test_published_curves_of_another_size_of_time_are_a_panel_that_looks_the_same(tmp_path: Path) -> None:
    published = {"DSSP 3-15": CURVE, "BSP": CURVE, "SSP 3-15, mean": CURVE}
    made = of_arms(fake_arms.arms(tmp_path, [BSP(), DSSP(3, 15)]), (0.4,), published, published_beside=True)
    ours, theirs = made["accuracy_time"].axes
    assert [axes.get_title(loc="left") for axes in (ours, theirs)] == ["reproduced", "published"]
    assert (ours.get_xlabel(), theirs.get_xlabel()) == ("time (virtual s)", "time (s)")
    assert legend(made["accuracy_time"]) == ["BSP", "DSSP 3-15", "target 40 %", "SSP 3-15, mean"]
    for label in ("BSP", "DSSP 3-15"):
        assert look(ours, label) == look(theirs, label)


def test_the_clocks_share_both_axes_looks_and_legend(four: list[Arm]) -> None:
    made = clocks({"updates": four[1:], "samples": four})
    left, right = made.axes
    assert left.get_title(loc="left") == "clock: updates (as published)"
    assert right.get_title(loc="left") == "clock: samples (the same for all)"
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlim() == right.get_xlim()
    assert sorted(legend(made)) == sorted(NAMES)
    for label in NAMES[1:]:
        assert look(left, label) == look(right, label)


def test_a_seed_that_never_reached_the_target_is_counted_at_the_edge() -> None:
    made = arm_figures.times_to(
        {0.9: [Seeds("BSP", "black", [1.0, None, 3.0]), Seeds("ASP", "black", [None])]}, "time (s)"
    )
    assert [text.get_text() for text in made.axes[0].texts] == ["1 of 3", "1 of 1"]
    assert legend(made) == ["a seed", "median", "not reached"]


def test_a_target_that_nobody_reached_has_no_axis_of_time() -> None:
    never, once = [Seeds("BSP", "black", [None, None])], [Seeds("BSP", "black", [None, 2.0])]
    reached, unreached = arm_figures.times_to({0.8: once, 0.9: never}, "time (s)").axes
    assert (reached.get_xlabel(), unreached.get_xlabel()) == ("time (s)", "reached by none")
    assert len(unreached.get_xticks()) == 0


@pytest.mark.parametrize("name", ["DSSP 3-15 +m", LONG])
@pytest.mark.parametrize("longest", [0.0033, 0.033, 65432.1])
@pytest.mark.parametrize("targets", [1, 2, 3])
def test_times_can_be_told_apart_in_every_panel(name: str, longest: float, targets: int) -> None:
    seeds = [Seeds(name, "black", [longest, longest / 2, None])]
    figure = style.settle(arm_figures.times_to({0.1 * n: seeds for n in range(1, targets + 1)}, "time (s)"))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    labels = [(axes, label) for axes in shown for label in axes.get_xticklabels()]
    ticks = [label.get_window_extent() for axes, label in labels if label.get_position()[0] <= axes.get_xlim()[1]]
    assert len(ticks) >= 3 * targets
    assert not overlapping([tick.padded(2) for tick in ticks])


@pytest.mark.parametrize(
    ("times", "marked"), [([3.0, 1.0, 2.0], [2.0]), ([1.0, 2.0], [1.5]), ([1.0, None, 2.0], [2.0]), ([1.0, None], [])]
)
def test_never_is_later_than_any_time(times: list[float | None], marked: list[float]) -> None:
    axes = arm_figures.times_to({0.9: [Seeds("BSP", "black", times)]}, "time (s)").axes[0]
    assert [x for line in axes.lines if line.get_marker() == "|" for x in np.asarray(line.get_xdata())] == marked


def test_bars_show_the_median_and_whiskers_only_where_seeds_differ() -> None:
    made = arm_figures.bars("duration (s)", [Seeds("BSP", "0.5", [4.0, 1.0, 2.0]), Seeds("ASP", "0.5", [3.0, 3.0])])
    axes = made.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 3.0]  # type: ignore[attr-defined]
    assert [text.get_text() for text in axes.texts] == ["2", "3"]
    [whisker] = [segment for lines in axes.collections for segment in lines.get_segments()]  # type: ignore[attr-defined]
    assert whisker[:, 0].tolist() == [1.0, 4.0]


def test_the_scale_of_a_distribution_is_logarithmic_where_one_arm_reaches_much_further() -> None:
    near = Distribution("SSP 3", "0.5", {0: 5, 4: 5})
    far = Distribution("ASP", "0.5", {0: 5, 900: 5})
    assert arm_figures.distributions("lead (iterations)", [near, near]).axes[0].get_xscale() == "linear"
    made = arm_figures.distributions("lead (iterations)", [near, far]).axes[0]
    assert made.get_xscale() == "symlog"
    assert made.get_xlabel() == "lead (iterations), log scale"


def test_waiting_has_a_column_for_each_of_few_workers_and_the_spread_of_many(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    few = drawn["waiting"].axes[0]
    many = of_arms(fake_arms.arms(tmp_path, [BSP()], workers=40, pushes=200))["waiting"].axes[0]
    assert [label.get_text() for label in few.get_xticklabels()] == ["fast", "slow"]
    assert [label.get_text() for label in many.get_xticklabels()] == ["least", "25 %", "median", "75 %", "most"]
    assert "40 workers" in many.get_title(loc="left")


def test_many_arms_are_represented_by_one_of_each_paradigm_in_the_timeline(tmp_path: Path) -> None:
    arms = fake_arms.arms(tmp_path, [BSP(), *(SSP(s) for s in range(3, 8)), DSSP(3, 15)])
    panels = of_arms(arms)["timeline"].axes
    assert [axes.get_title(loc="left") for axes in panels] == ["BSP", "SSP 3", "DSSP 3-15"]
    assert len({axes.get_xlim() for axes in panels}) == 1


def test_figures_are_saved_as_png_and_svg_and_equal_ones_are_equal_files(tmp_path: Path, four: list[Arm]) -> None:
    for folder in ("a", "b"):
        made = of_arms(four, [0.4])
        chosen = {name: made[name] for name in ("accuracy_time", "waiting", "timeline")}
        files = plots.save_figures(chosen, tmp_path / folder)
        assert [path.name for path in files] == [f"{name}.{suffix}" for name in chosen for suffix in ("png", "svg")]
    for path in files:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name


def test_a_paradigm_has_one_colour_and_its_arms_differ_in_their_lines() -> None:
    looks = style.looks(["bsp", "ssp", "ssp", "ssp", "mine", "other"])
    assert looks[1].color == looks[2].color == looks[3].color
    assert len({(look.linestyle, look.fillstyle) for look in looks[1:4]}) == 3
    assert len({look.color for look in looks}) == 4
    assert len({look.marker for look in looks}) == 4


def legend(figure: Figure) -> list[str]:
    """The entries of a figure's legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def look(axes: Any, label: str) -> tuple[Any, ...]:
    """What tells the line of this name from others."""
    [line] = [line for line in axes.lines if line.get_label() == label]
    return line.get_color(), line.get_linestyle(), line.get_marker(), line.get_fillstyle()


def written(figure: Figure) -> dict[str, BboxBase]:
    """Where a figure's words are when it is saved: its notes, panels, head and legends."""
    style.settle(figure)
    seen = [axes for axes in figure.axes if axes.get_visible()]
    notes = {text.get_text(): text.get_window_extent() for axes in seen for text in axes.texts}
    panels = {f"panel {number}": box for number, axes in enumerate(seen) if (box := axes.get_tightbbox())}
    rest = {str(part): part.get_window_extent() for part in (*figure.texts, *figure.legends)}
    return {**notes, **panels, **rest}


def within(inner: BboxBase, outer: BboxBase) -> bool:
    """Whether one box is in the other."""
    return inner.x0 >= outer.x0 and inner.x1 <= outer.x1 and inner.y0 >= outer.y0 and inner.y1 <= outer.y1


def overlapping(boxes: Sequence[BboxBase]) -> list[tuple[BboxBase, BboxBase]]:
    """The pairs of boxes that overlap."""
    return [(one, other) for one, other in combinations(boxes, 2) if one.overlaps(other)]
