"""The figures of a comparison, from the records of its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dssp_bench.analysis import series
from dssp_bench.analysis.arms import Arm, seed_of
from dssp_bench.analysis.convergence import time_to, updates_per_iteration
from dssp_bench.analysis.series import Series
from dssp_bench.plots import arm_figures, of_run, style
from dssp_bench.plots.arm_figures import Curve, Distribution, Panel, Seeds
from dssp_bench.records.reader import RunRecords

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = style.VARIANTS
TIMELINES = 6
TIMELINE_ITERATIONS = 30
TIMELINE_WORKERS = 6
WORKERS_NAMED = 8
SPREAD = {"least": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "most": 1.0}
CLOCKS = {"updates": "clock: updates (as published)", "samples": "clock: samples (the same for all)"}


def of_arms(
    arms: Sequence[Arm],
    targets: Sequence[float] = (),
    published: Mapping[str, Series] | None = None,
    published_beside: bool = False,
) -> dict[str, Figure]:
    """The figures of a comparison by name; none for what its runs have no data of.

    `targets` are accuracies, 0 to 1. `published` are accuracies over seconds, by a name that begins as an arm's label
    does; they are drawn over ours, or in a panel of their own, where their times are of another size.

    More than four arms of one paradigm, such as SSP with many thresholds, are one line in the figures of lines: their
    mean, with each of them thin and grey behind it. Everywhere else each arm has a row.
    """
    if not arms:
        return {}
    return {
        **_accuracies(arms, targets, published or {}, published_beside),
        **_times_to(arms, targets),
        **_learning_rate(arms),
        **_bars(arms),
        **_waiting(arms),
        **_distributions(arms),
        **_openings(arms),
    }


def clocks(arms_by_clock: Mapping[str, Sequence[Arm]], targets: Sequence[float] = ()) -> Figure:
    """Accuracy over time under each clock of the learning-rate schedule, `updates` and `samples`, beside each other."""
    every = [arm for arms in arms_by_clock.values() for arm in arms]
    read = {clock: _read(arms, series.accuracy) for clock, arms in arms_by_clock.items()}
    looks = _looks(entry for entries in read.values() for entry in entries)
    panels = [
        Panel(CLOCKS.get(clock, f"clock: {clock}"), _time(every), _curves(entries, looks), targets)
        for clock, entries in read.items()
    ]
    return arm_figures.side_by_side(panels, note=_seeds_note(every, lines=True))


class _Entry(NamedTuple):
    """What becomes one line: the median seed of an arm and all seeds, or the median seeds of several arms."""

    label: str
    paradigm: str
    line: Series
    seeds: tuple[Series, ...] = ()
    members: tuple[Series, ...] = ()


def _read(arms: Sequence[Arm], read: Callable[..., Series], table: str = "evaluations", **kwargs: Any) -> list[_Entry]:
    """A line for each arm that has data, or for each paradigm with too many of them."""
    entries = []
    for arm in arms:
        by_run = {run: read(getattr(run, table), **kwargs) for run in arm.runs}
        seeds = tuple(one for one in by_run.values() if len(one.at_s) > 1)
        if len(by_run[arm.median_run].at_s) > 1:
            entries.append(_Entry(arm.label, arm.paradigm, by_run[arm.median_run], seeds))
    return _gathered(entries)


def _gathered(entries: Sequence[_Entry]) -> list[_Entry]:
    number = Counter(entry.paradigm for entry in entries)
    gathered = []
    for paradigm in dict.fromkeys(entry.paradigm for entry in entries):
        mine = [entry for entry in entries if entry.paradigm == paradigm]
        if number[paradigm] > MOST_LINES:
            lines = tuple(entry.line for entry in mine)
            mine = [_Entry(_label_of_all(mine), paradigm, series.mean(lines), (), lines)]
        gathered += mine
    return gathered


def _label_of_all(entries: Sequence[_Entry]) -> str:
    """`SSP 3-15` for `SSP 3` to `SSP 15`; words that differ otherwise are left out."""
    columns = list(zip(*(entry.label.split() for entry in entries), strict=False))
    return " ".join(filter(None, map(_word_of_all, columns)))


def _word_of_all(words: Sequence[str]) -> str:
    if len(set(words)) == 1:
        return words[0]
    numbers = sorted(int(word) for word in words if word.isdigit())
    return f"{numbers[0]}-{numbers[-1]}" if len(numbers) == len(words) else ""


def _looks(entries: Iterable[_Entry]) -> dict[str, style.Line]:
    """One look for each label, whichever panel it is in."""
    paradigms = {_same(entry.label): entry.paradigm for entry in entries}
    return dict(zip(paradigms, style.looks(list(paradigms.values())), strict=True))


def _same(label: str) -> str:
    """A mean is drawn alike whether it was published as such or made here."""
    return label.removesuffix(", mean")


def _curves(entries: Sequence[_Entry], looks: Mapping[str, style.Line]) -> list[Curve]:
    bands = [series.band(entry.seeds) if len(entry.seeds) > 1 else None for entry in entries]
    return [
        Curve(entry.label, looks[_same(entry.label)], entry.line, band, entry.members)
        for entry, band in zip(entries, bands, strict=True)
    ]


def _accuracies(
    arms: Sequence[Arm], targets: Sequence[float], published: Mapping[str, Series], beside: bool
) -> dict[str, Figure]:
    note = _seeds_note(arms, lines=True)
    over = {
        "accuracy_time": ("Test accuracy over time", _time(arms), "at_s"),
        "accuracy_samples": ("Test accuracy over samples", "epoch (passes over the training set)", "epoch"),
        "accuracy_updates": ("Test accuracy over updates", "server updates", "version"),
    }
    made = {}
    for name, (title, xlabel, column) in over.items():
        entries = _read(arms, series.accuracy, over=column)
        if not entries:
            continue
        timed = {} if column != "at_s" else published
        if timed and beside:
            made[name] = _beside(entries, xlabel, targets, timed, note)
        else:
            curves = _curves(entries, _looks(entries))
            made[name] = arm_figures.accuracies(xlabel, curves, targets, timed, title, note)
    return made


def _beside(
    entries: Sequence[_Entry], xlabel: str, targets: Sequence[float], published: Mapping[str, Series], note: str
) -> Figure:
    theirs = _gathered([_Entry(name, _paradigm_of(name), one) for name, one in published.items()])
    looks = _looks([*entries, *theirs])
    panels = [
        Panel("reproduced", xlabel, _curves(entries, looks), targets),
        Panel("published", "time (s)", _curves(theirs, looks)),
    ]
    return arm_figures.side_by_side(panels, share=False, note=note)


def _paradigm_of(name: str) -> str:
    """What a published curve's name begins with, as a paradigm."""
    return name.split()[0].lower()


