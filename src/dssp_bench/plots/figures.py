"""One function for each kind of figure: numbers in, a matplotlib Figure out. Times are the engine's seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dssp_bench.analysis.series import Series
from dssp_bench.analysis.waiting import Floats
from dssp_bench.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIME = "time (s)"
MOST_BARS = 32
MOST_DOTS = 60  # to a line
HELD: dict[str, Any] = {"facecolor": "#f3c9a0", "edgecolor": "#a65a17", "hatch": "//////", "linewidth": 0.4}
COMPUTING: dict[str, Any] = {"facecolor": "#0b3c6f", "edgecolor": "white", "linewidth": 0.7}


class Span(NamedTuple):
    """From when to when, in seconds."""

    begin: Floats
    end: Floats


class Activity(NamedTuple):
    """When a worker computed and when the server held it."""

    computing: Span
    held: Span


def accuracy_over_time(accuracy: Series, xlabel: str = TIME) -> Figure:
    """Test accuracy over time."""
    figure, axes = style.figure(xlabel, "test accuracy (%)", "Test accuracy")
    _draw_lines(axes, {"accuracy": Series(accuracy.at_s, 100 * accuracy.value)})
    axes.set_ylim(bottom=0)
    return figure


def throughput_over_time(throughput: Series, xlabel: str = TIME, ylabel: str = "pushes per second") -> Figure:
    """Pushes handled per second in each window."""
    figure, axes = style.figure(xlabel, ylabel, "Throughput")
    _draw_lines(axes, {"throughput": throughput})
    axes.set_ylim(0, 1.08 * np.nanmax(throughput.value, initial=0) or 1.0)
    return figure


def lead_over_time(leads: Mapping[str, Series], title: str = "", xlabel: str = TIME) -> Figure:
    """How far each worker is ahead of the slowest one at its pushes; of many workers only the extremes are named."""
    figure, axes = style.figure(xlabel, "lead (iterations)", title or "Lead over the slowest worker")
    _draw_iterations(axes, leads, [float(np.nanmax(lead.value)) for lead in leads.values()])
    return figure


def staleness_histogram(counts: Mapping[int, int], title: str = "") -> Figure:
    """Which share of the applied gradients had which staleness."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = style.figure("staleness (updates)", "applied gradients (%)", title or "Staleness")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    largest = max(counts, default=0)
    bin_width = largest // 60 + 1
    share = np.zeros(largest // bin_width + 1)
    for staleness, times in counts.items():
        share[staleness // bin_width] += 100 * times / sum(counts.values())
    middle = np.arange(len(share)) * bin_width + (bin_width - 1) / 2
    axes.bar(middle, share, 0.84 * bin_width, color=style.line(0).color, edgecolor="white", linewidth=0.5)
    if bin_width > 1:
        axes.set_xlabel(f"staleness (updates, {bin_width} to a bar)")
    return figure


def waiting_bars(shares: Mapping[str, float], title: str = "") -> Figure:
    """Which share of its time the server held each worker; of very many workers, evenly chosen ones by rank."""
    names = list(shares)
    if len(names) > MOST_BARS:
        ranked = sorted(names, key=lambda name: -shares[name])
        names = [ranked[i] for i in np.linspace(0, len(ranked) - 1, MOST_BARS).astype(int)]
        title = title or f"Waiting: {MOST_BARS} of {len(shares)} workers, by rank"
    height = max(1.6, 0.9 + 0.27 * len(names))
    figure, axes = style.figure("held by the server (% of the worker's time)", "", title or "Waiting", height)
    axes.grid(visible=False, axis="y")
    percent = [100 * shares[name] for name in names]
    bars = axes.barh(names, percent, height=0.62, color=style.line(0).color)
    axes.bar_label(bars, [f"{value:.1f}" for value in percent], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, 1.1 * max(percent, default=1.0)))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def worker_timeline(
    activities: Mapping[str, Activity], window: tuple[float, float], title: str = "", xlabel: str = TIME
) -> Figure:
    """Who computed and who was held, within a window of time; what is blank was under way or idle."""
    height = max(1.8, 1.1 + 0.3 * len(activities))
    figure, axes = style.figure(xlabel, "", title or "What the workers did", height)
    draw_timeline(axes, activities, window)
    style.legend(figure, timeline_handles())
    return figure


def draw_timeline(axes: Axes, activities: Mapping[str, Activity], window: tuple[float, float]) -> None:
    """The rows of `worker_timeline`, into axes."""
    style.rows(axes, list(activities))
    axes.grid(visible=False)
    for row, activity in enumerate(activities.values()):
        axes.broken_barh(_within(activity.held, window), (row - 0.32, 0.64), **HELD)
        bars = _within(activity.computing, window)
        wide = bars and np.median([length for _, length in bars]) > 0.005 * (window[1] - window[0])
        look = COMPUTING if wide else {**COMPUTING, "edgecolor": COMPUTING["facecolor"]}  # white edges would be all
        axes.broken_barh(bars, (row - 0.32, 0.64), **look)
    axes.set_xlim(*window)


def timeline_handles() -> list[Any]:
    """What the legend of a timeline explains."""
    from matplotlib.patches import Patch

    return [Patch(label="computing", **COMPUTING), Patch(label="held", **HELD)]


def threshold_over_time(
    thresholds: Mapping[str, Series], grants: Mapping[str, Series], title: str = "", xlabel: str = TIME
) -> Figure:
    """The largest lead allowed to each worker, and DSSP's grants: a mark at the lead that the grant allows."""
    figure, axes = style.figure(xlabel, "largest lead allowed (iterations)", title or "Threshold")
    highest = [float(np.nanmax(curve.value)) for curve in (*thresholds.values(), *grants.values())]
    first = min(float(curve.at_s[0]) for curve in thresholds.values())
    last = max(float(curve.at_s[-1]) for curve in thresholds.values())
    begin = first if 0.1 * last < first < last else 0.0
    together = _equal_and_constant_together(thresholds)
    colors = _draw_iterations(axes, together, highest, begin, drawstyle="steps-post")
    mark: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 4, "markerfacecolor": "white"}
    for name, marks in grants.items():
        axes.plot(*marks, **mark, markeredgecolor=colors.get(name, style.GREY))
    if grants:
        axes.plot([], [], **mark, markeredgecolor="0.2", label="grant")
        style.legend(figure)
    return figure


