"""DSSP: a threshold that moves. What the paper says is tested in `tests/paper`; here are our own decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssp_bench.core.messages import SECOND, Grant, Nanoseconds, Push
from dssp_bench.paradigms.dssp import DSSP
from tests.scenario import Story, drive, play, seconds


def grants(story: Story) -> list[tuple[float, int, int, float]]:
    """When, at which lead, how many, and the predicted wait."""
    made = [outcome.grant for outcome in story.outcomes if outcome.grant]
    return [(grant.at / SECOND, grant.lead, grant.r_star, grant.predicted_wait / SECOND) for grant in made]


# With `lower` = 1: slow pushes every 10 s, at 10 and 20, and fast every second at the end. Its push at 22 is at lead 2.
AHEAD = """
    workers fast slow
    10 slow -> slow
    11 fast -> fast
    12 fast -> fast
    20 slow -> slow
    21 fast -> fast
"""


def test_a_grant_ends_closest_to_a_push_of_the_slowest() -> None:
    story = play(DSSP(1, 21), AHEAD + "22 fast -> fast")
    assert grants(story) == [(22.0, 2, 8, 0.0)]  # 22 + 8 * 1 = 20 + 10


def test_a_grant_is_recorded_with_the_push_and_moves_its_threshold() -> None:
    story = play(DSSP(1, 21), AHEAD + "22 fast -> fast\n 23 fast -> fast\n 24 fast -> fast\n 25 slow -> slow")
    assert story.outcomes[5].grant == Grant(0, seconds(22), 2, 8, 0)
    records = [outcome.push for outcome in story.outcomes if outcome.push]
    assert [(record.lead, record.threshold) for record in records[5:]] == [(2, 9), (3, 9), (4, 9), (0, 1)]


def test_the_bounded_variant_caps_a_grant_at_the_upper_bound() -> None:
    story = play(DSSP(1, 4), AHEAD + "22 fast -> fast\n 23 fast -> fast\n 24 fast -> fast\n 25 fast ->")
    assert grants(story) == [(22.0, 2, 3, 5.0)]


# The grant is used up at 24, and at 25 there is room for one more below `upper` = 4, because slow has pushed.
ROOM = AHEAD + "22 fast -> fast\n 23 fast -> fast\n 24 fast -> fast\n 24.5 slow -> slow\n"


def test_the_bounded_variant_grants_again_where_there_is_room() -> None:
    assert grants(play(DSSP(1, 4), ROOM + "25 fast -> fast")) == [(22.0, 2, 3, 5.0), (25.0, 4, 1, 3.0)]


def test_the_single_grant_variant_does_not_until_the_lead_was_back() -> None:
    back = "25 fast ->\n 29 slow -> slow\n 33 slow -> slow\n 37 slow -> slow fast\n 38 fast -> fast"
    story = play(DSSP(1, 4, "single_grant"), ROOM + back)
    assert [grant[:2] for grant in grants(story)] == [(22.0, 2), (38.0, 2)]


def intervals(fast: float, slow: float) -> list[Nanoseconds]:
    return [seconds(fast), seconds(slow)]


def test_grants_repeat_unless_single() -> None:
    """With intervals 1.0 and 1.7 the first grant ends at a lead of 7: bounded then grants on, single_grant holds."""
    bounded = drive(DSSP(3, 15), intervals(1.0, 1.7), pushes=200)
    single = drive(DSSP(3, 15, "single_grant"), intervals(1.0, 1.7), pushes=200)
    assert (max(bounded.leads), max(single.leads)) == (10, 7)
    first, second = [outcome.grant for outcome in single.outcomes if outcome.grant][:2]
    assert any(r.worker == 0 and r.held for o in single.outcomes if first.at < o.at < second.at for r in o.released)


def test_a_worker_without_two_pushes_predicts_nothing_and_so_fast_is_held() -> None:
    story = play(
        DSSP(0, 9),
        "workers fast slow\n 1 fast ->\n 3 slow -> slow fast\n 4 fast ->\n 6 slow -> slow fast\n 7 fast -> fast",
    )
    assert len(grants(story)) == 1


def test_a_worker_that_has_just_joined_predicts_nothing() -> None:
    script = AHEAD + "21.5 new joins -> new\n 21.7 slow -> slow\n 22 fast ->\n 23 new -> new fast"
    assert grants(play(DSSP(1, 20), script)) == []


def test_a_held_worker_is_not_granted_later_but_waits_for_the_lower_bound() -> None:
    play(
        DSSP(0, 9),
        """
        workers fast slow
        1 fast ->            # slow has not pushed twice: no grant
        10 slow -> slow fast
        11 fast ->
        20 slow -> slow fast
        """,
    )


def test_among_equally_slow_workers_the_one_with_the_oldest_push_is_predicted() -> None:
    script = """
        workers fast early late
        9 late -> late
        10 early -> early
        11 fast -> fast
        12 fast -> fast
        20 early -> early     # interval 10, next at 30
        20.5 late -> late     # interval 11.5, next at 32
        21 fast -> fast
        22 fast -> fast
    """
    assert grants(play(DSSP(1, 21), script)) == [(22.0, 2, 8, 0.0)]


@pytest.mark.parametrize("order", ["a b", "b a"])
def test_among_pushes_at_one_moment_the_one_handled_first_is_predicted(order: str) -> None:
    script = f"""
        workers {order} fast
        8 b -> b
        10 a -> a
        11 fast -> fast
        12 fast -> fast
        20 b -> b            # interval 12, next at 32
        20 a -> a            # interval 10, next at 30
        21 fast -> fast
        22 fast -> fast
    """
    assert [grant[2] for grant in grants(play(DSSP(1, 21), script))] == [10]


def test_intervals_of_no_length_are_no_trouble() -> None:
    pushes = "{} slow -> slow\n {} fast -> fast\n {} slow -> slow\n {} fast -> fast\n {} fast -> fast\n {} fast ->"
    at_once = "workers fast slow\n" + pushes.format(0, 0, 0, 0, 0, 0)
    assert grants(play(DSSP(1, 5), at_once)) == []
    slow_stands_still = "workers fast slow\n" + pushes.format(1, 1, 1, 2, 3, 4)
    assert grants(play(DSSP(1, 5), slow_stands_still)) == []


def test_predictions_of_the_slowest_end_after_r_max_pushes() -> None:
    """Only 22 and 24 are looked at, so waiting now is best; else one more iteration, to 38.1, would be close to 38."""
    script = """
        workers fast slow
        18 slow   -> slow
        18.5 fast -> fast
        19 fast   -> fast
        20 slow   -> slow
        22.9 fast -> fast
        30.5 fast ->
    """
    assert grants(play(DSSP(1, 2), script)) == []


# fast is held from 1 to 3 and from 4 to 6, so its interval at 7 is 3 s long, 2 s of which it was held; slow's is 3 s.
HELD = "workers fast slow\n 1 fast ->\n 3 slow -> slow fast\n 4 fast ->\n 6 slow -> slow fast\n 7 fast -> fast"


def test_raw_intervals_contain_the_time_held() -> None:
    assert grants(play(DSSP(0, 4), HELD)) == [(7.0, 1, 1, 1.0)]  # 7 + 1 * 3, and slow at 9


def test_hold_corrected_intervals_do_not() -> None:
    assert grants(play(DSSP(0, 4, interval="hold_corrected"), HELD)) == [(7.0, 1, 2, 0.0)]  # 7 + 2 * 1, and slow at 9


def test_held_gradients_can_be_merged() -> None:
    script = "workers fast slow\n 1 fast ->\n 3 slow -> slow fast"
    assert play(DSSP(0, 4, held_gradients="merge_sum"), script).gradients(1) == [("fast", 1), ("slow", 1)]


def test_nothing_is_remembered_from_the_run_before() -> None:
    paradigm = DSSP(1, 21)
    first, second = (play(paradigm, AHEAD + "22 fast -> fast") for _ in range(2))
    assert first.outcomes == second.outcomes


def test_the_last_grant_is_not_reported_again() -> None:
    story = play(DSSP(1, 21), AHEAD + "22 fast -> fast\n 23 fast -> fast")
    assert [outcome.grant is not None for outcome in story.outcomes] == [False] * 5 + [True, False]


@given(
    lower=st.integers(0, 3),
    width=st.integers(0, 6),
    single=st.booleans(),
    takes=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_no_iteration_starts_above_the_upper_bound(
    lower: int, width: int, single: bool, takes: list[list[int]]
) -> None:
    paradigm = DSSP(lower, lower + width, "single_grant" if single else "bounded")
    compute = [lambda n, own=own: own[n % len(own)] for own in takes]
    run = drive(paradigm, compute, pushes=120)
    released_ahead = [o.push.lead for o in run.outcomes if o.push and o.push.held == 0]
    assert max(released_ahead, default=0) <= lower + width


def test_upper_may_not_be_below_lower() -> None:
    with pytest.raises(ValueError, match=r"upper \(2\) must not be below lower \(3\)"):
        DSSP(3, 2)


def test_a_push_before_any_other_finds_an_empty_table() -> None:
    run = drive(DSSP(), intervals(1, 1), pushes=1)
    assert isinstance(run.events[0], Push)
    assert run.outcomes[0].grant is None
