"""One function for each kind of figure that compares arms: numbers in, a matplotlib Figure out. Shares are 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dssp_bench.analysis import series
from dssp_bench.analysis.series import Band, Series
from dssp_bench.plots import style
from dssp_bench.plots.figures import Activity, draw_timeline, timeline_handles
from dssp_bench.plots.style import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY = "test accuracy (%)"
LONG_NAME = 12  # letters
PUBLISHED = "0.55"


class Curve(NamedTuple):
    """A line with its name and look; the band of its seeds; and the lines of which it is the mean, if it is one.

    Without a line of its own, only the `members` are drawn.
    """

    label: str
    look: Line
    line: Series | None
    band: Band | None = None
    members: tuple[Series, ...] = ()


class Seeds(NamedTuple):
    """An arm with a number for each of its seeds; None is a seed without one."""

    label: str
    color: str
    values: Sequence[float | None]

    @property
    def known(self) -> list[float]:
        """The numbers that there are."""
        return [value for value in self.values if value is not None]


class Distribution(NamedTuple):
    """An arm with how often each whole number occurs in its runs."""

    label: str
    color: str
    counts: Mapping[int, int]


class Panel(NamedTuple):
    """One panel of accuracies."""

    title: str
    xlabel: str
    curves: Sequence[Curve]
    targets: Sequence[float] = ()


def accuracies(
    xlabel: str,
    curves: Sequence[Curve],
    targets: Sequence[float] = (),
    published: Mapping[str, Series] | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Test accuracy over something, a line for each arm; targets dotted, published curves thin, grey and named."""
    figure, axes = style.figure(xlabel, ACCURACY, title or "Test accuracy", 4.6, note)
    known = {name: Series(one.at_s, 100 * one.value) for name, one in (published or {}).items() if len(one.at_s)}
    _draw_accuracies(axes, curves, targets)
    for number, one in enumerate(known.values()):
        label = "_" if number else "published"  # matplotlib leaves a label with an underscore out of the legend
        axes.plot(*one, color=PUBLISHED, linewidth=0.8, zorder=1.8, label=label)
    _limit([axes], curves, targets)
    style.label_margin(axes, [(name, one.at_s[-1], one.value[-1], style.GREY) for name, one in known.items()])
    style.legend(figure)
    return figure


def side_by_side(panels: Sequence[Panel], share: bool = True, note: str = "") -> Figure:
    """Test accuracy in panels beside each other, on the same axes with `share`, and with one legend."""
    figure, [row] = style.panels(1, len(panels), 4.2, sharex=share, sharey=share)
    style.head(figure, note)
    for number, (axes, panel) in enumerate(zip(row, panels, strict=True)):
        style.dress(axes, panel.xlabel, "" if share and number else ACCURACY, panel.title)
        _draw_accuracies(axes, panel.curves, panel.targets)
        if not share:
            _limit([axes], panel.curves, panel.targets)
    if share:
        _limit(row, [curve for panel in panels for curve in panel.curves], panels[0].targets)
    style.legend(figure)
    return figure


def learning_rates(xlabel: str, curves: Sequence[Curve], title: str = "", note: str = "") -> Figure:
    """The learning rate over time on a logarithmic axis, a line for each arm, equal ones a little apart."""
    from matplotlib.transforms import ScaledTranslation

    figure, axes = style.figure(xlabel, "learning rate (log scale)", title or "Learning rate", note=note)
    axes.set_yscale("log")
    for number, curve in enumerate(curves):
        points = 2.2 * ((len(curves) - 1) / 2 - number)
        apart = axes.transData + ScaledTranslation(0, points / 72, figure.dpi_scale_trans)
        _draw(axes, curve, number, drawstyle="steps-post", transform=apart)
    rates = [line.value for curve in curves for line in (*curve.members, curve.line) if line is not None]
    ends = [line.at_s[-1] for curve in curves for line in (*curve.members, curve.line) if line is not None]
    axes.set_ylim(0.6 * min(map(np.min, rates)), 1.7 * max(map(np.max, rates)))
    axes.set_xlim(0, 1.02 * max(ends))
    style.legend(figure)
    return figure


def bars(xlabel: str, arms: Sequence[Seeds], title: str = "", note: str = "") -> Figure:
    """The median of each arm as a bar, with whiskers from the lowest to the highest of its seeds."""
    names = [arm.label for arm in arms]
    figure, axes = style.figure(xlabel, "", title, _height(names), note)
    style.rows(axes, names)
    medians = [float(np.median(arm.known)) for arm in arms]
    axes.barh(range(len(arms)), medians, height=0.62, color=[arm.color for arm in arms], edgecolor="0.2", linewidth=0.5)
    largest = max(max(arm.known) for arm in arms)
    for number, (arm, median) in enumerate(zip(arms, medians, strict=True)):
        low, high = min(arm.known), max(arm.known)
        if high > low:
            look: dict[str, Any] = {"color": "black", "capsize": 2.5, "elinewidth": 1.0, "capthick": 1.0}
            axes.errorbar(median, number, xerr=[[median - low], [high - median]], **look)
        axes.annotate(
            _short(median), (high, number), (5, 0), textcoords="offset points", va="center", fontsize=style.SMALL
        )
    axes.set_xlim(0, 1.1 * largest or 1.0)
    return figure


