"""Arms: which runs belong together, what each arm is called, and which values a condition means."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssp_bench.analysis.arms import Condition, arms_of, fingerprint, flat, settings_of, shown
from dssp_bench.records.reader import RunRecords


def run(paradigm: str, /, seed: int = 1, folder: str = "", accuracy: float | None = None, **changes: Any) -> RunRecords:
    """A run that is only its configuration and summary; `paradigm` is written as in `ssp threshold=3`."""
    kind, *options = paradigm.split()
    config: dict[str, Any] = {
        "paradigm": {"_target_": kind, **{key: _value(value) for key, _, value in (o.partition("=") for o in options)}},
        "optimizer": {"learning_rate": 0.1},
        "seed": seed,
        "choices": {"paradigm": kind, **changes.pop("choices", {})},
    }
    made = RunRecords(Path(folder or f"{paradigm} {seed}"))
    made.config = {**config, **changes}
    made.summary = {"paradigm": kind, "final_accuracy": accuracy}
    return made


def _value(typed: str) -> Any:
    return int(typed) if typed.isdigit() else typed


def labels(runs: Sequence[RunRecords]) -> list[str]:
    return [arm.label for arm in arms_of(runs)]


# --- who belongs together ---------------------------------------------------------------------------------------------


def test_runs_that_differ_in_nothing_but_their_seed_are_one_arm_in_the_order_of_their_seeds() -> None:
    [arm] = arms_of([run("bsp", seed) for seed in (3, 1, 2)])
    assert [one.config["seed"] for one in arm.runs] == [1, 2, 3]
    assert (arm.label, arm.paradigm) == ("BSP", "bsp")


def test_the_same_seed_twice_is_two_runs_of_one_arm() -> None:
    [arm] = arms_of([run("bsp", 1, "later"), run("bsp", 1, "earlier")])
    assert [one.folder.name for one in arm.runs] == ["earlier", "later"]


def test_where_a_run_lies_and_how_it_is_called_and_tracked_does_not_matter() -> None:
    here = run("bsp", name="mine", runs_dir="/here", tracking={"mlflow": True}, dataset={"root": "/data", "name": "x"})
    there = run("bsp", 2, name=None, runs_dir="/there", tracking={"mlflow": False}, dataset={"root": None, "name": "x"})
    assert len(arms_of([here, there])) == 1


def test_six_and_six_point_zero_are_the_same_setting() -> None:
    assert len(arms_of([run("bsp", 1, batch_size=6), run("bsp", 2, batch_size=6.0)])) == 1
    assert len(arms_of([run("bsp", 1, batch_size=6), run("bsp", 2, batch_size=6.5)])) == 2


@pytest.mark.parametrize(
    ("accuracies", "middle"),
    [([0.3, 0.1, 0.2], 0.2), ([0.4, 0.1, 0.3, 0.2], 0.2), ([0.5], 0.5), ([None, 0.3, 0.1], 0.1)],
)
def test_the_median_run_is_the_lower_one_of_two_and_no_accuracy_is_the_lowest(
    accuracies: list[float | None], middle: float
) -> None:
    [arm] = arms_of([run("bsp", seed, accuracy=accuracy) for seed, accuracy in enumerate(accuracies)])
    assert (arm.median_run.summary or {})["final_accuracy"] == middle


# --- names and order --------------------------------------------------------------------------------------------------


def test_a_label_is_the_paradigm_and_its_whole_numbers() -> None:
    runs = [run("dssp lower=3 upper=15 variant=bounded"), run("ssp threshold=6"), run("asp"), run("bsp")]
    assert labels(runs) == ["BSP", "ASP", "SSP 6", "DSSP 3-15"]


def test_an_option_is_named_where_it_differs() -> None:
    runs = [run("dssp lower=3 upper=15 variant=bounded"), run("dssp lower=3 upper=15 variant=literal")]
    assert labels(runs) == ["DSSP 3-15 bounded", "DSSP 3-15 literal"]


def test_a_key_is_named_as_briefly_as_it_can_be_and_presets_by_their_file() -> None:
    assert labels([run("bsp", optimizer={"learning_rate": rate}) for rate in (0.1, 0.02)]) == [
        "BSP learning_rate=0.02",
        "BSP learning_rate=0.1",
    ]
    models = [run("bsp", model={"_target_": name}, choices={"model": name}) for name in ("mlp", "cnn")]
    assert labels(models) == ["BSP cnn", "BSP mlp"]


def test_thresholds_and_other_numbers_are_in_the_order_of_their_size() -> None:
    assert labels([run(f"ssp threshold={threshold}") for threshold in (12, 3, 9)]) == ["SSP 3", "SSP 9", "SSP 12"]
    rates = [1e16, 10, 5, 0.02, 0.1]
    assert labels([run("asp", optimizer={"learning_rate": rate}) for rate in rates]) == [
        f"ASP learning_rate={shown(rate)}" for rate in sorted(rates)
    ]


def test_a_paradigm_of_somebody_elses_comes_after_the_four() -> None:
    assert labels([run("elastic"), run("dssp lower=1 upper=2"), run("bsp")]) == ["BSP", "DSSP 1-2", "ELASTIC"]


def test_arms_their_names_and_their_order_do_not_depend_on_the_order_of_the_runs() -> None:
    runs = [
        run("ssp threshold=3 held_gradients=merge_sum"),
        run("dssp lower=3 upper=15 variant=literal held_gradients=apply"),
        run("dssp lower=3 upper=15 variant=bounded held_gradients=merge_sum"),
        run("own"),  # and another class of that name
        run("own", paradigm={"_target_": "other.Own"}),
    ]
    made = {tuple((arm.label, arm.runs) for arm in arms_of(order)) for order in permutations(runs)}
    assert len(made) == 1


def test_arms_that_nothing_else_tells_apart_are_numbered() -> None:
    assert labels([run("own"), run("own", paradigm={"_target_": "other.Own"})]) == ["OWN", "OWN (2)"]


def test_an_arm_knows_the_clock_of_its_learning_rate() -> None:
    arms = arms_of([run("bsp", schedule={"clock": clock}) for clock in ("updates", "samples")])
    assert [(arm.label, arm.clock) for arm in arms] == [
        ("BSP clock=samples", "samples"),
        ("BSP clock=updates", "updates"),
    ]


# --- values as one types them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (3.0, "3"),
        (0.05, "0.05"),
        (1e-7, "1e-07"),
        (float("inf"), "inf"),
        ([200, 250.0], "[200,250]"),
        ("cuda:0", "cuda:0"),
    ],
)
def test_a_value_is_shown_as_one_would_type_it(value: Any, text: str) -> None:
    assert shown(value) == text


@given(st.integers(-(10**14), 10**14))
def test_equal_numbers_look_the_same(number: int) -> None:
    assert shown(float(number)) == shown(number)
    assert Condition("key", (shown(number),)).holds(float(number))


@given(st.floats(allow_nan=False))
def test_what_is_shown_of_a_number_is_that_number(number: float) -> None:
    assert float(shown(number)) == number
    assert Condition("key", (repr(number),)).holds(number)


@pytest.mark.parametrize(
    ("typed", "holds", "does_not"),
    [
        ("key=3", [3, 3.0, "3"], [4, 3.5, None, True]),
        ("key=0.050", [0.05], [0.5]),
        ("key=1e2,7", [100, 7], [1, 2]),
        ("key=null", [None], ["", 0, False]),
        ("key=True", [True], [False, 1]),
        ("key=[200,250.0]", [[200, 250]], [[200], 200]),
        ("key=[1,2],[3]", [[1, 2], [3]], [[1, 2, 3]]),
        ("key=", [""], [None]),
        ("a.b_1.0.c=x", ["x"], ["X"]),
    ],
)
def test_a_condition_holds_for_each_of_its_values_however_they_are_typed(
    typed: str, holds: list[Any], does_not: list[Any]
) -> None:
    condition = Condition.parsed(typed)
    assert condition is not None
    assert [value for value in [*holds, *does_not] if condition.holds(value)] == holds


@pytest.mark.parametrize("typed", ["runs/mine", "bsp", "./a=b", "=3", "3=4", "a b=c"])
def test_what_is_no_key_and_value_is_no_condition(typed: str) -> None:
    assert Condition.parsed(typed) is None


def test_keys_are_those_of_the_command_line() -> None:
    config = {"cluster": {"workers": [{"slowdown": 1}, {"slowdown": 2}], "events": []}, "seed": 1, "stop": {}}
    assert flat(config) == {
        "cluster.workers.0.slowdown": 1,
        "cluster.workers.1.slowdown": 2,
        "cluster.events": [],
        "seed": 1,
        "stop": {},
    }
    assert "seed" not in settings_of(config)


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_settings_seed_and_version_and_of_nothing_else() -> None:
    config = {"paradigm": {"_target_": "bsp"}, "batch_size": 8, "seed": 1, "runs_dir": "/here"}
    same = {"runs_dir": "/there", "seed": 1, "batch_size": 8.0, "paradigm": {"_target_": "bsp"}, "name": "mine"}
    mine = fingerprint(config, "1.0")
    assert fingerprint(same, "1.0") == mine
    others = [fingerprint({**config, key: 2}, "1.0") for key in ("seed", "batch_size")]
    assert len({mine, fingerprint(config, "1.1"), *others}) == 4
