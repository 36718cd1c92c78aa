"""Arms beside each other: medians over seeds, times that never came, who is compared with whom, and what is said."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssp_bench.analysis.arms import Arm, arms_of
from dssp_bench.analysis.comparison import Comparison, Spread, Table, compare, default_targets
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.records.reader import RunRecords
from tests.plots import fake_arms

SUMMARY: dict[str, Any] = {
    "engine": "simulated", "model": "mlp", "dataset": "digits", "learning_rate_clock": "samples", "duration_s": 10.0,
    "pushes_per_s": 4.0, "samples_per_s": 32.0, "updates": 40, "final_loss": 0.1, "max_lead": 1, "mean_staleness": 0.5,
    "p99_staleness": 1, "waiting_share": {"0": 0.25, "1": 0.0},
}  # fmt: skip
ENVIRONMENT = {
    "packages": {"dssp-bench": "1.0"},
    "hardware": {"cores": 2, "cpu": "fast", "gpus": []},
}


def run(
    accuracies: Sequence[tuple[float, float]] = ((0.0, 0.1), (4.0, 0.9)), seed: int = 1, **summary: Any
) -> RunRecords:
    """A run with these accuracies at these seconds, and no pushes."""
    made = RunRecords(Path(f"run-{seed}"))
    best = max((accuracy for _, accuracy in accuracies), default=None)
    final = accuracies[-1][1] if accuracies else None
    made.config = {"seed": seed}
    made.summary = {**SUMMARY, "final_accuracy": final, "best_accuracy": best, **summary}
    made.environment = dict(ENVIRONMENT)
    made.pushes = pd.DataFrame({"worker": [], "arrived_s": []})
    made.updates = pd.DataFrame({"at_s": []})
    made.evaluations = pd.DataFrame(accuracies, columns=["at_s", "accuracy"])
    return made


def arm(label: str, *runs: RunRecords, **settings: Any) -> Arm:
    """An arm whose paradigm is the label's first word; `__` stands for a dot in a key."""
    flat = {key.replace("__", "."): value for key, value in settings.items()}
    return Arm(label, label.split()[0].lower(), flat, {"cluster": "hetero"}, runs or (run(),))


def reaching(*times: float | None) -> list[RunRecords]:
    """A run for each of these moments, at which it reached 0.8 for the first time, or None."""
    return [run([(0.0, 0.1), (time, 0.9)] if time else [(0.0, 0.1)], seed) for seed, time in enumerate(times, start=1)]


def table(compared: Comparison, title: str) -> Table:
    [found] = [one for one in compared.tables() if one.title == title]
    return found


def cells(compared: Comparison, title: str, column: int) -> list[tuple[str, str]]:
    return [(row[column].number, row[column].spread) for row in table(compared, title).rows]


def columns(compared: Comparison) -> list[str]:
    return list(map(str, compared.frame()))


# --- medians and times that never came --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "number", "spread"),
    [
        ([3.0, 1.0, 2.0], "2.000", "1.000 to 3.000"),
        ([1.0, 2.0], "1.500", "1.000 to 2.000"),
        ([2.0], "2.000", ""),
        ([2.0, 2.0], "2.000", ""),
        ([1.0, None, 3.0], "3.000", "1.000 to 3.000, 2 of 3 runs"),
        ([1.0, None], "not reached", "1 of 2 runs did"),
        ([None, 1.0, None], "not reached", "1 of 3 runs did"),
        ([None, None], "not reached", ""),
    ],
)
def test_a_time_is_the_median_over_the_runs_in_which_never_is_later_than_any_time(
    times: list[float | None], number: str, spread: str
) -> None:
    compared = compare([arm("BSP", *reaching(*times))], targets=[0.8])
    assert table(compared, "Time to an accuracy").headings == ["arm", "time to 0.8 (s)"]
    assert cells(compared, "Time to an accuracy", 1) == [(number, spread)]


def test_a_target_that_nobody_can_reach_is_shown_as_such_and_has_no_speed_up() -> None:
    compared = compare([arm("BSP", *reaching(1.0)), arm("ASP", *reaching(1.0))], targets=[0.8, 0.99])
    shown = table(compared, "Time to an accuracy")
    assert shown.headings == ["arm", "time to 0.8 (s)", "speed-up", "time to 0.99 (s)"]
    assert [row[3].number for row in shown.rows] == ["not reached", "not reached"]
    frame = compared.frame()
    assert frame["time_to_0.99"].isna().all()
    assert frame["time_to_0.99_reached"].tolist() == [0, 0]
    assert "speedup_to_0.99" not in frame


