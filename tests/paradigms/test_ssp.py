"""SSP: a bounded lead."""

import pytest

from dssp_bench.paradigms.ssp import SSP
from tests.scenario import play


def test_ssp_holds_the_fast_worker_until_the_slow_one_pushes() -> None:
    play(
        SSP(threshold=1),
        """
        1 fast -> fast
        2 fast ->
        5 slow -> slow fast
        """,
    )


def test_an_iteration_starts_at_a_lead_of_at_most_the_threshold_so_a_push_has_one_more() -> None:
    story = play(SSP(threshold=3), "workers fast slow\n 1 fast -> fast\n 2 fast -> fast\n 3 fast -> fast\n 4 fast ->")
    records = [outcome.push for outcome in story.outcomes if outcome.push]
    assert [(record.lead, record.threshold) for record in records] == [(1, 3), (2, 3), (3, 3), (4, 3)]


def test_all_that_were_held_go_on_in_the_order_in_which_they_were_held() -> None:
    play(SSP(0), "workers a b c d\n 1 c ->\n 2 a ->\n 3 d ->\n 4 b -> b c a d")


def test_only_those_go_on_whose_lead_is_small_enough() -> None:
    play(
        SSP(1),
        """
        workers a b slow
        1 a -> a
        2 a ->
        3 b -> b
        4 b ->
        5 slow -> slow a b
        6 a ->
        7 slow -> slow a
        8 a ->
        9 slow -> slow     # b is the slowest now, at 2
        10 b -> b a
        """,
    )


def test_a_push_that_does_not_move_the_slowest_clock_releases_nobody_else() -> None:
    play(SSP(0), "workers a b c\n 1 a ->\n 2 b ->\n 3 c -> c a b")


def test_the_slowest_leaves_and_its_followers_go_on() -> None:
    play(SSP(0), "workers a b slow\n 1 a ->\n 2 slow leaves ->\n 3 b -> b a")


def test_a_worker_leaves_while_it_is_held() -> None:
    play(SSP(0), "workers a b slow\n 1 a ->\n 2 b ->\n 3 a leaves ->\n 4 slow -> slow b")


def test_two_workers_that_push_at_the_same_time_are_taken_one_after_the_other() -> None:
    play(SSP(0), "workers a b\n 1 a ->\n 1 b -> b a")


def test_gradients_are_applied_on_arrival_although_their_worker_is_held() -> None:
    story = play(SSP(0), "workers a b\n 1 a ->\n 2 b -> b a")
    assert [story.gradients(line) for line in (0, 1)] == [[("a", 1)], [("b", 1)]]
    assert [outcome.push.staleness for outcome in story.outcomes if outcome.push] == [0, 1]


@pytest.mark.parametrize(("held_gradients", "weight"), [("merge_sum", 1.0), ("merge_mean", 0.5)])
def test_a_held_gradient_can_be_merged_with_the_one_that_releases_it(held_gradients: str, weight: float) -> None:
    story = play(SSP(1, held_gradients), "workers fast slow\n 1 fast -> fast\n 2 fast ->\n 5 slow -> slow fast")  # type: ignore[arg-type]
    assert [story.gradients(line) for line in range(3)] == [[("fast", 1)], [], [("fast", 2), ("slow", 1)]]
    assert [gradient.weight for gradient in story.outcomes[2].updates[0].gradients] == [weight, weight]
    assert [gradient.staleness for gradient in story.outcomes[2].updates[0].gradients] == [0, 1]


def test_a_push_that_releases_nobody_leaves_held_gradients_where_they_are() -> None:
    story = play(SSP(1, "merge_sum"), "workers a b c\n 1 a -> a\n 2 a ->\n 3 b -> b\n 4 c -> c a")
    assert [story.gradients(line) for line in range(4)] == [[("a", 1)], [], [("b", 1)], [("a", 2), ("c", 1)]]


def test_the_gradient_of_a_held_worker_that_left_joins_the_next_update() -> None:
    story = play(SSP(1, "merge_sum"), "workers a b c\n 1 a -> a\n 2 a ->\n 3 a leaves ->\n 4 b -> b")
    assert [story.gradients(line) for line in range(4)] == [[("a", 1)], [], [], [("a", 2), ("b", 1)]]


def test_a_worker_that_leaves_releases_others_and_their_gradients() -> None:
    story = play(SSP(0, "merge_sum"), "workers a b c\n 1 a ->\n 2 b ->\n 3 c leaves -> a b")
    assert story.gradients(2) == [("a", 1), ("b", 1)]


def test_when_the_last_one_leaves_its_gradient_is_still_applied() -> None:
    story = play(SSP(0, "merge_sum"), "workers a b\n 1 a ->\n 2 a leaves ->\n 3 b leaves ->")
    assert story.gradients(2) == [("a", 1)]


def test_a_worker_that_joins_slows_down_those_ahead_of_it_and_gives_way() -> None:
    play(
        SSP(1), "workers a b\n 1 a -> a\n 2 b -> b\n 3 new joins -> new\n 4 a -> a\n 5 a ->\n 6 b -> b\n 7 new -> new a"
    )
