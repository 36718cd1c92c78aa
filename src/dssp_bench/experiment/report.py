"""What a study's runs say beside what the paper says: tables, figures and an answer to each of its claims.

Everything in a report follows from the runs' numbers, so that equal runs give an equal report; which folders they are
in, when and where they were made is in `runs.csv` beside it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dssp_bench.analysis.arms import Arm, arms_of, seed_of
from dssp_bench.analysis.claims import Answer, answers
from dssp_bench.analysis.comparison import Comparison, compare
from dssp_bench.analysis.convergence import rate_drops, time_to, updates_per_iteration
from dssp_bench.analysis.series import Series
from dssp_bench.experiment.sensitivity import PUSHES, Row
from dssp_bench.experiment.studies import CLOCKS, Scale, Study
from dssp_bench.records.files import write_json, write_whole
from dssp_bench.records.reader import RunRecords
from dssp_bench.reference.claims import claims
from dssp_bench.reference.measures import Bounds
from dssp_bench.reference.published import (
    EPOCHS,
    RIGHT_PANELS,
    PublishedRun,
    published_curve,
    published_runs,
    published_thresholds,
    table1,
)

NAMES = {"updates": "clock of updates (as published)", "samples": "clock of samples (the same epoch for everyone)"}
_FIRST_FIGURES = ("figures/clocks.png", "figures/updates/accuracy_time.png")
_SCALES: dict[Scale, str] = {
    "full": "The paper's data and numbers of epochs, and networks of the kinds that it names.",
    "mini": "A small network and data set in virtual time, with the paper's numbers of workers, ratio of speeds, "
    "thresholds and fractions of the schedule. Seconds are virtual and of another size than the paper's; what can be "
    "compared are ratios and fractions.",
    "timing": "The paper's numbers of epochs in virtual time, without gradients: what happens when, and no accuracies. "
    "The clusters' constants were fitted to the published curves, to when BSP and ASP end and to how many updates are "
    "made (`conf/cluster/paper_*.yaml` say how): agreement says that they can be fitted so.",
}


@dataclass(frozen=True)
class Result:
    """A study's arms by clock, and what the report says of them.

    `planned` is how many runs there should be, `changes` are the overrides that make them others than the study's own.
    """

    study: Study
    scale: Scale
    arms: dict[str, list[Arm]]
    answers: list[Answer]
    targets: tuple[float, ...]
    planned: int
    changes: tuple[str, ...]
    numbers: dict[str, Comparison]

    @property
    def every_arm(self) -> list[Arm]:
        """The arms of both clocks."""
        return [arm for arms in self.arms.values() for arm in arms]


def result_of(
    study: Study, scale: Scale, runs: Iterable[RunRecords], planned: int, changes: tuple[str, ...] = ()
) -> Result:
    """Put the runs in order, and ask them about the paper's claims."""
    by_clock: dict[str, list[RunRecords]] = {clock: [] for clock in CLOCKS}
    for run in runs:
        by_clock[run.config["schedule"]["clock"]].append(run)
    arms = {clock: arms_of(of_clock) for clock, of_clock in by_clock.items() if of_clock}
    targets = study.targets(scale)
    about = [claim for name in study.claimed for claim in claims(name)]
    said = answers(about, [arm for of_clock in arms.values() for arm in of_clock], targets)
    numbers = {clock: compare(of_clock, targets) for clock, of_clock in arms.items()}
    return Result(study, scale, arms, said, targets, planned, changes, numbers)


