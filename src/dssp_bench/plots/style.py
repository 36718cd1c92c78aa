"""How figures look: few colours that differ in grey too, one look for each paradigm, units on the axes."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 7.2, 4.0, 150
SMALL = 9
GREY, FAINT = "0.45", "0.78"
DOTS: Any = (0, (1, 2))
MARKS = 8  # to a line
ROW_LETTERS, LEGEND_LETTERS = 32, 95  # to a line of text
TEXT_LINE = 1.25 * SMALL / 72  # inches


class Line(NamedTuple):
    """How one of several lines is told from the others, in colour or without."""

    color: str
    linestyle: Any
    linewidth: float
    marker: str = ""
    fillstyle: str = "full"


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
_PARADIGMS = {
    "bsp": Line("#7a3b8f", (0, (6, 1.5, 1.5, 1.5)), 1.5, "s"),
    "asp": Line("#e08214", (0, (4, 1.5)), 1.5, "^"),
    "ssp": Line("#1b9e77", (0, (1.5, 1)), 1.7, "o"),
    "dssp": Line("#0b3c6f", "-", 1.7, "D"),
}
_OTHER_MARKERS = "vPX*<>"
_VARIANTS: tuple[tuple[str, Any], ...] = (("full", None), ("none", (0, (3, 1))), ("bottom", "-"), ("left", (0, (7, 2))))
VARIANTS = len(_VARIANTS)


def line(number: int) -> Line:
    """The look of line number `number`; they repeat after `LINES`."""
    return _LINES[number % LINES]


def looks(paradigms: Sequence[str]) -> list[Line]:
    """A look for each arm, of these paradigms: a paradigm has one colour and one mark, its arms differ in the rest."""
    others = [name for name in dict.fromkeys(paradigms) if name not in _PARADIGMS]
    bases = dict(_PARADIGMS)
    for number, name in enumerate(others):
        bases[name] = line(number + len(_PARADIGMS))._replace(marker=_OTHER_MARKERS[number % len(_OTHER_MARKERS)])
    seen: Counter[str] = Counter()
    made = []
    for name in paradigms:
        fill, dashes = _VARIANTS[seen[name] % VARIANTS]
        seen[name] += 1
        made.append(bases[name]._replace(fillstyle=fill, linestyle=dashes or bases[name].linestyle))
    return made


def figure(xlabel: str, ylabel: str, title: str = "", height: float = HEIGHT, note: str = "") -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes. Touches no global state of matplotlib."""
    made, [[axes]] = panels(1, 1, height)
    dress(axes, xlabel, ylabel, title, note)
    return made, axes


def panels(rows: int, columns: int, height: float = HEIGHT, **kwargs: Any) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure with rows of axes, which `dress` is to dress; `kwargs` are those of matplotlib's `subplots`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    made = Figure(figsize=(WIDTH, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07))
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False, **kwargs).tolist()


def dress(axes: Axes, xlabel: str, ylabel: str, title: str = "", note: str = "") -> None:
    """Labels, a light grid, and a title, wrapped at the figure's edge, with a smaller note below it."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left", fontsize=11, pad=20 if note else 7, wrap=True)
    if note:
        look: dict[str, Any] = {"textcoords": "offset points", "xycoords": "axes fraction", "va": "bottom"}
        axes.annotate(note, (0, 1), (0, 6), color=GREY, fontsize=SMALL - 0.5, **look).set_in_layout(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL)


def head(made: Figure, text: str) -> None:
    """Small words above all panels."""
    if text:
        made.suptitle(text, x=0.012, ha="left", color=GREY, fontsize=SMALL - 0.5)


def rows(axes: Axes, names: Sequence[str]) -> None:
    """Make the y axis a list of names, the first on top and long ones on several lines."""
    axes.set_yticks(range(len(names)), [wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def row_height(names: Sequence[str]) -> float:
    """What the longest name needs in `rows`, in inches."""
    return max(0.27, TEXT_LINE * max(map(_text_lines, map(wrapped, names)), default=0) + 0.04)


def wrapped(text: str, letters: int = ROW_LETTERS) -> str:
    """The text on several lines if it is longer than that; broken between words if they are shorter."""
    return textwrap.fill(text, letters, break_on_hyphens=False)


def _text_lines(text: str) -> int:
    return text.count("\n") + 1


def legend(made: Figure, handles: Sequence[Any] | None = None) -> None:
    """Name what is drawn below the axes, in as many columns as fit; by default all that has a label, each once.

    A legend of more than two lines makes the figure higher instead of the axes lower.
    """
    if handles is None:
        found: dict[str, Any] = {}
        for axes in made.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
        handles = list(found.values())
    if not handles:
        return
    labels = [wrapped(handle.get_label(), LEGEND_LETTERS) for handle in handles]
    lines = math.ceil(len(handles) / max(1, 105 // (max(map(len, labels)) + 9)))
    columns = math.ceil(len(handles) / lines)
    text_lines = lines if columns > 1 else sum(map(_text_lines, labels))
    made.set_figheight(made.get_figheight() + 1.3 * TEXT_LINE * max(0, text_lines - 2))
    look: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "handlelength": 3.4, "columnspacing": 1.6}
    made.legend(handles, labels, loc="outside lower center", ncols=columns, **look)


def label_ends(axes: Axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Write (text, x, y, colour) to the right of the lines' ends, moved up or down where they would overlap.

    Lines that end near each other have their names below each other, to the right of the last end. The limits of the
    axes must be set.
    """
    left, right = axes.get_xlim()
    neighbours: list[list[tuple[str, float, float, str]]] = []
    for label in sorted(labels, key=lambda label: label[1]):
        if neighbours and label[1] - neighbours[-1][-1][1] < 0.15 * (right - left):
            neighbours[-1].append(label)
        else:
            neighbours.append([label])
    for group in neighbours:
        last = group[-1][1]
        _label_apart(axes, [(text, last, y, color) for text, _, y, color in group])


def label_margin(axes: Axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Write (text, x, y, colour) beside the axes, with a thin line from the end of the line that it names."""
    arrow = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 1}
    _label_apart(axes, labels, where=(1.03, "axes fraction"), arrowprops=arrow)


def _label_apart(
    axes: Axes,
    labels: Sequence[tuple[str, float, float, str]],
    where: tuple[float, str] = (5, "offset points"),
    **kwargs: Any,
) -> None:
    from matplotlib.patheffects import withStroke

    low, high = axes.get_ylim()
    height = 1.45 * SMALL / 72 * (high - low) / (0.75 * HEIGHT)  # of a line of text, about
    places = _apart([y for _, _, y, _ in labels], height, low, high)
    for (text, x, y, color), place in zip(labels, places, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(where[0], place),
            textcoords=(where[1], "data"),
            color=color,
            fontsize=SMALL,
            va="center",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            annotation_clip=False,
            **kwargs,
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


def settle(made: Figure) -> Figure:
    """Find everything's place now instead of once for each file that is written."""
    engine = made.get_layout_engine()
    if engine is not None:
        engine.execute(made)
        made.set_layout_engine("none")
    return made


def save(made: Figure, path: Path) -> Path:
    """Write a figure that is settled; equal figures give equal files."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Figure.savefig would draw everything once more, to find places that are settled.
    with mpl.rc_context({"svg.hashsalt": "dssp-bench", "svg.fonttype": "none"}):
        if path.suffix == ".svg":
            FigureCanvasSVG(made).print_svg(path, metadata={"Date": None})
            made.dpi = DPI  # it is 72 now
        else:
            FigureCanvasAgg(made).print_png(path)
    return path