def test_a_target_is_reached_by_an_accuracy_of_just_that() -> None:
    compared = compare([arm("BSP", run([(0.0, 0.1), (1.0, 0.8), (2.0, 0.9)]))], targets=[0.8])
    assert cells(compared, "Time to an accuracy", 1) == [("1.000", "")]


numbers = st.lists(st.none() | st.floats(0, 1e6) | st.just(float("inf")), max_size=9)


@given(numbers)
def test_a_median_lies_between_the_lowest_and_the_highest_of_what_came(values: list[float | None]) -> None:
    spread = Spread.of(values)
    assert 0 <= spread.reached <= spread.runs == sum(value is not None for value in values)
    if spread.median is not None:
        assert spread.low is not None
        assert spread.high is not None
        assert spread.low <= spread.median <= spread.high
        assert 2 * spread.reached >= spread.runs


@given(numbers, st.randoms(use_true_random=False))
def test_a_spread_does_not_depend_on_the_order_of_the_runs(values: list[float | None], shuffle: random.Random) -> None:
    other = list(values)
    shuffle.shuffle(other)
    assert Spread.of(other) == Spread.of(values)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_one_more_run_that_never_came_makes_no_median_earlier(values: list[float]) -> None:
    before, after = Spread.of(values), Spread.of([*values, float("inf")])
    assert before.median is not None
    assert after.median is None or after.median >= before.median


def test_what_is_not_known_of_a_run_does_not_count() -> None:
    assert Spread.of([None, float("nan"), 3.0]) == Spread(3.0, 3.0, 3.0, 1, 1)
    assert Spread.of([None]) == Spread(None, None, None, 0, 0)


# --- speed-ups --------------------------------------------------------------------------------------------------------


def test_a_speed_up_is_the_baselines_time_over_the_arms() -> None:
    arms = [arm("BSP", *reaching(6.0, 8.0, 7.0)), arm("ASP", *reaching(2.0)), arm("SSP 3", *reaching(14.0))]
    frame = compare(arms, targets=[0.8]).frame()
    assert frame["speedup_to_0.8"].tolist() == [1.0, 3.5, 0.5]
    assert set(frame["baseline"]) == {"BSP"}


def test_total_times_have_speed_ups_too_without_any_accuracy() -> None:
    arms = [arm("BSP", run((), duration_s=9.0)), arm("ASP", run((), duration_s=3.0))]
    compared = compare(arms)
    assert table(compared, "Result").headings == ["arm", "runs", "total time (s)", "speed-up"]
    assert cells(compared, "Result", 3) == [("1.00", ""), ("3.00", "")]


@pytest.mark.parametrize("times", [(None, 1.0), (1.0, None)])
def test_there_is_no_speed_up_from_or_to_what_was_never_reached(times: tuple[float | None, float | None]) -> None:
    own, base = times
    arms = [arm("BSP", *reaching(base)), arm("ASP", *reaching(own)), arm("SSP 3", *reaching(1.0))]
    shown = [number for number, _ in cells(compare(arms, [0.8], baseline="SSP 3"), "Time to an accuracy", 2)]
    assert shown == ["-" if base is None else "1.00", "-" if own is None else "1.00", "1.00"]


def test_one_arm_has_nothing_to_be_faster_than() -> None:
    compared = compare([arm("BSP", *reaching(1.0))], targets=[0.8])
    assert not [column for column in columns(compared) if column.startswith("speedup")]
    assert not any("Speed-up" in note for note in compared.notes)


@pytest.mark.parametrize("wanted", ["SSP 6", "ssp 6", "paradigm.threshold=6", "paradigm.threshold=6.0"])
def test_a_baseline_is_an_arm_by_its_name_or_by_what_it_has(wanted: str) -> None:
    arms = [arm("BSP"), arm("SSP 3", paradigm__threshold=3), arm("SSP 6", paradigm__threshold=6)]
    assert set(compare(arms, baseline=wanted).frame()["baseline"]) == {"SSP 6"}


@pytest.mark.parametrize(("wanted", "found"), [("paradigm=asp", "ASP"), ("cluster=hetero", "BSP"), ("ssp", "SSP 3")])
def test_of_baselines_that_differ_in_their_paradigms_alone_it_is_the_first(wanted: str, found: str) -> None:
    arms = [arm("BSP"), arm("ASP"), arm("SSP 3", paradigm__threshold=3), arm("SSP 30", paradigm__threshold=30)]
    assert set(compare(arms, baseline=wanted).frame()["baseline"]) == {found}


def test_without_bsp_the_first_arm_is_the_baseline() -> None:
    assert set(compare([arm("SSP 3"), arm("DSSP 3-15")]).frame()["baseline"]) == {"SSP 3"}


