"""DSSP, sentence by sentence: Zhao, An, Liu and Chen, "Dynamic Stale Synchronous Parallel Distributed Training for Deep
Learning", ICDCS 2019 (arXiv 1908.11848).

Each test names the place and says in our words what stands there. Where the print is silent or contradicts itself, the
test says which reading it checks.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssp_bench.core.messages import SECOND, Grant, Nanoseconds, PushRecord
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from tests.scenario import Run, Story, drive, play, seconds

FAST, SLOW = 0, 1


def grants(run: Run | Story) -> list[Grant]:
    return [outcome.grant for outcome in run.outcomes if outcome.grant]


def pushes_of(worker: int, run: Run | Story) -> list[PushRecord]:
    return [outcome.push for outcome in run.outcomes if outcome.push and outcome.push.worker == worker]


def two_workers(paradigm: Paradigm, pushes: int, slow: float = 1.7, fast: float = 1.0) -> Run:
    """Constant iteration times and no communication; the fast worker is 0."""
    return drive(paradigm, [seconds(fast), seconds(slow)], pushes=pushes)


# --- Algorithm 1: the server -----------------------------------------------------------------------------------------


def test_line_1_a_push_counts() -> None:
    """Algorithm 1, line 1: t_p becomes t_p + 1."""
    assert [push.clock for push in pushes_of(FAST, two_workers(DSSP(), 8))] == [1, 2, 3, 4, 5]


def test_line_2_the_weights_are_updated_before_anything_is_decided() -> None:
    """Algorithm 1, line 2: the weights are updated with the gradient, also where its worker then has to wait."""
    story = play(DSSP(1, 3), "workers p q\n 1 p -> p\n 2 p ->")
    assert [outcome.updates[0].version for outcome in story.outcomes] == [1, 2]


# p's push at 22 is the first at a lead above s_L = 1, and ends with a grant up to q's predicted push at 30.
GRANTED = """
    workers p q
    10 q -> q
    11 p -> p
    12 p -> p
    20 q -> q
    21 p -> p
    22 p -> p
"""


def test_lines_3_to_5_an_extra_iteration_is_used_up_at_each_push() -> None:
    """Algorithm 1, lines 3 to 5: with r_p > 0, r_p is reduced by one and p gets its OK; no controller is asked."""
    story = play(DSSP(1, 21), GRANTED + "23 p -> p\n 24 p -> p\n 25 p -> p")
    assert [(grant.at, grant.r_star) for grant in grants(story)] == [(seconds(22), 8)]
    assert [push.threshold for push in pushes_of(0, story)[4:]] == [9, 9, 9]


def test_lines_3_to_5_come_first_so_that_credits_are_used_even_within_the_lower_bound() -> None:
    """Algorithm 1, lines 3 to 9: r_p is looked at before the lead is."""
    caught_up = "".join(f"{t} q -> q\n" for t in (22.1, 22.2, 22.3)) + "23 p -> p"
    push = pushes_of(0, play(DSSP(1, 21), GRANTED + caught_up))[-1]
    assert (push.lead, push.threshold) == (0, 6)  # 8 granted, 2 used


def test_line_8_at_the_lower_bound_a_worker_goes_on() -> None:
    """Algorithm 1, line 8, and sec. III: OK if t_p - t_slowest <= s_L, "no more than s_L iterations away"."""
    play(DSSP(3, 3), "workers p q\n 1 p -> p\n 2 p -> p\n 3 p -> p\n 4 p ->")


def test_line_11_and_footnote_1_only_the_fastest_asks_the_controller() -> None:
    """Algorithm 1, line 11, and footnote 1: to save the server's time, the controller is for the fastest alone."""
    story = play(
        DSSP(1, 21),
        """
        workers p second q
        10 q      -> q
        11 p      -> p
        11.5 second -> second
        12 p      -> p
        12.5 second -> second
        20 q      -> q
        21 p      -> p
        21.1 second -> second
        22 p      -> p           # granted
        22.5 p    -> p
        22.9 second ->           # at lead 2 like p before, but p is at 3: it waits
        """,
    )
    assert [grant.worker for grant in grants(story)] == [0]


