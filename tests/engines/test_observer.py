"""Snapshots of the weights: when they are asked for."""

from collections.abc import Sequence
from math import inf

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Event, Joined, Left, Nanoseconds, Push
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.schedule import LearningRate
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.observer import Membership, Snapshots
from dssp_bench.engines.serve import serve
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from tests.engines.scripted import ScriptedEngine, turns

RATE = LearningRate(1.0, (), 0.1, "samples", "none", workers=2, batch_size=4, examples=100)
Taken = list[tuple[Nanoseconds, int, int]]


def snapshots(
    every: float,
    events: Sequence[Event],
    paradigm: Paradigm | None = None,
    refused: Sequence[Nanoseconds] = (),
    present: Sequence[int] = (0, 1),
) -> Taken:
    """The moment, version and samples of each snapshot, four samples to a push; `refused`: when no copy is free."""
    taken: Taken = []

    def take(at: Nanoseconds, version: int, samples: int) -> bool:
        if at in refused:
            return False
        taken.append((at, version, samples))
        return True

    observers = [Snapshots(every, 4, take)]
    serve(Coordinator(paradigm or ASP(), present), ScriptedEngine(events), Limits(), RATE, None, observers)
    return taken


def test_there_is_one_at_the_start_and_one_at_the_end() -> None:
    assert snapshots(inf, turns(0, 1, 0)) == [(0, 0, 0), (3, 3, 12)]


def test_there_is_one_whenever_enough_samples_were_pushed() -> None:
    assert snapshots(8, turns(0, 1, 0, 1, 0)) == [(0, 0, 0), (2, 2, 8), (4, 4, 16), (5, 5, 20)]


def test_an_interval_that_is_no_multiple_of_a_batch_is_kept_on_average() -> None:
    # Due at 6, 12, 18, 24 samples, so at pushes 2, 3, 5 and 6.
    assert [samples for *_, samples in snapshots(6, turns(*[0, 1] * 3))] == [0, 8, 12, 20, 24]


def test_an_interval_shorter_than_a_batch_means_every_push() -> None:
    assert [samples for *_, samples in snapshots(0.5, turns(0, 1, 0))] == [0, 4, 8, 12]


def test_nothing_is_taken_twice_when_the_last_push_was_due_anyway() -> None:
    assert snapshots(8, turns(0, 1)) == [(0, 0, 0), (2, 2, 8)]


def test_a_run_without_a_push_has_one_snapshot() -> None:
    assert snapshots(1, []) == [(0, 0, 0)]


def test_a_snapshot_that_found_no_free_copy_is_taken_at_the_next_push() -> None:
    assert snapshots(8, turns(*[0, 1] * 3), refused=[2, 3]) == [(0, 0, 0), (4, 4, 16), (6, 6, 24)]


def test_what_happens_at_the_very_start_takes_no_second_one() -> None:
    events: list[Event] = [Left(1, 0), Joined(2, 0), Push(0, 5)]
    assert snapshots(inf, events) == [(0, 0, 0), (5, 1, 4)]


def test_a_held_gradient_that_is_not_applied_yet_is_not_in_the_version() -> None:
    assert snapshots(inf, turns(0), BSP()) == [(0, 0, 0), (1, 0, 4)]


def test_an_update_without_a_push_is_worth_a_last_snapshot() -> None:
    assert snapshots(4, [Push(0, 1), Left(1, 2)], BSP()) == [(0, 0, 0), (1, 0, 4), (2, 1, 4)]


def test_the_end_may_be_asked_for_again_if_no_copy_was_free_for_it() -> None:
    answers = iter([True, False, True])
    taken: Taken = []

    def take(at: Nanoseconds, version: int, samples: int) -> bool:
        taken.append((at, version, samples))
        return next(answers)

    observer = Snapshots(inf, 4, take)
    serve(Coordinator(ASP(), [0]), ScriptedEngine(turns(0)), Limits(), RATE, None, [observer])
    observer.on_finish(1)
    observer.on_finish(1)  # it has been taken: nobody is asked any more
    assert taken == [(0, 0, 0), (1, 1, 4), (1, 1, 4)]


def test_membership_keeps_who_left_and_joined_and_when() -> None:
    membership = Membership()
    events: list[Event] = [Push(0, 1), Left(0, 2), Push(1, 3), Joined(2, 4)]
    serve(Coordinator(ASP(), [0, 1]), ScriptedEngine(events), Limits(), RATE, None, [membership])
    assert membership.events == [
        {"event": "left", "worker": 0, "at_ns": 2, "after_pushes": 1},
        {"event": "joined", "worker": 2, "at_ns": 4, "after_pushes": 2},
    ]