def _times_to(arms: Sequence[Arm], targets: Sequence[float]) -> dict[str, Figure]:
    if not targets or not any(len(run.evaluations) for arm in arms for run in arm.runs):
        return {}
    colors = _colors(arms)
    rows = {
        target: [Seeds(a.label, colors[a.label], [time_to(run.evaluations, target) for run in a.runs]) for a in arms]
        for target in targets
    }
    return {"time_to_target": arm_figures.times_to(rows, _time(arms), _missing_note(rows))}


def _missing_note(rows: Mapping[float, Sequence[Seeds]]) -> str:
    missing = any(value is None for arms in rows.values() for arm in arms for value in arm.values)
    return "at the right edge: how many of an arm's seeds never reached the target" if missing else ""


def _learning_rate(arms: Sequence[Arm]) -> dict[str, Figure]:
    entries = _read(arms, series.learning_rate, "updates")
    if all(len(set(entry.line.value.tolist())) < 2 for entry in entries):
        return {}
    curves = [curve._replace(band=None) for curve in _curves(entries, _looks(entries))]
    each = [curve._replace(line=None) if curve.members else curve for curve in curves]
    counted = ", ".join(sorted({arm.clock for arm in arms}))
    note = f"clock of the schedule: {counted}; equal lines are drawn a little apart"
    return {"learning_rate": arm_figures.learning_rates(_time(arms), each, note=note)}


def _bars(arms: Sequence[Arm]) -> dict[str, Figure]:
    seconds = _seconds(arms)
    wanted: dict[str, tuple[str, str, Callable[[RunRecords], float | None]]] = {
        "throughput": (
            "Throughput",
            of_run.throughput_label(seconds),
            lambda run: (run.summary or {}).get("pushes_per_s"),
        ),
        "duration": ("Duration", f"duration ({seconds})", lambda run: (run.summary or {}).get("duration_s")),
        "updates_per_iteration": (
            "Server updates for each iteration of the slowest worker, while all are there",
            "updates per iteration of the slowest worker",
            lambda run: updates_per_iteration(run.pushes, run.updates),
        ),
    }
    colors, note = _colors(arms), _seeds_note(arms)
    made = {}
    for name, (title, xlabel, number) in wanted.items():
        rows = [Seeds(arm.label, colors[arm.label], [number(run) for run in arm.runs]) for arm in arms]
        known = [row for row in rows if row.known]
        if known:
            made[name] = arm_figures.bars(xlabel, known, title, note)
    return made


