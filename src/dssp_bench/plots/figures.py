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
HELD: dict[str, Any] = {"facecolor": "#f3c9a0", "edgecolor": "#a65a17", "hatch": "//////", "linewidth": 0.4}


class Span(NamedTuple):
    """From when to when, in seconds."""

    begin: Floats
    end: Floats


class Activity(NamedTuple):
    """When a worker computed and when the server held it."""

    computing: Span
    held: Span


def accuracy_over_time(curves: Mapping[str, Series], target: float | None = None, title: str = "") -> Figure:
    """Test accuracy over time, a line for each run; a target is drawn across."""
    figure, axes = style.figure(TIME, "test accuracy (%)", title or "Test accuracy")
    percent = {name: Series(curve.at_s, 100 * curve.value) for name, curve in curves.items()}
    if target is not None:
        axes.axhline(100 * target, color=style.GREY, linewidth=0.9, linestyle=(0, (1, 2)))
        where = (0.995, 100 * target)
        look: dict[str, Any] = {"color": style.GREY, "fontsize": 8, "ha": "right", "va": "top"}
        axes.text(*where, f"target {100 * target:g} %", transform=axes.get_yaxis_transform(), **look)
    few = all(len(curve.at_s) <= 40 for curve in curves.values())
    _draw_lines(axes, percent, marker="." if few else None)
    return figure


def throughput_over_time(curves: Mapping[str, Series], title: str = "") -> Figure:
    """Pushes handled per second in each window, a line for each run."""
    figure, axes = style.figure(TIME, "pushes per second", title or "Throughput")
    axes.set_ylim(0, 1.12 * max((np.nanmax(c.value) for c in curves.values() if len(c.value)), default=1.0))
    _draw_lines(axes, curves)
    return figure


def lead_over_time(leads: Mapping[str, Series], title: str = "") -> Figure:
    """How far each worker is ahead of the slowest one at its pushes; of many workers only the extremes are named."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = style.figure(TIME, "lead (iterations)", title or "Lead over the slowest worker")
    axes.set_ylim(0, 1.08 * max(1.0, *(np.nanmax(lead.value) for lead in leads.values())))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(leads) <= style.LINES:
        _draw_lines(axes, leads)
        return figure
    for lead in leads.values():
        axes.plot(lead.at_s, lead.value, color="0.75", linewidth=0.6)
    by_mean = sorted(leads, key=lambda name: float(np.nanmean(leads[name].value)))
    _draw_lines(axes, {name: leads[name] for name in (by_mean[-1], by_mean[0])})
    return figure


def staleness_histogram(counts: Mapping[str, Mapping[int, int]], title: str = "") -> Figure:
    """Which share of the applied gradients had which staleness, bars side by side for each run."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = style.figure("staleness (updates)", "applied gradients (%)", title or "Staleness")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    largest = max((max(count, default=0) for count in counts.values()), default=0)
    bin_width = largest // 60 + 1
    starts = np.arange(0, largest + 1, bin_width)
    for number, (name, count) in enumerate(counts.items()):
        total, share = max(1, sum(count.values())), np.zeros(len(starts))
        for staleness, times in count.items():
            share[staleness // bin_width] += 100 * times / total
        width = 0.84 * bin_width / len(counts)
        left = starts + (bin_width - 1) / 2 + (number - (len(counts) - 1) / 2) * width
        look = style.line(number)
        hatch = ("", "////", "....", "xxxx")[number % 4]
        axes.bar(left, share, width, label=name, color=look.color, hatch=hatch, edgecolor="white", linewidth=0.5)
    if bin_width > 1:
        axes.set_xlabel(f"staleness (updates, {bin_width} to a bar)")
    if len(counts) > 1:
        axes.legend(frameon=False)
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


def worker_timeline(activities: Mapping[str, Activity], window: tuple[float, float], title: str = "") -> Figure:
    """Who computed and who was held, within a window of time; what is blank was under way or idle."""
    from matplotlib.patches import Patch

    height = max(1.9, 1.1 + 0.36 * len(activities))
    figure, axes = style.figure(TIME, "", title or "What the workers did", height)
    axes.grid(visible=False, axis="y")
    dark = style.line(0).color
    for row, activity in enumerate(activities.values()):
        axes.broken_barh(_within(activity.held, window), (row - 0.3, 0.6), **HELD)
        axes.broken_barh(_within(activity.computing, window), (row - 0.3, 0.6), facecolor=dark, edgecolor="white")
    axes.set_yticks(range(len(activities)), list(activities))
    axes.set_ylim(len(activities) - 0.5, -0.5)
    axes.set_xlim(*window)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    patches = [
        Patch(facecolor=dark, label="computing"),
        Patch(label="held", **HELD),
    ]
    figure.legend(handles=patches, loc="outside upper right", ncols=2, frameon=False)
    return figure


def threshold_over_time(
    thresholds: Mapping[str, Series], grants: Mapping[str, Series], bounds: Sequence[int] = (), title: str = ""
) -> Figure:
    """The largest lead allowed to each worker, and DSSP's grants: a mark at the lead that the grant allows."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = style.figure(TIME, "largest lead allowed (iterations)", title or "Threshold")
    highest = max([1.0, *bounds, *(float(np.nanmax(s.value)) for s in (*thresholds.values(), *grants.values()))])
    axes.set_ylim(0, 1.12 * highest)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    for bound in bounds:
        axes.axhline(bound, color=style.GREY, linewidth=0.9, linestyle=(0, (1, 2)))
    together = _equal_and_constant_together(thresholds)
    _draw_lines(axes, together, drawstyle="steps-post")
    for number, name in enumerate(together):
        if name in grants:
            marks = grants[name]
            look = style.line(number).color
            axes.plot(marks.at_s, marks.value, "o", markersize=4, markerfacecolor="white", markeredgecolor=look)
    if any(len(marks.at_s) for marks in grants.values()):
        axes.plot([], [], "o", markersize=4, markerfacecolor="white", markeredgecolor="0.2", label="grant")
        figure.legend(loc="outside upper right", frameon=False)
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


def _draw_lines(axes: Axes, curves: Mapping[str, Series], **kwargs: Any) -> None:
    """All curves, each named at its end; a single one needs no name."""
    ends = []
    for number, (name, curve) in enumerate(curves.items()):
        known = np.isfinite(curve.value)
        if known.any():
            axes.plot(curve.at_s[known], curve.value[known], **style.line(number)._asdict(), **kwargs)
            ends.append((name, curve.at_s[known][-1], curve.value[known][-1], style.line(number).color))
    axes.set_xlim(left=0, right=max((x for _, x, _, _ in ends), default=1.0))
    if len(curves) > 1:
        style.label_ends(axes, ends)


def _within(span: Span, window: tuple[float, float]) -> list[tuple[float, float]]:
    """(begin, length) of the parts of a span that lie in the window."""
    begin, end = np.clip(span.begin, *window), np.clip(span.end, *window)
    return [(float(b), float(e - b)) for b, e in zip(begin, end, strict=True) if e > b]