def write_report(result: Result, folder: Path, sensitivity: Sequence[Row] = ()) -> Path:
    """Write `report.md` with its figures, tables and claims into a folder; returns the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = [path.relative_to(folder).as_posix() for path in _draw(result, folder) if path.suffix == ".png"]
    first = [path for path in _FIRST_FIGURES if path in figures]
    sections = [*_sections(result, sensitivity, _shown(first)), _figures(result, figures)]
    text = "\n\n".join(section for section in sections if section) + "\n"
    write_whole(folder / "report.md", lambda path: path.write_text(text, encoding="utf-8"))
    for clock, numbers in result.numbers.items():
        frame = numbers.frame()
        write_whole(folder / f"comparison-{clock}.csv", lambda path, frame=frame: frame.to_csv(path, index=False))  # type: ignore[misc]
    write_json(folder / "claims.json", [_as_json(answer) for answer in result.answers])
    _write_runs(result, folder / "runs.csv")
    return folder / "report.md"


def _sections(result: Result, sensitivity: Sequence[Row], figures: str) -> list[str]:
    study = result.study
    made = [
        f"# {study.figure} of the DSSP paper, scale={result.scale}\n\n{study.title}. {_SCALES[result.scale]}",
        f"**Changed:** {', '.join(f'`{change}`' for change in result.changes)}." if result.changes else "",
        _incomplete(result),
        "## In short\n\n" + "\n".join(f"- {line}" for line in in_short(result)),
        figures,
        _speed_ups(result),
        _table_1(result),
        _drops(result),
        _ends(result),
        _update_counts(result, sensitivity),
    ]
    for clock, numbers in result.numbers.items():
        made.append(f"## All numbers, {NAMES[clock]}\n\n{numbers.markdown()}")
    return [*made, _claims(result)]


def _incomplete(result: Result) -> str:
    found = sum(len(arm.runs) for arm in result.every_arm)
    return f"**Incomplete:** {found} of {result.planned} runs are finished." if found < result.planned else ""


# --- in short ---------------------------------------------------------------------------------------------------------


def in_short(result: Result) -> list[str]:
    """The verdicts on each clock, and who is how much earlier, in a sentence each."""
    lines = [_verdicts(result, clock) for clock in result.arms]
    if result.targets:
        lines += [line for clock in result.arms if (line := _how_much_earlier(result, clock, result.targets[0]))]
    if result.scale == "timing" and (ends := _order_of_ends(result)):
        lines.append(ends)
    return lines


def _order_of_ends(result: Result) -> str:
    """Who ends first, and how far the ends are from the published ones."""
    arms = [arm for arm in result.arms.get("updates", []) if _has_an_end(arm)]
    ends = {arm.label: (_end(arm), _published_end(result.study, arm)) for arm in arms}
    errors = [abs(ours / published - 1) for ours, published in ends.values() if published]
    if not errors:
        return ""
    order = ", ".join(f"{label} {ours:.0f} s" for label, (ours, _) in sorted(ends.items(), key=lambda item: item[1][0]))
    off = f"{100 * median(errors):.1f} % off the published ones (median; at most {100 * max(errors):.1f} %)"
    return f"Ends are {off}: {order}."


def _verdicts(result: Result, clock: str) -> str:
    of_clock = [answer.verdict for answer in result.answers if answer.clock == clock]
    counts = ", ".join(
        f"{of_clock.count(verdict)} {verdict}" for verdict in ("supported", "not supported", "not decidable")
    )
    return f"{_capital(NAMES[clock])}: of {len(of_clock)} statements about this figure, {counts}."


def _how_much_earlier(result: Result, clock: str, target: float) -> str:
    """Who reached the first target how much earlier than whom, and when everyone's rate had dropped by then."""
    arms = result.arms[clock]
    times = {arm.label: _median_time(arm, target) for arm in arms}
    parts = []
    for arm in arms:
        if arm.paradigm in ("asp", "dssp") and times[arm.label] < math.inf:
            said = [
                f"{_factors(factors)} times as early as by {late.upper()}"
                for late in ("bsp", "ssp")
                if (factors := [times[a.label] / times[arm.label] for a in arms if a.paradigm == late])
            ]
            parts += [f"{arm.label} {' and '.join(said)}"] if said else []
    if not parts:
        return ""
    drops = ", ".join(f"{arm.label} {drop:.2f}" for arm in arms if (drop := _first_drop(arm)) is not None)
    return (
        f"{_capital(NAMES[clock])}: an accuracy of {target:g} is reached by "
        + ", by ".join(parts)
        + (f". The rate first dropped at these fractions of the runs: {drops}." if drops else ".")
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _speed_ups(result: Result) -> str:
    """How much earlier DSSP reaches each target than the others: published, and on each clock."""
    blocks = []
    for number, target in enumerate(result.targets):
        published_target = result.study.published_targets[number]
        rows = []
        for arm in result.arms.get("updates", []):
            if arm.paradigm != "dssp":
                ours = [_speed_up(arms, arm.label, target) for arms in result.arms.values()]
                rows.append([arm.label, _published_speed_up(result.study, arm, published_target), *ours])
        head = ["DSSP against", f"published, to {published_target:g}"]
        blocks.append(_table([*head, *(f"{NAMES[clock]}, to {target:g}" for clock in result.arms)], rows))
    if not blocks:
        return ""
    return "\n\n".join(["## How many times as early DSSP reaches an accuracy", *blocks])


def _speed_up(arms: Sequence[Arm], label: str, target: float) -> str:
    other = next((arm for arm in arms if arm.label == label), None)
    dssp = next((arm for arm in arms if arm.paradigm == "dssp"), None)
    if other is None or dssp is None:
        return "-"
    return _ratio(_median_time(other, target), _median_time(dssp, target), other.label, dssp.label)


def _published_speed_up(study: Study, arm: Arm, target: float) -> str:
    panel = RIGHT_PANELS.get(study.name, study.name) if arm.paradigm == "ssp" else study.name
    other, dssp = (_published_time(panel, *of, target) for of in ((arm.paradigm, _threshold(arm)), ("dssp", None)))
    if other is None or dssp is None:
        return "-"
    return _ratio(other, dssp, arm.label, "DSSP")


def _ratio(other: float, ours: float, other_name: str, our_name: str) -> str:
    if other == ours == math.inf:
        return "neither reached it"
    if other == math.inf:
        return f"{other_name} did not reach it"
    return f"{our_name} did not reach it" if ours == math.inf else f"{other / ours:.2f}"


def _table_1(result: Result) -> str:
    """Table I as printed, with the same times of ours where accuracies are of the same size."""
    if result.study.name != "fig4" or result.scale == "timing":
        return ""
    rows = []
    for row in table1():
        arm = _like(result.arms.get("updates", []), row.paradigm, row.threshold)
        printed = [_seconds(seconds) for seconds in row.seconds_to.values()]
        ours = [_times(arm, target) for target in result.targets] if arm else ["-"] * len(result.targets)
        rows.append([_name(row.paradigm, row.threshold), *printed, *ours])
    head = ["", *(f"Table I: s to {target:g}" for target in table1()[0].seconds_to)]
    head += [f"ours: s to {target:g} (each seed)" for target in result.targets]
    return f"## Table I, {NAMES['updates']}\n\n" + _table(head, rows)


def _drops(result: Result) -> str:
    """When the learning rate dropped, as a fraction of the run."""
    rows = []
    for arm in _of_every_paradigm(result):
        ours = [_all_drops(_same(arms, arm)) for arms in result.arms.values()]
        run = _published_run(result.study, arm)
        published = f"{run.rate_drop_s / run.end_s:.3f}" if run and run.rate_drop_s else "-"
        rows.append([arm.label, published, *ours])
    head = ["", "published: first drop", *(f"{NAMES[clock]}" for clock in result.arms)]
    text = "## When the learning rate drops, as a fraction of the run\n\n" + _table(head, rows)
    text += f"\n\n{_about_the_published(result.study)}"
    if "samples" not in result.arms:
        text += "\n\nOn the clock of samples it would drop when the workers together have made the milestones' epochs."
    return text


def _ends(result: Result) -> str:
    """How long the runs took, where the scale is the paper's."""
    if result.scale == "mini":
        return ""
    rows = []
    for arm in filter(_has_an_end, result.arms.get("updates", [])):
        ours = _end(arm)
        published = _published_end(result.study, arm)
        error = f"{100 * (ours / published - 1):+.1f} %" if published else "-"
        rows.append([arm.label, f"{ours:.0f}", f"{published:.0f}" if published else "-", error])
    if not rows:
        return ""
    return f"## How long {EPOCHS} epochs take, in seconds\n\n" + _table(["", "ours", "published", "difference"], rows)


def _update_counts(result: Result, sensitivity: Sequence[Row]) -> str:
    """Server updates per iteration of the slowest worker, and what the number depends on."""
    rows = []
    for arm in result.arms.get("updates", []):
        run = _published_run(result.study, arm)
        published = f"{run.updates_per_iteration:.2f}" if run and run.updates_per_iteration else "-"
        counted = median(updates_per_iteration(run.pushes, run.updates) or math.nan for run in arm.runs)
        rows.append([arm.label, f"{counted:.2f}", published])
    text = (
        "## Updates per iteration of the slowest worker\n\n"
        "What decides when the rate drops on the clock of updates. Published: read off the first drop.\n\n"
        + _table(["", "ours", "published"], rows)
        + f"\n\n{_about_the_published(result.study)}"
    )
    if sensitivity:
        cases = list(sensitivity[0].updates)
        rows = [[f"{row.ratio:g}", row.jitter, *(f"{row.updates[case]:.2f}" for case in cases)] for row in sensitivity]
        text += (
            "\n\nThe same number for other ratios of the two workers' speeds, and with noise on their iteration times "
            f"(computed anew, {PUSHES:,} pushes each):\n\n" + _table(["ratio", "noise", *cases], rows)
        )
    return text


def _claims(result: Result) -> str:
    """Every statement with its answers."""
    by_claim: dict[str, list[Answer]] = {}
    for answer in result.answers:
        by_claim.setdefault(answer.claim.id, []).append(answer)
    rows = []
    for of_claim in by_claim.values():
        claim = of_claim[0].claim
        published = of_claim[0].published_effect
        said = f"{claim.says} ({claim.where}{'' if claim.by == 'authors' else ', our reading'})"
        by_clock = {answer.clock: answer for answer in of_claim}
        cells = [_answered(by_clock[clock]) if clock in by_clock else "-" for clock in result.arms]
        rows.append([said, f"{published:.3g}" if published else "-", *cells])
    head = ["statement", "published effect", *(NAMES[clock] for clock in result.arms)]
    return (
        "## The paper's statements\n\n"
        "The effect is how many times as fast, as early or as many the first one is, or the difference of accuracies; "
        "in brackets what the seeds leave open of it (three seeds say whether they agree, no more). It is one of means "
        f"over seeds, where tables have medians.{_stand_ins(result)}\n\n" + _table(head, rows)
    )


def _stand_ins(result: Result) -> str:
    """Which of our accuracies stand for the paper's."""
    published = result.study.published_targets[: len(result.targets)]
    if not result.targets or published == result.targets:
        return ""
    pairs = [f"{ours:g} for its {theirs:g}" for ours, theirs in zip(result.targets, published, strict=True)]
    return f" Where the paper names an accuracy, ours stands for it: {', '.join(pairs)}."


def _answered(answer: Answer) -> str:
    text = f"**{answer.verdict}**"
    if answer.effect is not None:
        text += f": {answer.effect:.3g}"
        if answer.interval is not None and answer.interval != answer.effect:
            text += f" [{answer.interval.low:.3g}, {answer.interval.high:.3g}]"
    return f"{text}. {_capital(answer.reason)}."


# --- figures ----------------------------------------------------------------------------------------------------------


def _draw(result: Result, folder: Path) -> list[Path]:
    from dssp_bench.plots import save_figures  # with matplotlib
    from dssp_bench.plots.of_arms import clocks, of_arms

    files: list[Path] = []
    if any(len(run.evaluations) for arm in result.every_arm for run in arm.runs):
        files += save_figures({"clocks": clocks(result.arms, result.targets)}, folder / "figures")
    for clock, arms in result.arms.items():
        published = _published_curves(result.study) if clock == "updates" and result.scale != "timing" else {}
        drawn = of_arms(arms, result.targets, published, published_beside=result.scale == "mini")
        files += save_figures(drawn, folder / "figures" / clock)
    return files


def _published_curves(study: Study) -> dict[str, Series]:
    import numpy as np

    drawn: list[tuple[str, int | None]] = [("bsp", None), ("asp", None), ("dssp", None)]
    drawn += [("ssp", s) for s in published_thresholds(study.name)] or [("ssp_average", None)]
    curves = {_name(*arm): (study.name, *arm) for arm in drawn}
    read = {name: published_curve(*key) for name, key in curves.items()}
    return {name: Series(np.array(curve.seconds), np.array(curve.accuracy)) for name, curve in read.items()}


def _figures(result: Result, figures: Sequence[str]) -> str:
    """Those of each clock that are not shown at the top."""
    sections = ["## Figures"]
    for clock in result.arms:
        of_clock = [path for path in figures if f"/{clock}/" in path and path not in _FIRST_FIGURES]
        sections += [f"### {_capital(NAMES[clock])}", _shown(of_clock)]
    return "\n\n".join(sections)


def _shown(figures: Sequence[str]) -> str:
    return "\n\n".join(f"![{Path(path).stem}]({path})" for path in figures)


# --- numbers of arms --------------------------------------------------------------------------------------------------


def _median_time(arm: Arm, target: float) -> float:
    """The median over seeds of the time to an accuracy; infinite if it was not reached in most of them."""
    return median(_time(run, target) for run in arm.runs)


def _time(run: RunRecords, target: float) -> float:
    reached = time_to(run.evaluations, target)
    return math.inf if reached is None else reached


def _times(arm: Arm, target: float) -> str:
    return ", ".join(_seconds(None if (at := _time(run, target)) == math.inf else at) for run in arm.runs)


def _first_drop(arm: Arm) -> float | None:
    first = [drops[0] for run in arm.runs if (drops := rate_drops(run.updates, _duration(run)))]
    return median(first) if first else None


def _all_drops(arm: Arm | None) -> str:
    """The median of every drop that all runs of the arm have."""
    if arm is None:
        return "-"
    drops = zip(*(rate_drops(run.updates, _duration(run)) for run in arm.runs), strict=False)
    return ", ".join(f"{median(values):.3f}" for values in drops) or "none"


def _end(arm: Arm) -> float:
    """How long the run takes, or would take if it had as many epochs as the paper's."""
    return median(_duration(run) for run in arm.runs) * EPOCHS / float(arm.settings.get("stop.epochs") or EPOCHS)


def _has_an_end(arm: Arm) -> bool:
    """Whether the run's epochs alone decide when it ends, so that its end can be compared."""
    limits = {key for key, value in arm.settings.items() if key.startswith("stop.") and value is not None}
    return limits == {"stop.epochs"}


def _duration(run: RunRecords) -> float:
    return float((run.summary or {})["duration_s"])


def _threshold(arm: Arm) -> int | None:
    return arm.settings.get("paradigm.threshold")


def _like(arms: Sequence[Arm], paradigm: str, threshold: int | None) -> Arm | None:
    return next((a for a in arms if a.paradigm == paradigm and (paradigm != "ssp" or _threshold(a) == threshold)), None)


def _same(arms: Sequence[Arm], arm: Arm) -> Arm | None:
    return _like(arms, arm.paradigm, _threshold(arm))


def _of_every_paradigm(result: Result) -> list[Arm]:
    """The arms of the clock that has the most, where runs are missing."""
    return max(result.arms.values(), key=len, default=[])


# --- numbers of the paper ---------------------------------------------------------------------------------------------


def _published_run(study: Study, arm: Arm) -> PublishedRun | None:
    runs = published_runs(study.name)
    if arm.paradigm == "ssp" and study.name in RIGHT_PANELS:
        return next(run for run in runs if run.paradigm == "ssp_average")
    return next((run for run in runs if _is(run, arm)), None)


def _is(run: PublishedRun, arm: Arm) -> bool:
    return run.paradigm == arm.paradigm and (arm.paradigm != "ssp" or run.threshold == _threshold(arm))


def _published_end(study: Study, arm: Arm) -> float | None:
    if arm.paradigm == "ssp" and study.name in RIGHT_PANELS:
        return published_curve(RIGHT_PANELS[study.name], "ssp", _threshold(arm)).seconds[-1]
    run = _published_run(study, arm)
    return run.end_s if run else None


def _about_the_published(study: Study) -> str:
    """Which curve the published drops and updates are of, where that is not the arm's own or only one jump."""
    if study.name in RIGHT_PANELS:
        return "Published for SSP: of the mean curve over its thresholds 3 to 15."
    return "ASP's published curve jumps twice: the drop is the second jump, the updates are from the first."


def _published_time(figure: str, paradigm: str, threshold: int | None, target: float) -> float | None:
    for row in table1() if figure == "fig4" else ():
        if row.paradigm == paradigm and (paradigm != "ssp" or row.threshold == threshold):
            seconds = row.seconds_to.get(target)
            return math.inf if seconds is None else seconds
    try:
        curve = published_curve(figure, paradigm, threshold)
    except LookupError:
        return None
    return next((at for at, a in zip(curve.seconds, curve.accuracy, strict=True) if a >= target), math.inf)


# --- text -------------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _name(paradigm: str, threshold: int | None) -> str:
    names = {"dssp": "DSSP 3-15", "ssp_average": "SSP 3-15, mean"}
    return names.get(paradigm) or paradigm.upper() + (f" {threshold}" if threshold is not None else "")


def _seconds(seconds: float | None) -> str:
    return "not reached" if seconds is None else f"{seconds:.1f}"


def _factors(values: Sequence[float]) -> str:
    """The range of some factors, of which those that never came are left open."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    if max(values) == math.inf:
        return f"at least {low}" if min(values) < math.inf else "any number of"
    return low if low == high else f"{low} to {high}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _as_json(answer: Answer) -> dict[str, object]:
    return {
        "claim": answer.claim.id,
        "says": answer.claim.says,
        "clock": answer.clock,
        "verdict": answer.verdict,
        "reason": answer.reason,
        "left": answer.left,
        "right": answer.right,
        "effect": _pair(answer.effect),
        "interval": _pair(answer.interval),
        "unit": answer.unit,
        "published_effect": _pair(answer.published_effect),
    }


def _pair(bounds: Bounds | None) -> list[float] | None:
    return None if bounds is None else [bounds.low, bounds.high]


def _write_runs(result: Result, path: Path) -> None:
    """Which runs the report is about, and where and when they were made."""
    rows: list[Mapping[str, object]] = []
    for arm in result.every_arm:
        for run in arm.runs:
            surroundings = run.environment or {}
            rows.append(
                {
                    "clock": arm.clock,
                    "arm": arm.label,
                    "seed": seed_of(run),
                    "folder": run.folder.name,
                    "configuration": (run.summary or {}).get("configuration"),
                    "started_at": surroundings.get("started_at"),
                    "cpu": surroundings.get("hardware", {}).get("cpu"),
                    "cores": surroundings.get("hardware", {}).get("cores"),
                    "torch": surroundings.get("packages", {}).get("torch"),
                }
            )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["clock"])
        writer.writeheader()
        writer.writerows(rows)