def test_line_11_of_several_fastest_each_may_ask() -> None:
    """Algorithm 1, line 11, does not say which of several is the fastest; we say: whoever has the highest clock."""
    both = GRANTED.replace("p q", "p q r").replace("11 p", "11 r -> r\n 11 p").replace("12 p", "12 r -> r\n 12 p")
    story = play(DSSP(1, 21), both.replace("21 p", "21 r -> r\n 21 p") + "23 r -> r")
    assert [(grant.worker, grant.lead) for grant in grants(story)] == [(0, 2), (2, 2)]


def test_lines_12_to_14_a_grant_is_an_ok() -> None:
    """Algorithm 1, lines 12 to 14: r_p is what the controller answers; above 0, p gets its OK."""
    story = play(DSSP(1, 21), GRANTED)
    assert story.outcomes[-1].push is not None
    assert story.outcomes[-1].push.held == 0


def test_line_14_is_not_followed_by_line_17() -> None:
    """Algorithm 1, lines 14 to 17: read literally, a granted worker would get a second OK at line 17. It gets one."""
    run = two_workers(DSSP(variant="literal"), 200)
    assert all(len({r.worker for r in o.released}) == len(o.released) for o in run.outcomes)
    assert len(run.releases) == 200


def test_line_17_a_worker_waits_until_its_lead_is_the_lower_bound() -> None:
    """Algorithm 1, line 17: wait for as many pushes of the slowest as bring the lead back to s_L."""
    play(
        DSSP(1, 4),
        GRANTED
        + """
        23 p -> p
        24 p -> p
        25 p ->        # lead 5, at the end of the grant
        30 q -> q
        40 q -> q
        50 q -> q
        60 q -> q p    # lead 1
        """,
    )


def test_the_variant_as_printed_runs_one_iteration_more_than_it_was_granted() -> None:
    """Algorithm 1, lines 12 to 14 against Fig. 2: as printed the grant's OK uses no credit, so r* = 3 gives four."""
    after = "\n".join(f"{22 + n} p" for n in range(1, 5))
    literal = play(DSSP(1, 4, "literal"), GRANTED + after.replace(" p", " p -> p"))
    bounded = play(DSSP(1, 4), GRANTED + "23 p -> p\n 24 p -> p\n 25 p ->")
    first, second = grants(literal)[:2]
    assert first.r_star == grants(bounded)[0].r_star == 3
    assert (second.at - first.at) / SECOND == 4


def test_credits_are_kept_by_a_worker_that_is_no_longer_the_fastest() -> None:
    """Sec. III, on Algorithm 1: as long as r_p > 0 a worker may use it, although another one has become the fastest."""
    story = play(
        DSSP(1, 21),
        """
        workers p q other
        10 q       -> q
        11 p       -> p
        11 other   -> other
        12 p       -> p
        12 other   -> other
        20 q       -> q
        21 p       -> p
        21 other   -> other
        22 p       -> p            # granted up to 30
        22.1 other -> other        # granted too, at the same clock
        22.2 other -> other
        22.3 other -> other        # the fastest, at 6
        23 p       -> p            # at 5, beyond s_L, not the fastest, and it goes on
        24 q       -> q
        25 p       -> p
        """,
    )
    records = pushes_of(0, story)[-2:]
    assert [(push.lead, push.threshold) for push in records] == [(3, 9), (3, 8)]
    assert [grant.worker for grant in grants(story)] == [0, 2]


# --- Algorithm 2: the controller, and Fig. 2 -------------------------------------------------------------------------


def test_lines_1_and_2_a_push_time_replaces_the_one_before_for_every_worker() -> None:
    """Algorithm 2, lines 1 and 2, shift the pusher's row. The slowest's row is used, so it has to shift as well."""
    story = play(DSSP(1, 21), GRANTED.replace("10 q", "5 q -> q\n 6 p -> p\n 10 q"))
    assert grants(story)[0] == Grant(0, seconds(22), 2, 8, 0)  # by 10 and 20, and not by 5 and 10


def test_line_8_of_all_pairs_of_predictions_the_closest_one_counts() -> None:
    """Algorithm 2, lines 6 to 8: both are predicted r_max times ahead, and the closest pair wins, before or after."""
    before = play(DSSP(1, 21), GRANTED.replace("20 q", "20.1 q"))  # q is predicted at 30.2, p at 30
    after = play(DSSP(1, 21), GRANTED.replace("20 q", "19.9 q"))  # q is predicted at 29.8, p at 30
    assert [grants(story)[0][2:] for story in (before, after)] == [(2, 8, seconds("0.2"))] * 2


