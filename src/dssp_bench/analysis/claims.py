"""Whether runs support what the paper says: every claim, separately for each clock of the learning-rate schedule."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np

from dssp_bench.analysis.arms import Arm
from dssp_bench.analysis.bootstrap import interval, means, resamples
from dssp_bench.analysis.convergence import rate_drops, tail_accuracy, throughput, time_to, updates_per_iteration
from dssp_bench.analysis.waiting import Floats
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.records.reader import RunRecords
from dssp_bench.reference.claims import Claim, Selection
from dssp_bench.reference.effects import published_effect
from dssp_bench.reference.measures import MEASURES, Bounds, MeasureName

Verdict = Literal["supported", "not supported", "not decidable"]

LEAST_SEEDS = 3
CLOCKS = ("updates", "samples")
"""As published, and the same for everyone."""

_WORST_FIRST: tuple[Verdict, ...] = ("not supported", "not decidable", "supported")
_TIMING: tuple[MeasureName, ...] = ("duration", "throughput", "rate_drop_fraction", "updates_per_iteration")


@dataclass(frozen=True)
class Answer:
    """What the runs say to one claim.

    Where several arms are compared, the numbers are those of the comparison that decides: the one that speaks most
    against the claim, after the one that may fail. `left` and `right` are its arms, `left_value` and `right_value`
    their means over the seeds. `effect` is how many times as fast, as early or as many the left is, or its accuracy
    minus the right's, and `interval` what the seeds leave open of it; the units say which. What is not known is None.
    """

    claim: Claim
    clock: str
    verdict: Verdict
    reason: str
    published_effect: Bounds | None
    left: str = ""
    right: str = ""
    left_value: Bounds | None = None
    right_value: Bounds | None = None
    effect: Bounds | None = None
    interval: Bounds | None = None

    @property
    def unit(self) -> str:
        """What the effect counts."""
        return self.claim.compared.effect_unit

    @property
    def value_unit(self) -> str:
        """What the values count."""
        return self.claim.compared.unit


def answers(claims: Iterable[Claim], arms: Sequence[Arm], targets: Sequence[float] = ()) -> list[Answer]:
    """An answer to each claim for each clock that has arms; `targets` are the first and the second accuracy to reach.

    A verdict needs three seeds, unless no seed can change the measure, and the whole bootstrap interval on one side of
    the claim's bar. A target that a run did not reach counts as reached at an unknown time after the run's end.
    """
    by_clock = {clock: [arm for arm in arms if arm.clock == clock] for clock in CLOCKS}
    return [
        _answer(claim, clock, of_clock, targets) for claim in claims for clock, of_clock in by_clock.items() if of_clock
    ]


class _Unknown(Exception):
    """A value that the runs do not have, and why."""


@dataclass(frozen=True)
class _Measured:
    """An arm's values by seed, in the order of the seeds; `exact` if no seed can change them."""

    label: str
    by_seed: dict[int, Bounds]
    exact: bool

    @property
    def mean(self) -> Bounds:
        return _mean(self.by_seed.values())

    @property
    def unreached(self) -> int:
        """In how many seeds the target was not reached."""
        return sum(value.high == math.inf for value in self.by_seed.values())

    def resampled(self) -> tuple[Floats, Floats]:
        """The means of resamples of the seeds, of what each value is at least and at most."""
        rows = resamples(list(self.by_seed))
        low, high = zip(*self.by_seed.values(), strict=True)
        return means(low, rows), means(high, rows)


@dataclass(frozen=True)
class _Comparison:
    """One arm against one other; no effect if neither reached the target, no interval if there are too few seeds."""

    left: _Measured
    right: _Measured
    effect: Bounds | None
    interval: Bounds | None
    verdict: Verdict
    reason: str


def _answer(claim: Claim, clock: str, arms: Sequence[Arm], targets: Sequence[float]) -> Answer:
    answer = partial(Answer, claim, clock, published_effect=published_effect(claim))
    try:
        target = _target(claim, targets)
        sides = [
            [each for selection in side for each in _selected(selection, arms, claim.measure, target)]
            for side in (claim.left, claim.right)
        ]
        compared = [_compare(claim, target, left, right) for left, right in product(*sides)]
        if len(compared) <= claim.exceptions:
            raise _Unknown("one comparison may fail, and there is only one")
    except _Unknown as missing:
        return answer(verdict="not decidable", reason=str(missing))
    deciding = sorted(compared, key=partial(_against, claim))[claim.exceptions]
    return answer(
        verdict=deciding.verdict,
        reason=_reason(compared, deciding),
        left=deciding.left.label,
        right=deciding.right.label,
        left_value=deciding.left.mean,
        right_value=deciding.right.mean,
        effect=deciding.effect,
        interval=deciding.interval,
    )


def _target(claim: Claim, targets: Sequence[float]) -> float | None:
    if claim.target is None:
        return None
    number = ("first", "second").index(claim.target)
    if number >= len(targets):
        raise _Unknown(f"there is no {claim.target} accuracy to reach")
    return targets[number]


def _against(claim: Claim, comparison: _Comparison) -> tuple[int, float]:
    """Orders comparisons, those that speak most against the claim first."""
    known = comparison.interval or comparison.effect
    return _WORST_FIRST.index(comparison.verdict), claim.margins(known).low if known else -math.inf


