"""The claims: well formed, complete, and in agreement with the paper's own numbers, or marked where they are not."""

import math
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from dssp_bench.reference.claims import Claim, Experiment, claims, published_targets
from dssp_bench.reference.effects import published_effect
from dssp_bench.reference.measures import MEASURES, Bounds, MeasureName
from dssp_bench.reference.published import published_curve

GOOD: dict[str, Any] = {
    "id": "a-claim", "by": "authors", "where": "Fig. 4", "experiment": "fig4", "says": "DSSP is done before SSP.",
    "measure": "duration", "left": "dssp", "direction": "less", "right": "ssp",
}  # fmt: skip


def claim(**changes: Any) -> Claim:
    return Claim.model_validate(GOOD | changes)


def test_every_claim_has_a_name_of_its_own() -> None:
    names = [each.id for each in claims()]
    assert len(set(names)) == len(names) > 40


@pytest.mark.parametrize("experiment", get_args(Experiment))
def test_every_experiment_has_claims_and_two_targets(experiment: str) -> None:
    assert {each.experiment for each in claims(experiment)} == {experiment}
    first, second = published_targets(experiment)
    assert 0 < first < second < 1


@pytest.mark.parametrize("each", claims(), ids=lambda each: each.id)
def test_the_papers_own_numbers_agree_with_a_claim_unless_it_says_otherwise(each: Claim) -> None:
    effect = published_effect(each)
    assert effect is not None
    assert (each.margins(effect).low > 0) == (each.contradicted is None)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("table1-dssp-before-bsp-067", "2.04"),
        ("table1-dssp-before-ssp-067", "1.84"),
        ("table1-dssp-before-ssp-068", "2.27"),
        ("table1-dssp-like-asp-067", "0.99"),
        ("table1-dssp-before-bsp-068", "at least 2.94"),
    ],
)
def test_published_effects_are_the_speed_ups_of_table_1(name: str, printed: str) -> None:
    (found,) = [each for each in claims("table1") if each.id == name]
    assert f"{published_effect(found):.2f}" == printed


def test_against_every_ssp_the_decisive_published_effect_is_that_of_the_hardest_one() -> None:
    against_all = claim(experiment="table1", measure="time_to_target", target="second")
    assert published_effect(against_all) == pytest.approx((6908.2 / 3046.3,) * 2)
    but_one = claim(experiment="table1", measure="time_to_target", target="second", quantifier="all_but_one")
    assert published_effect(but_one) == pytest.approx((7255.6 / 3046.3,) * 2)


def test_curves_of_one_panel_are_compared_where_there_is_one() -> None:
    higher = claim(experiment="fig3a", measure="final_accuracy", direction="greater")
    drawn = [published_curve("fig3b", "dssp"), published_curve("fig3b", "ssp", 7)]
    assert published_effect(higher) == pytest.approx((drawn[0].accuracy[-1] - drawn[1].accuracy[-1],) * 2)


def test_what_the_paper_does_not_show_has_no_published_effect() -> None:
    assert published_effect(claim(right="ssp_average")) is None  # Fig. 4 draws no average, and Table I has none
    in_table = {"experiment": "table1", "measure": "time_to_target", "target": "first"}
    assert published_effect(claim(right="ssp_average", **in_table)) is None
    assert published_effect(claim(experiment="fig3a", measure="rate_drop_fraction", right="bsp")) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"measure": "time_to_target"}, "needs a target"),
        ({"target": "first"}, "needs a target"),
        ({"direction": "similar"}, "needs a tolerance"),
        ({"tolerance": 0.1}, "needs a tolerance"),
        ({"direction": "similar", "tolerance": 0.1, "least": 1.1}, "no least effect"),
        ({"right": ["ssp", "dssp"]}, "compared with itself"),
        ({"right": "ssbsp"}, "'ssp_average'"),
        ({"right": []}, "at least 1 item"),
        ({"measure": "speed"}, "'duration'"),
        ({"experiment": "fig5"}, "'fig4'"),
        ({"quantifier": "most"}, "'all_but_one'"),
        ({"wehre": "Fig. 4"}, "Extra inputs"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        claim(**changes)


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "time_to_target"])
@pytest.mark.parametrize("direction", ["less", "greater"])
def test_left_and_right_swapped_is_the_same_claim_in_the_other_direction(measure: MeasureName, direction: str) -> None:
    opposite = {"less": "greater", "greater": "less"}[direction]
    here = claim(measure=measure, direction=direction)
    there = claim(measure=measure, direction=opposite, left="ssp", right="dssp")
    for left, right in ((0.2, 0.7), (0.7, 0.2), (0.5, 0.5)):
        effects = here.compared.effect(left, right), there.compared.effect(right, left)
        assert here.margin(effects[0]) == pytest.approx(there.margin(effects[1]))
        assert (here.margin(effects[0]) > 0) == ((left < right) if direction == "less" else (left > right))


def test_the_bar_says_what_the_effect_must_be() -> None:
    assert claim().bar == "above 1.001"
    assert claim(measure="time_to_target", target="first").bar == "above 1"
    assert claim(direction="greater", least=1.25).bar == "below 0.8"
    assert claim(measure="throughput", direction="greater", least=1.25).bar == "above 1.25"
    assert claim(measure="tail_accuracy").bar == "below 0"
    assert claim(measure="tail_accuracy", direction="greater", least=0.01).bar == "above 0.01"
    assert claim(direction="similar", tolerance=0.25).bar == "between 0.8 and 1.25"
    assert claim(measure="tail_accuracy", direction="similar", tolerance=0.01).bar == "between -0.01 and 0.01"


def test_similar_is_as_far_as_the_tolerance_in_both_directions() -> None:
    similar = claim(direction="similar", tolerance=0.1)
    assert similar.margins(Bounds(0.92, 1.09)).low > 0
    assert similar.margins(Bounds(0.90, 1.05)).low < 0 < similar.margins(Bounds(0.90, 1.05)).high
    assert similar.margins(Bounds(0.5, 2.0)).high > 0  # it may be similar
    assert similar.margins(Bounds(1.2, 2.0)).high < 0


def test_what_is_only_bounded_is_written_so() -> None:
    assert f"{Bounds.exactly(1.904):.2f}" == "1.90"
    assert f"{Bounds(1.85, 2.01):.2f}" == "1.85 to 2.01"
    assert f"{Bounds(1.9, math.inf):.1f}" == "at least 1.9"


def test_the_effect_of_a_time_that_was_never_seen_is_bounded() -> None:
    never = Bounds(100.0, math.inf)
    time = MEASURES["time_to_target"]
    assert time.effects(Bounds.exactly(50.0), never) == (2.0, math.inf)
    assert time.effects(never, Bounds.exactly(50.0)) == (0.0, 0.5)