def test_line_8_of_equal_pairs_the_one_with_the_least_waiting_wins() -> None:
    """Algorithm 2, line 8, leaves ties open; we take the smallest r, as the authors' later ZipLine does."""
    story = play(DSSP(1, 21), GRANTED.replace("20 q", "19.75 q"))  # q at 29.5 and 39.25, p at 29, 30, ..., 39, ...
    assert (grants(story)[0].r_star, grants(story)[0].predicted_wait) == (17, seconds("0.25"))
    tied = play(DSSP(1, 10), GRANTED.replace("20 q", "19.75 q"))
    assert (grants(tied)[0].r_star, grants(tied)[0].predicted_wait) == (7, seconds("0.5"))  # 29 and 30 are as close


def test_r_0_means_wait_now() -> None:
    """Sec. III, on Algorithm 2: r* = 0 says that the current iteration has the least waiting time."""
    story = play(DSSP(1, 21), GRANTED.replace("22 p -> p", "29.8 p ->"))
    assert grants(story) == []


def test_figure_2_three_more_iterations_end_closest_to_the_slow_workers_push() -> None:
    """Fig. 2: with R = [0, 4] the best is r* = 3. The times are the ends of the drawn iterations, in points."""
    story = play(
        DSSP(lower=1, upper=5),
        """
        workers worker1 workern
        76.0  worker1 -> worker1
        113.3 workern -> workern
        114.0 worker1 -> worker1
        151.7 worker1 ->
        177.8 workern -> workern worker1
        189.3 worker1 -> worker1
        """,
    )
    assert [grant.r_star for grant in grants(story)] == [3]


# --- the example by hand: intervals 1.0 and 1.7 ----------------------------------------------------------------------


@pytest.mark.parametrize(("upper", "r_star", "wait"), [(15, 9, "0.0"), (7, 4, "0.1"), (5, 2, "0.2")])
def test_by_hand_the_first_grant(upper: int, r_star: int, wait: str) -> None:
    """The eighth push of the fast worker, at 8.0, meets four slow ones: lead 4 > 3. Slow is due at 8.5, ..., 17.0.

    With r_max = 12 the ninth iteration ends at 17.0, exactly with a slow push; with 4 the fourth, with 2 the second.
    """
    run = two_workers(DSSP(3, upper), 100)
    assert grants(run)[0] == Grant(FAST, seconds("8.0"), 4, r_star, seconds(wait))


def test_by_hand_the_printed_variant_goes_on_and_on() -> None:
    """At 18.0 the printed variant is at lead 8 and granted four more, and so on: its lead grows without bound."""
    run = two_workers(DSSP(3, 15, "literal"), 3000)
    assert [grant.lead for grant in grants(run)][:5] == [4, 8, 10, 15, 17]
    assert grants(run)[1] == Grant(FAST, seconds("18.0"), 8, 4, grants(run)[1].predicted_wait)
    assert all(push.held == 0 for push in pushes_of(FAST, run))
    assert max(run.leads) > 500


def test_by_hand_a_single_grant_ends_in_a_longer_wait_than_was_predicted() -> None:
    """The grant ends at 17.0 together with a slow push: predicted wait 0. But s_L = 3 is reached at 23.8 only."""
    run = two_workers(DSSP(3, 15, "single_grant"), 100)
    first = next(outcome for outcome in run.outcomes if any(r.worker == FAST and r.held for r in outcome.released))
    assert (first.at, first.released[-1].held) == (seconds("23.8"), seconds("6.8"))


@pytest.mark.parametrize(
    ("paradigm", "largest"),
    [(SSP(3), 4), (DSSP(3, 15, "single_grant"), 7), (DSSP(3, 15), 10)],
    ids=["SSP(3)", "single_grant", "bounded"],
)
def test_by_hand_the_largest_lead_seen_at_a_push(paradigm: Paradigm, largest: int) -> None:
    assert max(two_workers(paradigm, 3000).leads) == largest


# --- Theorem 2 -------------------------------------------------------------------------------------------------------