def _reason(compared: Sequence[_Comparison], deciding: _Comparison) -> str:
    if len(compared) == 1:
        return deciding.reason
    hold = sum(comparison.verdict == "supported" for comparison in compared)
    pair = f"{deciding.left.label} against {deciding.right.label}"
    return f"{hold} of {len(compared)} comparisons hold; {pair}: {deciding.reason}"


def _compare(claim: Claim, target: float | None, left: _Measured, right: _Measured) -> _Comparison:
    conclude = partial(_Comparison, left, right)
    if all(side.unreached == len(side.by_seed) for side in (left, right)):
        return conclude(None, None, "not decidable", f"neither reached {target}")
    effect = Bounds(*claim.compared.effects(left.mean, right.mean))
    exact = left.exact and right.exact
    seeds = min(len(left.by_seed), len(right.by_seed))
    if exact:
        known, verdict, reason = effect, *_verdict(claim, effect, "the effect, which no seed changes,")
    elif seeds < LEAST_SEEDS:
        known, verdict, reason = None, "not decidable", f"needs {LEAST_SEEDS} seeds and has {seeds}"
    else:
        known = _interval(claim, left, right)
        verdict, reason = _verdict(claim, known, "the interval over the seeds")
    late = [
        f"; {side.label} did not reach {target} in {side.unreached} of {len(side.by_seed)} seeds"
        for side in (left, right)
        if side.unreached
    ]
    return conclude(effect, known, verdict, "".join([reason, *late]))


def _interval(claim: Claim, left: _Measured, right: _Measured) -> Bounds:
    """What the seeds leave open. Arms of the same seeds share data order and jitter, and are resampled together."""
    least, most = claim.compared.effects(left.resampled(), right.resampled())
    return Bounds(interval(least)[0], interval(most)[1])


def _verdict(claim: Claim, known: Bounds, subject: str) -> tuple[Verdict, str]:
    margins = claim.margins(known)
    if margins.low > 0:
        return "supported", f"{subject} is {claim.bar}"
    if margins.high <= 0:
        return "not supported", f"{subject} is not {claim.bar}"
    return "not decidable", f"{subject} is only partly {claim.bar}"


def _selected(selection: Selection, arms: Sequence[Arm], measure: MeasureName, target: float | None) -> list[_Measured]:
    paradigm = selection.removesuffix("_average")
    measured = [_measured(arm, measure, target) for arm in arms if arm.paradigm == paradigm]
    if not measured:
        raise _Unknown(f"there are no runs of {paradigm.upper()} on this clock")
    return measured if selection == paradigm else [_average(paradigm, measured)]


def _average(paradigm: str, measured: Sequence[_Measured]) -> _Measured:
    """The mean of several arms, seed by seed."""
    shared = set.intersection(*(set(each.by_seed) for each in measured))
    if not shared:
        raise _Unknown(f"no seed has runs of every {paradigm.upper()}")
    by_seed = {seed: _mean([each.by_seed[seed] for each in measured]) for seed in sorted(shared)}
    label = f"average of {len(measured)} {paradigm.upper()}"
    return _Measured(label, by_seed, all(each.exact for each in measured))


def _measured(arm: Arm, measure: MeasureName, target: float | None) -> _Measured:
    values: dict[int, list[Bounds]] = {}
    for run in arm.runs:
        try:
            value = _value(run, measure, target)
        except _Unknown as missing:
            raise _Unknown(f"{arm.label} {missing}") from None
        values.setdefault(int(_summary(run)["seed"]), []).append(value)
    by_seed = {seed: _mean(values[seed]) for seed in sorted(values)}
    return _Measured(arm.label, by_seed, measure in _TIMING and all(map(_is_exact, arm.runs)))


def _mean(values: Iterable[Bounds]) -> Bounds:
    low, high = zip(*values, strict=True)
    return Bounds(float(np.mean(low)), float(np.mean(high)))


def _value(run: RunRecords, measure: MeasureName, target: float | None) -> Bounds:
    """A run's value. Raises _Unknown if there is none, or none that a ratio could be formed with."""
    value = _time_to(run, target) if target is not None else _number(run, measure)
    if value is None or (MEASURES[measure].kind != "accuracy" and value.low <= 0):
        raise _Unknown(f"has no {measure.replace('_', ' ')}")
    return value


def _number(run: RunRecords, measure: MeasureName) -> Bounds | None:
    summary = _summary(run)
    if measure == "tail_accuracy":
        value = tail_accuracy(run.evaluations)
    elif measure == "throughput":
        value = throughput(run.pushes)
    elif measure == "updates_per_iteration":
        value = updates_per_iteration(run.pushes, run.updates)
    elif measure == "rate_drop_fraction":
        value = next(iter(rate_drops(run.updates, summary["duration_s"])), None)
    else:
        value = summary["duration_s" if measure == "duration" else measure]
    return None if value is None else Bounds.exactly(value)


def _time_to(run: RunRecords, target: float) -> Bounds | None:
    if run.evaluations.empty:
        return None
    reached = time_to(run.evaluations, target)
    return Bounds.exactly(reached) if reached is not None else Bounds(_summary(run)["duration_s"], math.inf)


def _is_exact(run: RunRecords) -> bool:
    """Whether the run's timing would be the same with any other seed."""
    if _summary(run)["engine"] != "simulated" or run.config["stop"]["target_accuracy"] is not None:
        return False
    return not ClusterLayout.model_validate(run.config["cluster"]).has_jitter


def _summary(run: RunRecords) -> dict[str, Any]:
    return run.summary or {}