def _equal_and_constant_together(curves: Mapping[str, Series]) -> dict[str, Series]:
    """The curves, those of the same one value as a single curve named after how many they are."""
    changing = {name: curve for name, curve in curves.items() if len(set(curve.value.tolist())) > 1}
    constant: dict[float, list[str]] = {}
    for name, curve in curves.items():
        if name not in changing:
            constant.setdefault(curve.value[0], []).append(name)
    for value, names in constant.items():
        longest = max((curves[name] for name in names), key=lambda curve: curve.at_s[-1])
        name = names[0] if len(names) == 1 else f"{'the other ' if changing else 'all '}{len(names)}"
        changing[name] = Series(longest.at_s, np.full(len(longest.at_s), value))
    return changing


def _draw_iterations(
    axes: Axes, curves: Mapping[str, Series], highest: Sequence[float], begin: float = 0.0, **kwargs: Any
) -> dict[str, str]:
    """Numbers of iterations; of many curves only the highest and the lowest are named. Returns their colours."""
    from matplotlib.collections import LineCollection
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(0, 1.1 * max(1.0, *highest))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(curves) <= style.LINES:
        return _draw_lines(axes, curves, begin, **kwargs)
    steps = kwargs.get("drawstyle") == "steps-post"
    points = [np.column_stack(_stairs(curve) if steps else curve) for curve in curves.values()]
    axes.add_collection(LineCollection(points, colors=style.FAINT, linewidths=0.6))
    by_mean = sorted(curves, key=lambda name: float(np.nanmean(curves[name].value)))
    return _draw_lines(axes, {name: curves[name] for name in (by_mean[-1], by_mean[0])}, begin, **kwargs)


def _draw_lines(axes: Axes, curves: Mapping[str, Series], begin: float = 0.0, **kwargs: Any) -> dict[str, str]:
    """All curves, named at their ends, with dots where points are few; a single one needs no name. Returns colours."""
    ends = []
    few = all(len(curve.at_s) <= MOST_DOTS for curve in curves.values()) and "drawstyle" not in kwargs
    for number, (name, curve) in enumerate(curves.items()):
        known = np.isfinite(curve.value)
        if known.any():
            look = style.line(number)._replace(marker="." if few else "")
            axes.plot(curve.at_s[known], curve.value[known], **look._asdict(), **kwargs)
            ends.append((name, curve.at_s[known][-1], curve.value[known][-1], look.color))
    last = max((x for _, x, _, _ in ends), default=1.0)
    axes.set_xlim(begin, last + 0.01 * (last - begin))
    if len(curves) > 1:
        style.label_ends(axes, ends)
    return {name: color for name, _, _, color in ends}


def _stairs(curve: Series) -> Series:
    """The curve with the corners of its steps."""
    return Series(np.repeat(curve.at_s, 2)[1:], np.repeat(curve.value, 2)[:-1])


def _within(span: Span, window: tuple[float, float]) -> list[tuple[float, float]]:
    """(begin, length) of the parts of a span that lie in the window."""
    begin, end = np.clip(span.begin, *window), np.clip(span.end, *window)
    return [(float(b), float(e - b)) for b, e in zip(begin, end, strict=True) if e > b]