@given(
    lower=st.integers(0, 4),
    r_max=st.integers(0, 8),
    variant=st.sampled_from(["bounded", "single_grant"]),
    takes=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=2, max_size=4),
)
def test_theorem_2_every_threshold_lies_between_the_bounds(
    lower: int, r_max: int, variant: str, takes: list[list[int]]
) -> None:
    """Theorem 2 assumes s* in [s_L, s_U]; so no push is seen at a lead above s_U + 1."""
    compute = [lambda n, own=own: own[n % len(own)] for own in takes]
    run = drive(DSSP(lower, lower + r_max, variant), compute, pushes=100)  # type: ignore[arg-type]
    thresholds = [outcome.push.threshold for outcome in run.outcomes if outcome.push]
    assert all(threshold is not None and lower <= threshold <= lower + r_max for threshold in thresholds)
    assert max(run.leads) <= lower + r_max + 1


def test_theorem_2_does_not_hold_for_the_algorithm_as_printed() -> None:
    """Algorithm 1 has no line that stops a worker from being granted again, so it may leave the range."""
    assert max(two_workers(DSSP(3, 15, "literal"), 500).leads) > 16


# --- Fig. 4: updates of the weights per iteration of the slow worker -------------------------------------------------


def updates_per_slow_iteration(paradigm: Paradigm) -> float:
    run = drive(paradigm, [seconds(1), seconds("1.57")], pushes=20_000, watched=False)
    return run.coordinator.view.version / run.coordinator.view.clocks[SLOW]


@pytest.mark.parametrize(
    ("paradigm", "least", "most"),
    [
        (ASP(), 2.55, 2.59),
        (SSP(3, "merge_sum"), 1.00, 1.06),
        (SSP(6, "merge_sum"), 1.00, 1.06),
        (SSP(15, "merge_sum"), 1.00, 1.06),
        (DSSP(3, 15, held_gradients="merge_sum"), 1.85, 2.00),
        (DSSP(3, 15, "single_grant", held_gradients="merge_sum"), 1.47, 1.53),
        (DSSP(3, 15, "literal", held_gradients="merge_sum"), 2.55, 2.59),
    ],
    ids=["ASP", "SSP(3)", "SSP(6)", "SSP(15)", "DSSP(3, 15)", "single_grant", "literal"],
)
def test_figure_4_how_often_the_weights_change(paradigm: Paradigm, least: float, most: float) -> None:
    """Fig. 4: the learning rate drops after 2.57 (ASP), 1.05 to 1.06 (SSP) and 1.99 (DSSP) updates per slow iteration.

    So it looks when a held gradient is merged with the one that releases it, on two workers with constant 1 : 1.57.
    """
    assert least <= updates_per_slow_iteration(paradigm) <= most


@pytest.mark.parametrize(
    "paradigm",
    [SSP(3), SSP(15), DSSP(3, 15), DSSP(3, 15, "single_grant")],
    ids=["SSP(3)", "SSP(15)", "DSSP(3, 15)", "single_grant"],
)
def test_figure_4_with_constant_times_no_bounded_paradigm_pushes_more_often_than_another(paradigm: Paradigm) -> None:
    """Fig. 4: whole runs of SSP and DSSP take as long as BSP's. The fast worker is limited to the slow one's rate."""
    run = two_workers(paradigm, 4_000, slow=1.57)
    assert run.coordinator.pushes / run.coordinator.view.clocks[SLOW] == pytest.approx(2.0, abs=0.01)
    waited: Nanoseconds = sum(r.held for o in run.outcomes for r in o.released if r.worker == FAST)
    assert waited / run.outcomes[-1].at == pytest.approx(0.36, abs=0.01)


# --- what an interval is ---------------------------------------------------------------------------------------------


def test_an_interval_contains_the_time_for_which_a_worker_waited() -> None:
    """Sec. III-B: an interval lies between two pushes as the server receives them, so it contains any waiting.

    p is held from 1 to 3 and from 4 to 6. At 7 its interval is 3 with its waiting and 1 without.
    """
    script = "workers p q\n 1 p ->\n 3 q -> q p\n 4 p ->\n 6 q -> q p\n 7 p -> p"
    raw, corrected = play(DSSP(0, 4), script), play(DSSP(0, 4, interval="hold_corrected"), script)
    assert [grant[3:] for grant in grants(raw)] == [(1, seconds(1))]  # 7 + 3 = 10, and q at 9
    assert [grant[3:] for grant in grants(corrected)] == [(2, 0)]  # 7 + 2 * 1 = 9, and q at 9


def test_where_nobody_waits_both_intervals_are_the_same() -> None:
    raw = two_workers(DSSP(3, 15, "literal"), 500)
    assert two_workers(DSSP(3, 15, "literal", "hold_corrected"), 500).outcomes == raw.outcomes
