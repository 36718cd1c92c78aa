"""BSP: rounds."""

import pytest

from dssp_bench.core.messages import Use
from dssp_bench.paradigms.bsp import BSP
from tests.scenario import play


def test_everyone_waits_for_the_last_and_then_all_go_on() -> None:
    story = play(
        BSP(),
        """
        workers fast middle slow
        1 fast   ->
        2 middle ->
        5 slow   -> slow fast middle
        6 fast   ->
        7 middle ->
        10 slow  -> slow fast middle
        """,
    )
    assert [len(outcome.updates) for outcome in story.outcomes] == [0, 0, 1, 0, 0, 1]
    assert story.gradients(2) == [("fast", 1), ("middle", 1), ("slow", 1)]


@pytest.mark.parametrize(("held_gradients", "weight"), [("merge_mean", 0.5), ("merge_sum", 1.0)])
def test_a_round_is_one_update_by_the_mean_or_the_sum(held_gradients: str, weight: float) -> None:
    story = play(BSP(held_gradients), "1 a ->\n 2 b -> b a")  # type: ignore[arg-type]
    assert [gradient.weight for gradient in story.outcomes[1].updates[0].gradients] == [weight, weight]


def test_a_gradient_waits_until_its_round_is_complete_and_is_never_stale() -> None:
    story = play(BSP(), "1 a ->\n 2 b -> b a\n 3 b ->\n 4 a -> a b")
    records = [outcome.push for outcome in story.outcomes if outcome.push]
    assert [record.use for record in records] == [Use.BUFFER] * 4
    assert [record.staleness for record in records] == [None, 0, None, 0]
    assert [record.threshold for record in records] == [0] * 4


def test_alone_a_worker_makes_a_round_of_its_own_at_every_push() -> None:
    story = play(BSP(), "1 a -> a\n 2 a -> a")
    assert [outcome.updates[0].gradients[0].weight for outcome in story.outcomes] == [1.0, 1.0]


def test_the_last_of_a_round_leaves_instead_and_the_round_is_complete_without_it() -> None:
    story = play(BSP(), "workers a b c\n 1 a ->\n 2 b ->\n 3 c leaves -> a b")
    assert story.gradients(2) == [("a", 1), ("b", 1)]
    assert story.outcomes[2].updates[0].gradients[0].weight == 0.5


def test_a_worker_that_leaves_right_after_its_last_push_is_part_of_its_round() -> None:
    story = play(BSP(), "workers a b c\n 1 a ->\n 2 a leaves ->\n 3 b ->\n 4 c -> c b\n 5 b -> \n 6 c -> c b")
    assert story.gradients(3) == [("a", 1), ("b", 1), ("c", 1)]
    assert story.gradients(5) == [("b", 2), ("c", 2)]


def test_a_worker_that_leaves_in_the_middle_of_a_round_does_not_split_it() -> None:
    story = play(BSP(), "workers a b c d\n 1 a ->\n 2 b ->\n 3 a leaves ->\n 4 d leaves ->\n 5 c -> c b")
    assert [len(outcome.updates) for outcome in story.outcomes] == [0, 0, 0, 0, 1]
    assert story.gradients(4) == [("a", 1), ("b", 1), ("c", 1)]


def test_when_the_rest_of_a_round_dies_its_gradients_make_the_last_update() -> None:
    story = play(BSP(), "workers a b\n 1 a ->\n 2 a leaves ->\n 3 b leaves ->")
    assert story.gradients(2) == [("a", 1)]


def test_when_everybody_else_has_left_those_held_go_on_as_a_round() -> None:
    story = play(BSP(), "workers a b c\n 1 a ->\n 2 b leaves ->\n 3 c leaves -> a\n 4 a -> a")
    assert story.gradients(2) == [("a", 1)]


def test_a_worker_that_joins_in_the_middle_of_a_round_is_waited_for() -> None:
    story = play(BSP(), "workers a b\n 1 a ->\n 2 new joins -> new\n 3 b ->\n 4 new -> new a b")
    assert story.gradients(3) == [("a", 1), ("b", 1), ("new", 1)]