@pytest.mark.parametrize("wanted", ["bsb", "SSP", "paradigm=dssp", "colour=red"])
def test_a_baseline_that_no_arm_is_gets_a_list_of_those_there_are(wanted: str) -> None:
    with pytest.raises(ConfigurationError, match="there are: BSP, ASP") as raised:
        compare([arm("BSP"), arm("ASP")], baseline=wanted)
    assert raised.value.key == "baseline"


def test_each_arm_is_compared_with_the_baseline_of_its_own_clock_and_engine() -> None:
    settings = [{"schedule__clock": clock, "engine__kind": kind} for clock in "us" for kind in ("local", "simulated")]
    arms = [arm(f"{name} {number}", **each) for name in ("BSP", "DSSP") for number, each in enumerate(settings)]
    arms[-1].settings["optimizer.learning_rate"] = 0.5  # no baseline has it, and the nearest one is still its own
    compared = compare(arms)
    assert compared.frame()["baseline"].tolist() == [f"BSP {number}" for number in range(4)] * 2
    assert "Speed-up: how many times as fast as BSP 0 or BSP 1" in compared.markdown()


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bests", "targets"),
    [
        ([0.7, 0.72], (0.66, 0.69)),
        ([0.98, 0.1], (0.93, 0.97)),  # the second one diverged
        ([0.04, 0.05], (0.038, 0.039)),
        ([1.0], (0.95, 0.99)),
        ([None, None], ()),
        ([0.9, None], (0.85, 0.89)),
        ([0.0], ()),
    ],
)
def test_targets_are_what_the_arms_have_in_common(bests: list[float | None], targets: tuple[float, ...]) -> None:
    arms = [arm(f"SSP {number}", run(best_accuracy=best)) for number, best in enumerate(bests)]
    assert default_targets(arms) == targets
    assert compare(arms).targets == targets


@given(st.lists(st.floats(0.011, 1.0), min_size=1, max_size=5))
def test_every_arm_that_counts_has_been_at_every_target(bests: list[float]) -> None:
    targets = default_targets([arm("BSP", run(best_accuracy=best)) for best in bests])
    common = min(best for best in bests if best >= 0.5 * max(bests))
    assert 1 <= len(targets) <= 2
    assert list(targets) == sorted(targets)
    assert all(0.8 * common < target <= common for target in targets)


def test_targets_given_are_taken_as_given_and_once() -> None:
    assert compare([arm("BSP")], targets=[0.9, 0.2, 0.9]).targets == (0.9, 0.2)


# --- what is not there ------------------------------------------------------------------------------------------------


def test_without_evaluations_there_are_no_accuracies_and_no_times_to_them() -> None:
    compared = compare([arm("BSP", run(())), arm("ASP", run(()))], targets=[0.8])
    assert [one.title for one in compared.tables()] == [
        "Result",
        "Throughput and updates",
        "Waiting, lead and staleness",
    ]
    assert "No run has an accuracy" in compared.notes
    assert not [column for column in columns(compared) if "accuracy" in column or "time_to" in column]


def test_an_arm_without_evaluations_beside_one_with_them_has_dashes_and_did_not_miss_the_target() -> None:
    compared = compare([arm("BSP", *reaching(1.0)), arm("ASP", run(()))], targets=[0.8])
    assert [number for number, _ in cells(compared, "Time to an accuracy", 1)] == ["1.000", "-"]
    assert [number for number, _ in cells(compared, "Result", 2)] == ["0.9000", "-"]


# --- tables, files and text say the same ------------------------------------------------------------------------------


def test_numbers_are_rounded_once_and_are_the_same_everywhere() -> None:
    arms = [
        arm("BSP", *(run(seed=seed, duration_s=1234.5678 + seed, mean_staleness=1 / 3) for seed in (1, 2, 3))),
        arm("ASP", run(duration_s=0.98765, max_lead=3, waiting_share={"0": 0.12345, "1": 0.5})),
    ]
    compared = compare(arms)
    row = compared.frame().iloc[0]
    assert (row["duration_s"], row["duration_s_low"], row["duration_s_high"]) == (1236.568, 1235.568, 1237.568)
    assert "| BSP | 3 | 0.9000 | 0.9000 | 1236.568 (1235.568 to 1237.568) | 1.00 |" in compared.markdown()
    assert "| ASP | 31.2 % | 50.0 % | 3 | 0.50 | 1 |" in compared.markdown()
    assert compared.frame().iloc[1]["waiting_mean"] == 0.312
    assert row["mean_staleness"] == 0.33