def distributions(xlabel: str, arms: Sequence[Distribution], title: str = "", note: str = "") -> Figure:
    """Where the whole numbers of each arm lie: all, the middle half, the median and the 99th percentile."""
    names = [arm.label for arm in arms]
    figure, axes = style.figure(xlabel, "", title, _height(names) + 0.3, note)
    style.rows(axes, names)
    highest = []
    for number, arm in enumerate(arms):
        low, quarter, median, three_quarters, most, high = series.quantiles(arm.counts, (0, 0.25, 0.5, 0.75, 0.99, 1))
        axes.plot([low, high], [number, number], color="0.35", linewidth=1.0, solid_capstyle="butt", zorder=2)
        width = three_quarters - quarter
        axes.barh(number, width, left=quarter, height=0.5, color=arm.color, edgecolor="0.2", linewidth=0.5, zorder=3)
        axes.plot(median, number, **_MEDIAN)
        axes.plot(most, number, **_PERCENTILE)
        axes.annotate(
            f"{high:,}", (high, number), (7, 0), textcoords="offset points", va="center", fontsize=style.SMALL - 1
        )
        highest.append(high)
    _scale(axes, highest, xlabel)
    style.legend(figure, _distribution_handles())
    return figure


def waiting(shares: Mapping[str, Sequence[float]], columns: Sequence[str], title: str = "", note: str = "") -> Figure:
    """A table of shares in percent, a row for each arm, the darker the larger; nan leaves a cell empty."""
    figure, axes = style.figure("", "", title or "Waiting", _height(list(shares)) + 0.2, note)
    percent = 100 * np.array(list(shares.values()), float)
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(percent):
        if np.isfinite(value):
            color = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=style.SMALL)
    style.rows(axes, list(shares))
    axes.grid(visible=False)
    crowded = sum(map(len, columns)) > 60
    axes.set_xticks(range(len(columns)), columns, rotation=20 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(shares) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return figure


def times_to(targets: Mapping[float, Sequence[Seeds]], xlabel: str, note: str = "") -> Figure:
    """When each seed of each arm reached a target, a panel for each target; None is a seed that never did."""
    names = [arm.label for arm in max(targets.values(), key=len)]
    lines = math.ceil(len(targets) / (2 if max(map(len, names)) > LONG_NAME else 3))
    columns = math.ceil(len(targets) / lines)
    figure, grid = style.panels(lines, columns, lines * (_height(names) + 0.1) + 0.3, sharey=True)
    style.head(figure, note)
    cells = [axes for row in grid for axes in row]
    for number, (target, arms) in enumerate(targets.items()):
        title = f"Time to {100 * target:g} % test accuracy" if columns == 1 else f"to {100 * target:g} % accuracy"
        style.dress(cells[number], xlabel, "", title)
        _draw_times(cells[number], arms, named=number % columns == 0, intervals=6 // columns + 1)
    for axes in cells[len(targets) :]:
        axes.set_visible(False)
    style.legend(figure, _times_handles())
    return figure


def timelines(panels: Mapping[str, Mapping[str, Activity]], window: tuple[float, float], xlabel: str) -> Figure:
    """Who computed and who was held, a panel for each arm on one axis of time."""
    lengths = [len(workers) for workers in panels.values()]
    height = 0.9 + sum(0.34 + 0.24 * length for length in lengths)
    figure, grid = style.panels(len(panels), 1, height, sharex=True, height_ratios=[n + 0.6 for n in lengths])
    style.head(figure, "blank: on the way, or in the server's queue")
    for [axes], (label, workers) in zip(grid, panels.items(), strict=True):
        style.dress(axes, "", "")
        axes.set_title(label, loc="left", fontsize=style.SMALL + 1, pad=3, wrap=True)
        draw_timeline(axes, workers, window)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)
    grid[-1][0].spines["bottom"].set_visible(True)
    grid[-1][0].tick_params(axis="x", length=3.5)
    grid[-1][0].set_xlabel(xlabel)
    style.legend(figure, timeline_handles())
    return figure


_MEDIAN: dict[str, Any] = {
    "marker": "o", "markersize": 5, "markerfacecolor": "white", "markeredgecolor": "black",
    "linestyle": "", "zorder": 5,
}  # fmt: skip
_PERCENTILE: dict[str, Any] = {
    "marker": "|", "markersize": 9, "markeredgewidth": 1.6, "markeredgecolor": "black", "linestyle": "", "zorder": 4,
}  # fmt: skip
_SEED: dict[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.5, "linestyle": ""}
_MIDDLE: dict[str, Any] = {"marker": "|", "markersize": 14, "markeredgewidth": 1.6, "color": "black", "linestyle": ""}
_NEVER: dict[str, Any] = {"marker": ">", "markersize": 6, "fillstyle": "none", "linestyle": "", "clip_on": False}


def _draw_accuracies(axes: Axes, curves: Sequence[Curve], targets: Sequence[float]) -> None:
    for number, curve in enumerate(curves):
        _draw(axes, curve, number, scale=100)
    text = "target " + ", ".join(f"{100 * target:g} %" for target in targets)
    for number, target in enumerate(targets):
        label = "_" if number else text
        axes.axhline(100 * target, color="0.25", linewidth=1.0, linestyle=style.DOTS, zorder=1.7, label=label)


def _draw(axes: Axes, curve: Curve, number: int, scale: float = 1, **kwargs: Any) -> None:
    for i, member in enumerate(curve.members):
        label = "_" if i else f"{curve.label}, each"
        axes.plot(
            member.at_s, scale * member.value, color=style.FAINT, linewidth=0.8, zorder=1.6, label=label, **kwargs
        )
    if curve.line is None:
        return
    if curve.band is not None:
        low, high = scale * curve.band.low, scale * curve.band.high
        axes.fill_between(curve.band.at_s, low, high, color=curve.look.color, alpha=0.15, linewidth=0)
    points = len(curve.line.at_s)
    step = max(1, points // style.MARKS)
    label = f"{curve.label}, mean" if curve.members else curve.label
    marks: dict[str, Any] = {
        "markersize": 4.5,
        "markevery": (number * step // 5 % step, step),
        "markerfacecoloralt": "white",
    }
    axes.plot(curve.line.at_s, scale * curve.line.value, label=label, **curve.look._asdict(), **marks, **kwargs)


def _limit(row: Sequence[Axes], curves: Sequence[Curve], targets: Sequence[float]) -> None:
    """From where the curves are after a tenth of their time, so that their ends can be told apart."""
    lines = [line for curve in curves for line in (*curve.members, curve.line) if line is not None]
    later = [line.value[line.at_s >= 0.1 * line.at_s[-1]] for line in lines]
    floor = 100 * min([*(float(value.min()) for value in later), *targets], default=0.0)
    top = max(*(axes.dataLim.ymax for axes in row), 100 * max(targets, default=0))
    bottom = 5 * np.floor((floor - 1) / 5)
    for axes in row:
        axes.set_ylim(bottom if bottom >= 20 else 0, top + 0.04 * (top - bottom))
        axes.set_xlim(left=0)


def _draw_times(axes: Axes, arms: Sequence[Seeds], named: bool, intervals: int) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    style.rows(axes, [arm.label for arm in arms])
    axes.tick_params(axis="y", labelleft=named)
    times = [value for arm in arms for value in arm.known]
    edge = 1.12 * max(times, default=1.0)
    axes.set_xlim(0, edge)
    if times:
        axes.xaxis.set_major_locator(MaxNLocator(intervals))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.set_xticks([])
        axes.set_xlabel("reached by none")
    for number, arm in enumerate(arms):
        axes.axhline(number, color="0.93", linewidth=0.8, zorder=0)
        reached = arm.known
        axes.plot(reached, [number] * len(reached), color=arm.color, **_SEED)
        median = _median(arm.values)
        if len(arm.values) > 1 and np.isfinite(median):
            axes.plot(median, number, **_MIDDLE)
        missing = len(arm.values) - len(reached)
        if missing:
            axes.plot(edge, number, color=arm.color, **_NEVER)
            look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": style.GREY}
            axes.annotate(f"{missing} of {len(arm.values)}", (edge, number), (6, 0), fontsize=style.SMALL - 1, **look)


def _median(values: Sequence[float | None]) -> float:
    """The median, where None, which is never, is later than all; infinite if that is in the middle."""
    return float(np.median([np.inf if value is None else value for value in values]))


def _times_handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color="0.25", label="a seed", **_SEED),
        Line2D([], [], label="median", **{**_MIDDLE, "markersize": 10}),
        Line2D([], [], color="0.25", label="not reached", **_NEVER),
    ]


def _distribution_handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Line2D([], [], color="0.35", linewidth=1.0, label="lowest to highest"),
        Patch(facecolor="0.6", edgecolor="0.2", linewidth=0.5, label="middle half"),
        Line2D([], [], label="median", **_MEDIAN),
        Line2D([], [], label="99th percentile", **_PERCENTILE),
    ]


def _scale(axes: Axes, highest: Sequence[int], xlabel: str) -> None:
    """Whole numbers from 0; logarithmic above 1 where one arm reaches much further than others."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    top = max(1, *highest)
    if top > 40 * max(1, min(highest)):
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.set_xlabel(f"{xlabel}, log scale")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlim(-0.1, 2 * top)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(-0.02 * top, 1.08 * top)


def _height(names: Sequence[str]) -> float:
    return max(1.7, 1.15 + style.row_height(names) * len(names))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
