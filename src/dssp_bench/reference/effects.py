"""What the paper's own numbers say to a claim."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np

from dssp_bench.reference.claims import Claim, Selection, published_targets
from dssp_bench.reference.measures import TAIL, Bounds, MeasureName
from dssp_bench.reference.published import (
    PUSHES,
    RIGHT_PANELS,
    Curve,
    PublishedRun,
    published_curve,
    published_runs,
    published_thresholds,
    table1,
)

_Arm = tuple[str, int | None]  # the paradigm, and SSP's threshold


def published_effect(claim: Claim) -> Bounds | None:
    """The effect in the paper's runs, of the comparison that decides; None where they do not say.

    From Table I or `runs.csv`; where one side is not in there, both sides are taken from the thinned curves.
    """
    left, right = _arms(claim.experiment, claim.left), _arms(claim.experiment, claim.right)
    effects = [_effect(claim, *pair) for pair in product(left, right)]
    known = [effect for effect in effects if effect is not None]
    if len(known) < len(effects) or len(known) <= claim.exceptions:
        return None
    return sorted(known, key=lambda effect: claim.margins(effect).low)[claim.exceptions]


def _effect(claim: Claim, left: _Arm, right: _Arm) -> Bounds | None:
    for source in (_in_table, _in_runs, _in_curves):
        values = source(claim, left), source(claim, right)
        if values[0] is not None and values[1] is not None:
            return Bounds(*claim.compared.effects(values[0], values[1]))
    return None


def _arms(experiment: str, selections: tuple[Selection, ...]) -> list[_Arm]:
    return [arm for selection in selections for arm in _selected(experiment, selection)]


def _selected(experiment: str, selection: Selection) -> list[_Arm]:
    if selection == "ssp":
        figure = "fig4" if experiment == "table1" else RIGHT_PANELS.get(experiment, experiment)
        return [("ssp", threshold) for threshold in published_thresholds(figure)]
    return [(selection, None)]


def _in_table(claim: Claim, arm: _Arm) -> Bounds | None:
    if claim.experiment != "table1" or claim.target is None:
        return None
    row = next((row for row in table1() if _is(arm, row.paradigm, row.threshold)), None)
    run = _run("fig4", arm)
    if row is None or run is None:
        return None
    seconds = row.seconds_to[_target(claim)]
    return Bounds(run.end_s, math.inf) if seconds is None else Bounds.exactly(seconds)


def _in_runs(claim: Claim, arm: _Arm) -> Bounds | None:
    run = _run(claim.experiment, arm)
    value = _OF_RUN[claim.measure](run) if run and claim.measure in _OF_RUN else None
    return None if value is None else Bounds.exactly(value)


def _in_curves(claim: Claim, arm: _Arm) -> Bounds | None:
    panels: list[str] = [claim.experiment]
    if "ssp" in claim.left + claim.right and claim.experiment in RIGHT_PANELS:
        panels.insert(0, RIGHT_PANELS[claim.experiment])
    for figure in panels:
        try:
            curve = published_curve(figure, *arm)
        except LookupError:
            continue
        if claim.target is not None:
            return _time_to(curve, _target(claim))
        if claim.measure in _OF_CURVE:
            return Bounds.exactly(_OF_CURVE[claim.measure](curve))
    return None


def _target(claim: Claim) -> float:
    return published_targets(claim.experiment)[0 if claim.target == "first" else 1]


def _run(figure: str, arm: _Arm) -> PublishedRun | None:
    return next((run for run in published_runs(figure) if _is(arm, run.paradigm, run.threshold)), None)


def _is(arm: _Arm, paradigm: str, threshold: int | None) -> bool:
    """Whether it is that one; only SSP has more than one threshold."""
    return arm[0] == paradigm and arm[1] in (None, threshold)


_OF_RUN: dict[MeasureName, Callable[[PublishedRun], float | None]] = {
    "duration": lambda run: run.end_s,
    "throughput": lambda run: PUSHES / run.end_s,
    "tail_accuracy": lambda run: run.tail_accuracy,
    "best_accuracy": lambda run: run.max_accuracy,
    "rate_drop_fraction": lambda run: run.rate_drop_s and run.rate_drop_s / run.end_s,
    "updates_per_iteration": lambda run: run.updates_per_iteration,
}
_OF_CURVE: dict[MeasureName, Callable[[Curve], float]] = {
    "duration": lambda curve: curve.seconds[-1],
    "throughput": lambda curve: PUSHES / curve.seconds[-1],
    "final_accuracy": lambda curve: curve.accuracy[-1],
    "tail_accuracy": lambda curve: _tail(curve),
    "best_accuracy": lambda curve: max(curve.accuracy),
}


def _tail(curve: Curve) -> float:
    begin = (1 - TAIL) * curve.seconds[-1]
    return float(np.median([a for at, a in zip(curve.seconds, curve.accuracy, strict=True) if at >= begin]))


def _time_to(curve: Curve, target: float) -> Bounds:
    reached = (at for at, accuracy in zip(curve.seconds, curve.accuracy, strict=True) if accuracy >= target)
    first = next(reached, None)
    return Bounds(curve.seconds[-1], math.inf) if first is None else Bounds.exactly(first)
