"""The numbers that the paper published or drew, from the data files beside it; `README.md` describes them."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

EPOCHS = 300
EXAMPLES = 50_000
BATCH_SIZE = 128
PUSHES = EPOCHS * EXAMPLES / BATCH_SIZE
"""What every run of the paper made of pushes, all workers together."""

RIGHT_PANELS = {"fig3a": "fig3b", "fig3c": "fig3d", "fig3e": "fig3f"}
"""Where Fig. 3 draws the SSP runs of an experiment one by one."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PublishedRun:
    """One curve of Fig. 3a, 3c, 3e or 4 in a few numbers, read off the drawing.

    `threshold` is SSP's, or DSSP's lower one; None for BSP, ASP and the average over SSP's thresholds 3 to 15.
    """

    figure: str
    model: str
    dataset: str
    cluster: str
    workers: int
    paradigm: str
    threshold: int | None
    r_max: int | None
    end_s: float
    max_accuracy: float
    tail_accuracy: float
    rate_drop_s: float | None
    updates_per_iteration: float | None


@dataclass(frozen=True)
class Curve:
    """The test accuracy over time, thinned to about a point for two epochs; equally long, times grow strictly."""

    seconds: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class TableRow:
    """A row of Table I, as printed: seconds until each test accuracy was reached, None if it never was."""

    paradigm: str
    threshold: int | None
    r_max: int | None
    seconds_to: dict[float, float | None]


@cache
def published_runs(figure: str | None = None) -> tuple[PublishedRun, ...]:
    """The runs of one figure, or of all; none for the right-hand panels of Fig. 3, which only have curves."""
    return tuple(_run(row) for row in _rows("runs") if figure in (None, row["figure"]))


def published_curve(figure: str, paradigm: str, threshold: int | None = None) -> Curve:
    """One curve; `threshold` is needed for SSP and ignored otherwise. Raises LookupError if it was not drawn."""
    key = (figure, paradigm, threshold if paradigm == "ssp" else None)
    if key not in _curves():
        raise LookupError(f"the paper draws no curve of {paradigm} with threshold {threshold} in {figure}")
    return _curves()[key]


def published_thresholds(figure: str) -> tuple[int, ...]:
    """The thresholds of the SSP runs that a figure draws one by one."""
    return tuple(threshold for drawn, _, threshold in _curves() if drawn == figure and threshold is not None)


@cache
def table1() -> tuple[TableRow, ...]:
    """The rows of Table I in the order of the paper."""
    return tuple(
        TableRow(
            row["paradigm"],
            _whole(row["threshold"]),
            _whole(row["r_max"]),
            {float(name.removeprefix("seconds_to_")): _number(row[name]) for name in row if "seconds_to_" in name},
        )
        for row in _rows("table1")
    )


def _run(row: dict[str, str]) -> PublishedRun:
    averaged = row["paradigm"] == "ssp_average"
    return PublishedRun(
        figure=row["figure"],
        model=row["model"],
        dataset=row["dataset"],
        cluster=row["cluster"],
        workers=int(row["workers"]),
        paradigm=row["paradigm"],
        threshold=None if averaged else _whole(row["threshold"]),
        r_max=_whole(row["r_max"]),
        end_s=float(row["end_seconds"]),
        max_accuracy=float(row["max_accuracy"]),
        tail_accuracy=float(row["tail_accuracy"]),
        rate_drop_s=_number(row["lr_drop_seconds"]),
        updates_per_iteration=_number(row["updates_per_worker_iteration"]),
    )


@cache
def _curves() -> dict[tuple[str, str, int | None], Curve]:
    points: dict[tuple[str, str, int | None], list[tuple[float, float]]] = {}
    for row in _rows("curves"):
        key = (row["figure"], row["paradigm"], _whole(row["threshold"]))
        points.setdefault(key, []).append((float(row["seconds"]), float(row["test_accuracy"])))
    return {key: Curve(*zip(*of_curve, strict=True)) for key, of_curve in points.items()}


def _rows(name: str) -> list[dict[str, str]]:
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _number(text: str) -> float | None:
    return float(text) if text else None


def _whole(text: str) -> int | None:
    return int(text) if text else None
