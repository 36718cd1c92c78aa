"""Arms beside each other in numbers: a row for each, medians over its runs with the lowest and the highest."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dssp_bench.analysis.arms import Arm, Condition, seed_of
from dssp_bench.analysis.convergence import throughput, time_to, updates_per_iteration
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.records.reader import RunRecords

Part = Literal["result", "targets", "throughput", "waiting"]

PARTS: dict[Part, str] = {
    "result": "Result",
    "targets": "Time to an accuracy",
    "throughput": "Throughput and updates",
    "waiting": "Waiting, lead and staleness",
}
TARGET_SHARES = (0.95, 0.99)
"""Which shares of the accuracy that arms have in common are the targets, if none are given."""

_NEVER = math.inf


@dataclass(frozen=True)
class Measure:
    """A column: its key in files, its heading for people, and how a run's number is found and shown.

    `of` gives None for a run without such a number, and infinity for a time that never came. A speed-up is of no single
    run: `speedup_of` is the key of the time that it compares. Numbers have so many `decimals`; None leaves it to them.
    """

    key: str
    heading: str
    part: Part
    of: Callable[[RunRecords], float | None] = lambda run: None
    decimals: int | None = None
    percent: bool = False
    speedup_of: str = ""


class Spread(NamedTuple):
    """The numbers of an arm's runs: median, lowest and highest, and how many of how many runs came to one.

    A time that never came is later than all others, so the median is None unless it came in most runs.
    """

    median: float | None
    low: float | None
    high: float | None
    reached: int
    runs: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread":
        """The spread of these numbers, None where there is none."""
        known = [value for value in values if value is not None and not math.isnan(value)]
        finite = [value for value in known if value < _NEVER]
        if not finite:
            return cls(None, None, None, 0, len(known))
        median = float(np.median(known))
        return cls(median if median < _NEVER else None, min(finite), max(finite), len(finite), len(known))

    @property
    def numbers(self) -> list[float]:
        """Those of the three that there are."""
        return [number for number in self[:3] if number is not None]

    def rounded(self, decimals: int) -> "Spread":
        """The same with fewer decimals."""
        median, low, high = (None if number is None else round(number, decimals) for number in self[:3])
        return Spread(median, low, high, self.reached, self.runs)


@dataclass(frozen=True)
class Row:
    """An arm in numbers, by the keys of the measures; its speed-ups are against the arm with the label `baseline`."""

    arm: Arm
    baseline: str
    cells: Mapping[str, Spread]

    @property
    def seeds(self) -> int:
        """How many different seeds its runs have."""
        return len({seed_of(run) for run in self.arm.runs})


class Cell(NamedTuple):
    """What a table shows: a number, and what there is to say of its spread; both may be empty."""

    number: str
    spread: str = ""


class Table(NamedTuple):
    """A part of a comparison as text; each row begins with an arm's label."""

    title: str
    headings: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Comparison:
    """Arms beside each other. Numbers are rounded once, and so equal in the frame, the tables and the text.

    `targets` are accuracies, 0 to 1. `warnings` say what must be known before the numbers are believed, `notes` how
    they are to be read.
    """

    rows: tuple[Row, ...]
    targets: tuple[float, ...]
    measures: tuple[Measure, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def frame(self) -> pd.DataFrame:
        """A row for each arm: who it is, and for each measure the median, `<key>_low` and `<key>_high`.

        Accuracies and shares are 0 to 1, times the engine's seconds. `<key>_reached` says how many runs came to a
        target.
        """
        return pd.DataFrame([self._record(row) for row in self.rows])

    def tables(self) -> list[Table]:
        """The same as text, in a table for each part that has numbers."""
        return [table for part in PARTS if (table := self._table(part))]

    def markdown(self) -> str:
        """The tables with their warnings and notes; spreads stand in brackets."""
        blocks = [f"**Warning:** {warning}." for warning in self.warnings]
        for table in self.tables():
            rows = [[_in_brackets(cell) for cell in row] for row in table.rows]
            lines = [table.headings, [":--", *["--:"] * (len(table.headings) - 1)], *rows]
            blocks += [f"**{table.title}**", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        return "\n\n".join([*blocks, *(f"{note}." for note in self.notes)]) + "\n"

    def _table(self, part: Part) -> Table | None:
        measures = [measure for measure in self.measures if measure.part == part]
        if not measures:
            return None
        headings = ["arm", *(measure.heading for measure in measures)]
        rows = [[Cell(row.arm.label), *(_cell(each, row.cells[each.key]) for each in measures)] for row in self.rows]
        if part == "result":
            headings.insert(1, "runs")
            for cells, row in zip(rows, self.rows, strict=True):
                cells.insert(1, Cell(_runs_in_words(row)))
        return Table(PARTS[part], headings, rows)

    def _record(self, row: Row) -> dict[str, Any]:
        record: dict[str, Any] = {
            "arm": row.arm.label,
            "paradigm": row.arm.paradigm,
            "engine": _said("engine", row.arm.runs[0]),
            "learning_rate_clock": row.arm.clock,
            "runs": len(row.arm.runs),
            "seeds": row.seeds,
            "baseline": row.baseline,
        }
        for measure in self.measures:
            spread = row.cells[measure.key]
            record[measure.key] = spread.median
            if not measure.speedup_of:
                record |= {f"{measure.key}_low": spread.low, f"{measure.key}_high": spread.high}
                record |= {f"{measure.key}_reached": spread.reached} if measure.part == "targets" else {}
        return record


def compare(arms: Sequence[Arm], targets: Sequence[float] = (), baseline: str | None = None) -> Comparison:
    """Put arms beside each other. Raises ConfigurationError if no arm is the baseline, RecordsError.

    `targets` are accuracies, 0 to 1, whose times are compared; without any they are `default_targets`. A speed-up is
    the baseline's time over the arm's, so 2 is twice as fast. The baseline is the arm whose label begins so, or for
    which this `KEY=VALUE` holds; by default `paradigm=bsp`, or the first arm. Of several, each arm is compared with the
    one that differs from it in the fewest settings besides the paradigm's, such as the clock of the learning rate.
    """
    targets = tuple(dict.fromkeys(targets)) or default_targets(arms)
    measures = [measure for measure in _measures(targets) if len(arms) > 1 or not measure.speedup_of]
    spreads = [{each.key: Spread.of([each.of(run) for run in arm.runs]) for each in measures} for arm in arms]
    baselines = _baselines(arms, baseline)
    for measure in filter(lambda measure: measure.speedup_of, measures):
        for own, base in zip(spreads, baselines, strict=True):
            own[measure.key] = _speedup(own[measure.speedup_of], spreads[base][measure.speedup_of])
    known = [
        _with_decimals(measure, [number for own in spreads for number in own[measure.key].numbers])
        for measure in measures
        if any(own[measure.key].runs for own in spreads)
    ]
    rows = [
        Row(arm, arms[base].label, {each.key: own[each.key].rounded(each.decimals or 0) for each in known})
        for arm, base, own in zip(arms, baselines, spreads, strict=True)
    ]
    return Comparison(tuple(rows), targets, tuple(known), tuple(_warnings(arms)), tuple(_notes(rows, known)))


def default_targets(arms: Sequence[Arm]) -> tuple[float, ...]:
    """Accuracies that most runs of most arms reach, some sooner than others; none without accuracies.

    They are `TARGET_SHARES` of the lowest of the arms' median best accuracies, rounded down to two digits. Arms that
    got less than half as far as the best one do not count, since one that diverged would make the targets trivial.
    """
    bests = [Spread.of([_said("best_accuracy", run) for run in arm.runs]).median or 0.0 for arm in arms]
    common = min((best for best in bests if best >= 0.5 * max(bests)), default=0.0)
    return tuple(dict.fromkeys(_two_digits(share * common) for share in TARGET_SHARES)) if common > 0 else ()


def _two_digits(number: float) -> float:
    """Rounded down, as 0.067 for 0.0679."""
    step = 10.0 ** (math.floor(math.log10(number)) - 1)
    return float(f"{math.floor(number / step + 1e-9) * step:.12g}")


# --- measures ---


def _measures(targets: Sequence[float]) -> list[Measure]:
    return [
        _of_summary("final_accuracy", "final accuracy", "result", 4),
        _of_summary("best_accuracy", "best accuracy", "result", 4),
        *(measure for target in targets for measure in _time_to(target)),
        _of_summary("duration_s", "total time (s)", "result"),
        Measure("speedup", "speed-up", "result", decimals=2, speedup_of="duration_s"),
        _of_summary("pushes_per_s", "pushes/s", "throughput"),
        Measure("throughput", "pushes/s while all are there", "throughput", lambda run: throughput(run.pushes)),
        _of_summary("samples_per_s", "samples/s", "throughput"),
        _of_summary("updates", "updates", "throughput", 0),
        Measure(
            "updates_per_iteration",
            "updates per iteration of the slowest",
            "throughput",
            lambda run: updates_per_iteration(run.pushes, run.updates),
            2,
        ),
        Measure("waiting_mean", "mean waiting", "waiting", lambda run: _waiting(run, np.mean), 3, percent=True),
        Measure("waiting_most", "largest waiting", "waiting", lambda run: _waiting(run, np.max), 3, percent=True),
        _of_summary("max_lead", "largest lead", "waiting", 0),
        _of_summary("mean_staleness", "mean staleness", "waiting", 2),
        _of_summary("p99_staleness", "p99 staleness", "waiting", 0),
    ]


def _of_summary(key: str, heading: str, part: Part, decimals: int | None = None) -> Measure:
    return Measure(key, heading, part, lambda run: _said(key, run), decimals)


def _time_to(target: float) -> tuple[Measure, Measure]:
    def moment(run: RunRecords) -> float | None:
        if run.evaluations.empty:
            return None
        reached = time_to(run.evaluations, target)
        return _NEVER if reached is None else reached

    key = f"time_to_{target:g}"
    return (
        Measure(key, f"time to {target:g} (s)", "targets", moment),
        Measure(f"speedup_to_{target:g}", "speed-up", "targets", decimals=2, speedup_of=key),
    )


def _said(key: str, run: RunRecords) -> Any:
    """What the run's summary says."""
    return (run.summary or {}).get(key)


def _waiting(run: RunRecords, condense: Callable[[list[float]], Any]) -> float | None:
    shares = list((_said("waiting_share", run) or {}).values())
    return float(condense(shares)) if shares else None


def _speedup(own: Spread, base: Spread) -> Spread:
    return Spread.of([base.median / own.median if own.median and base.median else None])


def _with_decimals(measure: Measure, numbers: Sequence[float]) -> Measure:
    """The measure with the number of decimals that these need; those of counts may be halves, as medians."""
    if measure.decimals is None:
        return replace(measure, decimals=_decimals(numbers))
    halves = measure.decimals == 0 and any(not float(number).is_integer() for number in numbers)
    return replace(measure, decimals=1) if halves else measure


def _decimals(numbers: Sequence[float]) -> int:
    """Enough for four digits of the largest number and for three of the smallest."""
    sizes = [math.floor(math.log10(abs(number))) for number in numbers if number]
    return max(0, 3 - max(sizes), 2 - min(sizes)) if sizes else 0


# --- baselines ---


def _baselines(arms: Sequence[Arm], wanted: str | None) -> list[int]:
    """For each arm the number of the arm that it is compared with. Raises ConfigurationError."""
    candidates = [number for number, arm in enumerate(arms) if _is_wanted(arm, wanted or "paradigm=bsp")]
    if wanted is not None and not candidates:
        labels = ", ".join(arm.label for arm in arms)
        raise ConfigurationError("baseline", f"no arm is {wanted}", f"an arm or KEY=VALUE; there are: {labels}")
    return [min(candidates or [0], key=lambda candidate: _differences(arm, arms[candidate])) for arm in arms]


def _is_wanted(arm: Arm, wanted: str) -> bool:
    if f"{arm.label} ".lower().startswith(f"{wanted} ".lower()):
        return True
    condition = Condition.parsed(wanted)
    facts = {**arm.settings, **arm.choices, "paradigm": arm.paradigm}
    return condition is not None and condition.key in facts and condition.holds(facts[condition.key])


def _differences(arm: Arm, other: Arm) -> int:
    """In how many settings two arms differ, those of their paradigms left aside."""
    keys = (key for key in {*arm.settings, *other.settings} if not key.startswith("paradigm."))
    return sum(arm.settings.get(key) != other.settings.get(key) for key in keys)


# --- what must be said ---


_MIXED = {
    "engine": "engines, whose seconds are not the same",
    "model": "models, whose accuracies and seconds are not the same",
    "dataset": "data sets, whose accuracies are not the same",
    "learning_rate_clock": "clocks of the learning rate, which drops at other moments",
}
"""What a summary must say alike of runs whose numbers can be compared."""


def _warnings(arms: Sequence[Arm]) -> Iterator[str]:
    runs = [run for arm in arms for run in arm.runs]
    for key, why in _MIXED.items():
        values = sorted({str(_said(key, run)) for run in runs})
        if len(values) > 1:
            yield f"the runs are of {', '.join(values)}: different {why}"
    versions = sorted({_version(run) for run in runs})
    if len(versions) > 1:
        yield f"the runs were made with different versions of dssp-bench ({', '.join(versions)})"
    machines = sorted({_machine(run) for run in runs if _said("engine", run) == "local"})
    if len(machines) > 1:
        yield f"the runs in real processes were made on different machines ({'; '.join(machines)})"
    for arm in arms:
        diverged = sum(_diverged(run) for run in arm.runs)
        if diverged:
            yield f"{arm.label}: {diverged} of {len(arm.runs)} runs diverged; at their end the loss is no number"


def _version(run: RunRecords) -> str:
    return str((run.environment or {}).get("packages", {}).get("dssp-bench"))


def _machine(run: RunRecords) -> str:
    hardware = (run.environment or {}).get("hardware", {})
    return ", ".join([f"{hardware.get('cores')} cores of {hardware.get('cpu')}", *map(str, hardware.get("gpus", []))])


def _diverged(run: RunRecords) -> bool:
    """Whether the last loss was not finite, which JSON cannot say but with null."""
    return _said("final_accuracy", run) is not None and _said("final_loss", run) is None


def _notes(rows: Sequence[Row], measures: Sequence[Measure]) -> Iterator[str]:
    if all(_said("engine", run) == "simulated" for row in rows for run in row.arm.runs):
        yield "Seconds are of virtual time"
    if any(len(row.arm.runs) > 1 for row in rows):
        yield "Of several runs: the median, and the lowest and highest where they differ"
    if not any(measure.key == "final_accuracy" for measure in measures):
        yield "No run has an accuracy"
    if any(measure.speedup_of for measure in measures):
        names = list(dict.fromkeys(row.baseline for row in rows))
        which = ", the one whose other settings differ least" if len(names) > 1 else ""
        yield f"Speed-up: how many times as fast as {' or '.join(names)}{which}"


# --- text ---


def _runs_in_words(row: Row) -> str:
    runs = len(row.arm.runs)
    return str(runs) if row.seeds == runs else f"{runs} of {row.seeds} seed{'s' if row.seeds > 1 else ''}"


def _cell(measure: Measure, spread: Spread) -> Cell:
    if not spread.runs:
        return Cell("-")
    partly = f"{spread.reached} of {spread.runs} runs" if 0 < spread.reached < spread.runs else ""
    if spread.median is None:
        return Cell("not reached", f"{partly} did" if partly else "")
    median, low, high = (_text(number, measure) for number in spread.numbers)
    return Cell(median, ", ".join(filter(None, [f"{low} to {high}" if low != high else "", partly])))


def _text(number: float, measure: Measure) -> str:
    decimals = measure.decimals or 0
    return f"{100 * number:.{max(0, decimals - 2)}f} %" if measure.percent else f"{number:.{decimals}f}"


def _in_brackets(cell: Cell) -> str:
    text = f"{cell.number} ({cell.spread})" if cell.spread else cell.number
    return text.replace("|", "\\|")