def test_the_median_of_whole_numbers_may_be_a_half() -> None:
    compared = compare([arm("BSP", run(max_lead=1), run(max_lead=2, seed=2)), arm("ASP", run(max_lead=7))])
    assert cells(compared, "Waiting, lead and staleness", 3) == [("1.5", "1.0 to 2.0"), ("7.0", "")]


def test_a_name_with_a_bar_does_not_break_the_markdown() -> None:
    assert "| OWN a\\|b | 1 |" in compare([arm("OWN a|b")]).markdown()


def test_the_same_seed_twice_is_said() -> None:
    arms = [
        arm("BSP", run(seed=1), run(seed=1)),
        arm("ASP", run(seed=1), run(seed=2), run(seed=2)),
        arm("SSP 3", run(seed=1), run(seed=2)),
    ]
    compared = compare(arms)
    assert [number for number, _ in cells(compared, "Result", 1)] == ["2 of 1 seed", "3 of 2 seeds", "2"]
    assert compared.frame()[["runs", "seeds"]].to_numpy().tolist() == [[2, 1], [3, 2], [2, 2]]


def test_recorded_runs_have_a_number_for_everything_whatever_their_order(tmp_path: Path) -> None:
    arms = fake_arms.arms(tmp_path, [BSP(), SSP(3), DSSP(3, 15)], seeds=2)
    runs = [one for each in arms for one in each.runs]
    compared = compare(arms, targets=[0.4])
    assert len(compared.tables()) == 4
    assert compared.frame().notna().all(axis=None)
    random.Random(1).shuffle(runs)
    pd.testing.assert_frame_equal(compare(arms_of(runs), targets=[0.4]).frame(), compared.frame())
    medians = [sorted(one.summary["pushes_per_s"] for one in each.runs if one.summary) for each in arms]
    assert compared.frame()["pushes_per_s"].tolist() == pytest.approx([sum(two) / 2 for two in medians], rel=1e-3)


# --- what must be said ------------------------------------------------------------------------------------------------


def test_runs_of_one_kind_need_no_warning() -> None:
    assert compare([arm("BSP", run(), run(seed=2)), arm("ASP")]).warnings == ()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("engine", "local", "the runs are of local, simulated: different engines, whose seconds are not the same"),
        ("model", "cnn", "the runs are of cnn, mlp: different models, whose accuracies and seconds are not the same"),
        ("dataset", "cifar10", "the runs are of cifar10, digits: different data sets, whose accuracies are not"),
        ("learning_rate_clock", "updates", "the runs are of samples, updates: different clocks of the learning rate"),
    ],
)
def test_runs_of_different_kinds_are_not_mixed_in_silence(key: str, value: str, said: str) -> None:
    summary: dict[str, Any] = {key: value}
    compared = compare([arm("BSP"), arm("ASP", run(**summary))])
    [warning] = compared.warnings
    assert warning.startswith(said)
    assert f"**Warning:** {said}" in compared.markdown()


def test_machines_are_told_apart_where_time_is_real() -> None:
    def elsewhere(engine: str) -> RunRecords:
        made = run(engine=engine, seed=2)
        made.environment = {**ENVIRONMENT, "hardware": {"cores": 64, "cpu": "other", "gpus": ["big"]}}
        return made

    assert compare([arm("BSP", run(), elsewhere("simulated"))]).warnings == ()
    [warning] = compare([arm("BSP", run(engine="local"), elsewhere("local"))]).warnings
    assert "different machines (2 cores of fast; 64 cores of other, big)" in warning


def test_versions_are_told_apart() -> None:
    newer = run(seed=2)
    newer.environment = {**ENVIRONMENT, "packages": {"dssp-bench": "1.1"}}
    [warning] = compare([arm("BSP", run(), newer)]).warnings
    assert "different versions of dssp-bench (1.0, 1.1)" in warning


def test_runs_that_diverged_are_counted() -> None:
    arms = [arm("BSP"), arm("ASP", run(final_loss=None), run(seed=2))]
    assert compare(arms).warnings == ("ASP: 1 of 2 runs diverged; at their end the loss is no number",)
    assert compare([arm("BSP", run((), final_loss=None))]).warnings == ()  # it was not trained


def test_notes_say_how_the_numbers_are_to_be_read() -> None:
    [virtual] = compare([arm("BSP")]).notes
    assert virtual == "Seconds are of virtual time"
    real = compare([arm("BSP", run(engine="local"), run(engine="local", seed=2)), arm("ASP", run(engine="local"))])
    assert real.notes == (
        "Of several runs: the median, and the lowest and highest where they differ",
        "Speed-up: how many times as fast as BSP",
    )
