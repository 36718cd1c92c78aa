"""Every verdict, and why: small made-up runs against claims of the kinds that the paper makes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssp_bench.analysis.arms import Arm
from dssp_bench.analysis.claims import Answer, answers
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.records.reader import RunRecords
from dssp_bench.reference.claims import Claim
from tests.records import fake_run

FINISHES_FIRST = Claim.model_validate(
    {
        "id": "dssp-finishes-first", "by": "authors", "where": "Fig. 4", "experiment": "fig4",
        "says": "DSSP is faster.", "measure": "duration", "left": "dssp", "direction": "less", "right": "ssp",
    }
)  # fmt: skip
REACHES_FIRST = FINISHES_FIRST.model_copy(update={"measure": "time_to_target", "target": "first"})
HIGHER = FINISHES_FIRST.model_copy(update={"measure": "tail_accuracy", "direction": "greater"})
TARGET = 0.7


def a_run(seed: int, duration: float, accuracies: Mapping[float, float] | None = None, **config: Any) -> RunRecords:
    """A run of the local engine that says so much and no more; `config` may say that time was virtual."""
    run = RunRecords(Path("in memory"))
    accuracies = accuracies or {}
    vars(run)["summary"] = {
        "seed": seed, "duration_s": duration, "engine": config.pop("engine", "local"),
        "final_accuracy": [None, *accuracies.values()][-1], "best_accuracy": max(accuracies.values(), default=None),
    }  # fmt: skip
    vars(run)["config"] = {"cluster": {"workers": [{}, {}]}, "stop": {"target_accuracy": None}, **config}
    rows = [(at, 0, accuracy) for at, accuracy in accuracies.items()]
    vars(run)["evaluations"] = pd.DataFrame(rows, columns=["at_s", "version", "accuracy"])
    return run


def an_arm(label: str, *runs: RunRecords, clock: str = "updates") -> Arm:
    return Arm(label, label.split()[0].lower(), {"schedule.clock": clock}, {}, runs)


def lasting(label: str, *durations: float, first_seed: int = 1, **config: Any) -> Arm:
    runs = [a_run(seed, duration, **config) for seed, duration in enumerate(durations, first_seed)]
    return an_arm(label, *runs)


def reaching(label: str, *moments: float | None) -> Arm:
    """Runs of 100 s in which the accuracy reaches the target at a moment, or never."""
    curves = [{0.0: 0.1, 100.0: 0.65} if at is None else {0.0: 0.1, at: 0.7, 100.0: 0.65} for at in moments]
    return an_arm(label, *(a_run(seed, 100.0, curve) for seed, curve in enumerate(curves, 1)))


def ending(label: str, *accuracies: float) -> Arm:
    return an_arm(label, *(a_run(seed, 100.0, {0.0: 0.1, 100.0: a}) for seed, a in enumerate(accuracies, 1)))


def answer(claim: Claim, *arms: Arm, targets: Sequence[float] = (TARGET,)) -> Answer:
    (only,) = answers([claim], arms, targets)
    return only


def test_supported_if_every_seed_says_so() -> None:
    said = answer(FINISHES_FIRST, lasting("DSSP", 50, 40, 60), lasting("SSP 3", 100, 100, 90))
    assert said.verdict == "supported"
    assert said.reason == "the interval over the seeds is above 1.001"
    assert said.left_value == (50.0, 50.0)
    assert said.right_value == pytest.approx((290 / 3,) * 2)
    assert said.effect == pytest.approx((29 / 15,) * 2)
    assert said.interval == pytest.approx((1.5, 2.5))  # the seed that shows least, and most
    assert (said.unit, said.value_unit) == ("times as fast", "s")


def test_not_supported_if_every_seed_says_the_opposite() -> None:
    said = answer(FINISHES_FIRST, lasting("DSSP", 110, 105, 120), lasting("SSP 3", 100, 100, 90))
    assert (said.verdict, said.reason) == ("not supported", "the interval over the seeds is not above 1.001")


def test_not_decidable_if_the_seeds_disagree() -> None:
    said = answer(FINISHES_FIRST, lasting("DSSP", 50, 40, 110), lasting("SSP 3", 100, 100, 100))
    assert (said.verdict, said.reason) == ("not decidable", "the interval over the seeds is only partly above 1.001")


def test_a_gain_below_the_least_effect_does_not_support_the_claim() -> None:
    much_faster = FINISHES_FIRST.model_copy(update={"least": 1.25})
    said = answer(much_faster, lasting("DSSP", 90, 85, 95), lasting("SSP 3", 100, 100, 100))
    assert (said.verdict, said.reason) == ("not supported", "the interval over the seeds is not above 1.25")


def test_two_seeds_give_an_effect_but_no_verdict() -> None:
    said = answer(FINISHES_FIRST, lasting("DSSP", 50, 50), lasting("SSP 3", 100, 100, 100))
    assert (said.verdict, said.reason) == ("not decidable", "needs 3 seeds and has 2")
    assert (said.effect, said.interval) == ((2.0, 2.0), None)


def test_one_run_in_virtual_time_without_jitter_decides_about_time() -> None:
    arms = lasting("DSSP", 50, engine="simulated"), lasting("SSP 3", 100, engine="simulated")
    said = answer(FINISHES_FIRST, *arms)
    assert (said.verdict, said.interval) == ("supported", (2.0, 2.0))
    assert said.reason == "the effect, which no seed changes, is above 1.001"
    assert answer(FINISHES_FIRST, arms[0], lasting("SSP 3", 100)).verdict == "not decidable"  # not on the other side


def test_an_effect_of_where_runs_begin_and_end_is_none() -> None:
    arms = lasting("DSSP", 1000, engine="simulated"), lasting("SSP 3", 1000.5, engine="simulated")
    assert answer(FINISHES_FIRST, *arms).verdict == "not supported"


@pytest.mark.parametrize(
    "config",
    [
        {"cluster": {"workers": [{}, {"jitter": "shared"}]}},
        {"stop": {"target_accuracy": 0.9}},
        {"engine": "replay"},
    ],
)
def test_one_run_does_not_decide_where_a_seed_could_change_the_time(config: dict[str, Any]) -> None:
    config = {"engine": "simulated"} | config
    said = answer(FINISHES_FIRST, lasting("DSSP", 50, **config), lasting("SSP 3", 100, **config))
    assert (said.verdict, said.reason) == ("not decidable", "needs 3 seeds and has 1")


def test_one_run_never_decides_about_accuracy() -> None:
    arms = [an_arm(name, a_run(1, 100, {9.0: a}, engine="simulated")) for name, a in (("DSSP", 0.7), ("SSP 3", 0.6))]
    assert answer(HIGHER, *arms).reason == "needs 3 seeds and has 1"


def test_a_claim_about_a_paradigm_that_did_not_run_is_open() -> None:
    said = answer(FINISHES_FIRST, lasting("DSSP", 50, 50, 50))
    assert (said.verdict, said.reason) == ("not decidable", "there are no runs of SSP on this clock")
    assert said.effect is said.interval is said.left_value is None


def test_a_claim_about_a_target_that_nobody_named_is_open() -> None:
    said = answer(REACHES_FIRST, reaching("DSSP", 10, 10, 10), reaching("SSP 3", 20, 20, 20), targets=())
    assert (said.verdict, said.reason) == ("not decidable", "there is no first accuracy to reach")


@pytest.mark.parametrize("claim", [HIGHER, REACHES_FIRST, HIGHER.model_copy(update={"measure": "best_accuracy"})])
def test_timing_alone_says_nothing_about_accuracy(claim: Claim) -> None:
    said = answer(claim, lasting("DSSP", 50, 50, 50), lasting("SSP 3", 100, 100, 100))
    assert said.verdict == "not decidable"
    assert said.reason == f"DSSP has no {claim.measure.replace('_', ' ')}"


def test_what_was_never_reached_took_at_least_the_whole_run() -> None:
    said = answer(REACHES_FIRST, reaching("DSSP", 20, 25, 30), reaching("SSP 3", None, 90, None))
    assert said.verdict == "supported"
    assert said.effect == pytest.approx((290 / 75, math.inf))
    assert said.right_value == pytest.approx((290 / 3, math.inf))
    assert f"{said.effect:.1f}, {said.interval:.1f}" == "at least 3.9, at least 3.3"
    assert said.reason.endswith("is above 1; SSP 3 did not reach 0.7 in 2 of 3 seeds")


def test_a_seed_that_missed_the_target_keeps_the_claim_open() -> None:
    said = answer(REACHES_FIRST, reaching("DSSP", 20, None, 30), reaching("SSP 3", 90, 95, 90))
    assert said.verdict == "not decidable"
    assert said.reason.endswith("only partly above 1; DSSP did not reach 0.7 in 1 of 3 seeds")


def test_missing_a_target_that_the_other_reaches_refutes_the_claim() -> None:
    said = answer(REACHES_FIRST, reaching("DSSP", None, None, None), reaching("SSP 3", 90, 95, 90))
    assert said.verdict == "not supported"
    assert said.effect == pytest.approx((0.0, 275 / 300))


def test_a_target_that_neither_reached_decides_nothing() -> None:
    said = answer(REACHES_FIRST, reaching("DSSP", None, None, None), reaching("SSP 3", None, None, None))
    assert (said.verdict, said.reason, said.effect) == ("not decidable", "neither reached 0.7", None)


def test_a_target_that_was_there_before_training_has_no_time() -> None:
    said = answer(REACHES_FIRST, reaching("DSSP", 10, 10, 10), reaching("SSP 3", 20, 20, 20), targets=(0.05,))
    assert (said.verdict, said.reason) == ("not decidable", "DSSP has no time to target")


def test_one_arm_that_speaks_against_it_refutes_a_claim_about_all() -> None:
    ssp = lasting("SSP 3", 100, 100, 100), lasting("SSP 6", 40, 40, 40), lasting("SSP 15", 100, 20, 100)
    said = answer(FINISHES_FIRST, lasting("DSSP", 50, 50, 50), *ssp)
    assert (said.verdict, said.left, said.right) == ("not supported", "DSSP", "SSP 6")
    assert said.reason == "1 of 3 comparisons hold; DSSP against SSP 6: the interval over the seeds is not above 1.001"
    assert answer(FINISHES_FIRST, lasting("DSSP", 50, 50, 50), ssp[0], ssp[2]).verdict == "not decidable"


def test_a_claim_that_holds_for_all_shows_the_arm_for_which_it_holds_least() -> None:
    ssp = lasting("SSP 3", 100, 100, 100), lasting("SSP 6", 60, 60, 60), lasting("SSP 15", 90, 90, 90)
    said = answer(FINISHES_FIRST, lasting("DSSP", 50, 50, 50), *ssp)
    assert (said.verdict, said.right, said.effect) == ("supported", "SSP 6", (1.2, 1.2))


def test_all_but_one_allows_one_exception_and_not_two() -> None:
    but_one = FINISHES_FIRST.model_copy(update={"quantifier": "all_but_one"})
    dssp, slow, fast = lasting("DSSP", 50, 50, 50), (100.0, 90.0, 95.0), (40.0, 40.0, 41.0)
    one = answer(but_one, dssp, lasting("SSP 3", *slow), lasting("SSP 6", *fast), lasting("SSP 15", *slow))
    two = answer(but_one, dssp, lasting("SSP 3", *fast), lasting("SSP 6", *fast), lasting("SSP 15", *slow))
    assert (one.verdict, two.verdict) == ("supported", "not supported")
    assert one.reason.startswith("2 of 3 comparisons hold; DSSP against SSP")
    alone = answer(but_one, dssp, lasting("SSP 3", *slow))
    assert (alone.verdict, alone.reason) == ("not decidable", "one comparison may fail, and there is only one")


def test_the_average_ssp_is_the_mean_over_its_thresholds_seed_by_seed() -> None:
    average = FINISHES_FIRST.model_copy(update={"right": ("ssp_average",)})
    ssp = lasting("SSP 3", 100, 110, 120), lasting("SSP 6", 60, 70, 80, 999)
    said = answer(average, lasting("DSSP", 40, 45, 50), *ssp)
    assert (said.right, said.right_value) == ("average of 2 SSP", (90.0, 90.0))
    assert said.interval == (2.0, 2.0)  # 80 / 40, 90 / 45, 100 / 50
    strangers = answer(average, lasting("DSSP", 40), lasting("SSP 3", 100), lasting("SSP 6", 60, first_seed=7))
    assert strangers.reason == "no seed has runs of every SSP"


def test_an_accuracy_is_compared_by_its_difference() -> None:
    said = answer(HIGHER, ending("DSSP", 0.70, 0.72, 0.74), ending("SSP 3", 0.60, 0.65, 0.65))
    assert said.verdict == "supported"
    assert said.effect == pytest.approx((0.26 / 3,) * 2)
    assert said.interval == pytest.approx((0.07, 0.10))
    assert said.unit == "accuracy"


def test_similar_needs_the_whole_interval_within_the_tolerance() -> None:
    alike = FINISHES_FIRST.model_copy(update={"direction": "similar", "tolerance": 0.1})
    ssp = lasting("SSP 3", 100, 100, 100)
    assert answer(alike, lasting("DSSP", 97, 100, 104), ssp).verdict == "supported"
    assert answer(alike, lasting("DSSP", 50, 60, 70), ssp).verdict == "not supported"
    assert answer(alike, lasting("DSSP", 100, 70, 130), ssp).verdict == "not decidable"
    assert answer(alike, lasting("DSSP", 100, 70, 130), ssp).reason.endswith("only partly between 0.9091 and 1.1")


def test_the_luck_of_a_seed_cancels_where_both_sides_have_it() -> None:
    dssp, ssp = (90.0, 180.0, 450.0), (100.0, 200.0, 500.0)
    assert answer(FINISHES_FIRST, lasting("DSSP", *dssp), lasting("SSP 3", *ssp)).verdict == "supported"
    others = answer(FINISHES_FIRST, lasting("DSSP", *dssp), lasting("SSP 3", *ssp, first_seed=11))
    assert others.verdict == "not decidable"
    assert others.interval is not None
    assert others.interval.low < 0.5 < 2 < others.interval.high


def test_runs_that_repeat_a_seed_count_once() -> None:
    repeated = an_arm("DSSP", a_run(1, 50.0), a_run(1, 60.0), a_run(2, 55.0))
    said = answer(FINISHES_FIRST, repeated, lasting("SSP 3", 110, 110))
    assert (said.effect, said.reason) == ((2.0, 2.0), "needs 3 seeds and has 2")


def test_each_clock_is_answered_from_its_own_runs() -> None:
    as_published = [lasting("DSSP", 50, 50, 50), lasting("SSP 3", 100, 100, 100)]
    fair = [replace(arm, settings={"schedule.clock": "samples"}) for arm in (lasting("DSSP", 9, 9, 9), as_published[0])]
    said = answers([FINISHES_FIRST], [*fair, *as_published])
    assert [(each.clock, each.verdict) for each in said] == [("updates", "supported"), ("samples", "not decidable")]
    assert said[1].reason == "there are no runs of SSP on this clock"
    assert answers([FINISHES_FIRST], as_published) == said[:1]


def test_the_published_effect_stands_beside_ours() -> None:
    against_bsp = FINISHES_FIRST.model_copy(update={"right": ("bsp",)})
    assert answer(against_bsp, lasting("DSSP", 1)).published_effect == pytest.approx((8955 / 8918,) * 2)


def test_updates_and_learning_rates_are_read_from_the_records(tmp_path: Path) -> None:
    arms = []
    for paradigm, drop in ((BSP(), 0.8), (ASP(), 0.2)):
        name = type(paradigm).__name__
        run = fake_run.finished(tmp_path / name, paradigm, slowdowns=(1.0, 1.0, 1.0, 1.0), pushes=400)
        vars(run)["summary"] = {"seed": 1, "duration_s": 100.0, "engine": "simulated"}
        vars(run)["config"] = {"cluster": {"workers": [{}] * 4}, "stop": {"target_accuracy": None}}
        run.updates.loc[run.updates["at_s"] >= 100 * drop, "learning_rate"] = 0.01
        arms.append(an_arm(name, run))
    both: dict[str, Any] = {"left": ("asp",), "right": ("bsp",)}
    updates = FINISHES_FIRST.model_copy(
        update={"measure": "updates_per_iteration", "direction": "greater", "least": 2, **both}
    )
    said = answer(updates, *arms)
    assert (said.verdict, said.unit) == ("supported", "times as many")
    assert said.effect == pytest.approx((4.0, 4.0), rel=0.05)
    alike = {"measure": "throughput", "direction": "similar", "tolerance": 0.05}
    assert answer(FINISHES_FIRST.model_copy(update=alike | both), *arms).verdict == "supported"
    drops = answer(FINISHES_FIRST.model_copy(update={"measure": "rate_drop_fraction", **both}), *arms)
    assert drops.verdict == "supported"
    assert drops.effect == pytest.approx((4.0, 4.0))


times = st.lists(st.floats(1.0, 1000.0), min_size=3, max_size=5)


@given(left=times, right=times, least=st.none() | st.floats(1.05, 2.0))
def test_swapping_left_and_right_inverts_the_effect_and_turns_the_claim_round(
    left: list[float], right: list[float], least: float | None
) -> None:
    arms = lasting("DSSP", *left), lasting("SSP 3", *right)
    here = FINISHES_FIRST.model_copy(update={"least": least})
    there = here.model_copy(update={"left": here.right, "right": here.left, "direction": "greater"})
    said, swapped = answer(here, *arms), answer(there, *arms)
    assert said.verdict == swapped.verdict
    assert said.effect is not None
    assert said.interval is not None
    assert swapped.effect == pytest.approx((1 / said.effect.high, 1 / said.effect.low))
    assert swapped.interval == pytest.approx((1 / said.interval.high, 1 / said.interval.low))


@given(left=times, right=times)
def test_where_a_claim_is_supported_its_opposite_is_not(left: list[float], right: list[float]) -> None:
    arms = lasting("DSSP", *left), lasting("SSP 3", *right)
    slower = FINISHES_FIRST.model_copy(update={"direction": "greater"})
    verdicts = sorted(answer(claim, *arms).verdict for claim in (FINISHES_FIRST, slower))
    assert ("supported" in verdicts) == (verdicts == ["not supported", "supported"])
