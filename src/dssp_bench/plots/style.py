"""How figures look: few colours that differ in grey too, labels at the lines, units on the axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 7.2, 4.0, 150
GREY = "0.45"


class Line(NamedTuple):
    """How one of several lines is told from the others, in colour or without."""

    color: str
    linestyle: Any
    linewidth: float


_LINES = (
    Line("#0b3c6f", "-", 1.8),
    Line("#d95f02", (0, (5, 1.5)), 1.8),
    Line("#1b9e77", (0, (1.5, 1)), 2.0),
    Line("#7a3b8f", (0, (6, 1.5, 1.5, 1.5)), 1.6),
    Line("#b8860b", "-", 1.2),
    Line("#555555", (0, (3, 1, 1, 1, 1, 1)), 1.6),
    Line("#e7298a", (0, (8, 2)), 1.2),
    Line("#66a3d9", "-", 2.4),
)
LINES = len(_LINES)


def line(number: int) -> Line:
    """The look of line number `number`; they repeat after `LINES`."""
    return _LINES[number % LINES]


def figure(xlabel: str, ylabel: str, title: str = "", height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes. Touches no global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    axes = made.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    return made, axes


def label_ends(axes: Axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Write (text, x, y, colour) to the right of each line's end, moved up or down where they would overlap."""
    left, right = axes.get_xlim()
    neighbours: list[list[tuple[str, float, float, str]]] = []
    for label in sorted(labels, key=lambda label: label[1]):
        if neighbours and label[1] - neighbours[-1][-1][1] < 0.15 * (right - left):
            neighbours[-1].append(label)
        else:
            neighbours.append([label])
    for group in neighbours:
        _label_apart(axes, group)


def _label_apart(axes: Axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    from matplotlib.patheffects import withStroke

    wanted = [float(axes.transData.transform((x, y))[1]) for _, x, y, _ in labels]
    height = 1.5 * 9 / 72 * DPI  # of a line of text, in pixels
    bottom, top = axes.transData.transform([(0, axes.get_ylim()[0]), (0, axes.get_ylim()[1])])[:, 1]
    places = _apart(wanted, height, float(bottom), float(top))
    for (text, x, y, color), place, wish in zip(labels, places, wanted, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(5, (place - wish) / DPI * 72),
            textcoords="offset points",
            color=color,
            fontsize=9,
            va="center",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            annotation_clip=False,
        )


def _apart(wanted: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Places near the wanted ones, in the same order, at least a gap apart and within the limits if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = list(wanted)
    below = bottom - gap
    for i in order:
        places[i] = below = max(places[i], below + gap)
    above = top + gap
    for i in reversed(order):
        places[i] = above = min(places[i], above - gap)
    return places


def save(made: Figure, path: Path) -> Path:
    """Write a figure; equal figures give equal files."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "dssp-bench", "svg.fonttype": "none"}):
        made.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