def _waiting(arms: Sequence[Arm]) -> dict[str, Figure]:
    shares = {arm.label: [run.summary["waiting_share"] for run in arm.runs if run.summary] for arm in arms}
    workers = max((len(share) for seeds in shares.values() for share in seeds), default=0)
    known = {label: seeds for label, seeds in shares.items() if any(seeds)}
    if not known:
        return {}
    if workers <= WORKERS_NAMED:
        title, columns = "Held by the server, % of the worker's time", _names_in(arms, workers)
        cells = {
            label: [_median([s.get(str(w)) for s in seeds]) for w in range(workers)] for label, seeds in known.items()
        }
    else:
        title, columns = f"Held by the server, % of the worker's time, among {workers:,} workers", list(SPREAD)
        cells = {
            label: [_median([float(np.quantile(list(s.values()), q)) for s in seeds if s]) for q in SPREAD.values()]
            for label, seeds in known.items()
        }
    return {"waiting": arm_figures.waiting(cells, columns, title, _seeds_note(arms, whiskers=False))}


def _median(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else float("nan")


def _names_in(arms: Sequence[Arm], workers: int) -> list[str]:
    """The workers' names, or their numbers where arms differ in them."""
    names = [tuple(of_run.distinct_names(arm.runs[0])) for arm in arms]
    same = len(set(names)) == 1 and len(names[0]) == workers
    return list(names[0]) if same else [f"worker {worker}" for worker in range(workers)]


def _distributions(arms: Sequence[Arm]) -> dict[str, Figure]:
    wanted = {
        "lead": ("Lead of a worker over the slowest one at its pushes", "lead (iterations)"),
        "staleness": ("Staleness of the applied gradients", "staleness (updates)"),
    }
    colors = _colors(arms)
    found: dict[str, list[Distribution]] = {name: [] for name in wanted}
    for arm in arms:
        for name in wanted:
            counts: Counter[int] = Counter()
            for run in arm.runs:
                counts.update(series.counts(run.pushes[name].dropna().to_numpy(np.int64)))
            if counts:
                found[name].append(Distribution(arm.label, colors[arm.label], counts))
    note = "all seeds together" if _seeds(arms) > 1 else ""
    return {
        name: arm_figures.distributions(xlabel, found[name], title, note)
        for name, (title, xlabel) in wanted.items()
        if found[name]
    }


def _openings(arms: Sequence[Arm]) -> dict[str, Figure]:
    """What happened at first: the workers of a few arms, and the first arm's thresholds that was given grants."""
    made = {}
    chosen = [(arm, arm.median_run) for arm in _representatives(arms) if len(arm.median_run.pushes)]
    if chosen:
        begin, end = max(of_run.opening(run.pushes, TIMELINE_ITERATIONS) for _, run in chosen)
        panels = {
            arm.label: of_run.activities(run.pushes, end, TIMELINE_WORKERS, of_run.distinct_names(run))
            for arm, run in chosen
        }
        made["timeline"] = arm_figures.timelines(panels, (begin, end), _time([arm for arm, _ in chosen]))
    granted = next((arm for arm in arms if (arm.median_run.summary or {}).get("grants")), None)
    if granted:
        run = granted.median_run
        title = f"Thresholds: {granted.label}, seed {seed_of(run)}"
        made |= of_run.thresholds(run, title)
    return made


def _representatives(arms: Sequence[Arm]) -> list[Arm]:
    """All arms if they are few, else the first of each paradigm."""
    if len(arms) <= TIMELINES:
        return list(arms)
    return list({arm.paradigm: arm for arm in reversed(arms)}.values())[::-1][:TIMELINES]


def _colors(arms: Sequence[Arm]) -> dict[str, str]:
    return {arm.label: look.color for arm, look in zip(arms, style.looks([a.paradigm for a in arms]), strict=True)}


def _seeds(arms: Sequence[Arm]) -> int:
    return max((len(arm.runs) for arm in arms), default=0)


def _seeds_note(arms: Sequence[Arm], lines: bool = False, whiskers: bool = True) -> str:
    """How the seeds are shown; nothing for a single one."""
    seeds = _seeds(arms)
    if seeds < 2:
        return ""
    if lines:
        return f"line: the seed with the median final accuracy; band: lowest to highest of {seeds} seeds"
    return f"median of {seeds} seeds" + (", whiskers from lowest to highest" if whiskers else "")


def _time(arms: Sequence[Arm]) -> str:
    return f"time ({_seconds(arms)})"


def _seconds(arms: Sequence[Arm]) -> str:
    """The unit of time, or both units where only some arms ran in virtual time."""
    return " or ".join(sorted({of_run.time_unit(arm.runs[0]) for arm in arms}))
