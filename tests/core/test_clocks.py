"""Clocks, against a dumb min() and max()."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssp_bench.core.clocks import Clocks
from dssp_bench.core.errors import ProtocolViolation


def test_everyone_starts_at_zero_and_a_clock_counts_pushes() -> None:
    clocks = Clocks([3, 1, 2])
    assert [clocks[worker] for worker in clocks] == [0, 0, 0]
    clocks.advance(1)
    clocks.advance(1)
    assert (clocks[1], clocks.fastest, clocks.slowest, clocks.lead(1), clocks.lead(3)) == (2, 2, 0, 2, 0)


def test_the_slowest_clock_moves_when_the_last_of_the_slowest_pushes() -> None:
    clocks = Clocks([0, 1])
    assert not clocks.advance(0)
    assert clocks.advance(1)
    assert clocks.slowest == 1


def test_the_slowest_clock_jumps_over_empty_levels_when_the_slowest_leaves() -> None:
    clocks = Clocks([0, 1])
    for _ in range(7):
        clocks.advance(0)
    assert clocks.remove(1)
    assert (clocks.slowest, clocks.lead(0)) == (7, 0)


def test_the_fastest_clock_falls_when_the_fastest_leaves() -> None:
    clocks = Clocks([0, 1, 2])
    for worker in (0, 0, 0, 0, 1):
        clocks.advance(worker)
    assert not clocks.remove(0)
    assert clocks.fastest == 1


def test_a_worker_that_joins_is_neither_ahead_nor_behind() -> None:
    clocks = Clocks([0, 1])
    clocks.advance(0)
    clocks.advance(1)
    clocks.advance(1)
    clocks.add(2)
    assert (clocks[2], clocks.lead(2)) == (1, 0)
    assert list(clocks.slowest_workers()) == [0, 2]


def test_a_worker_that_is_here_cannot_join() -> None:
    clocks = Clocks([0, 7])
    clocks.advance(7)
    with pytest.raises(ProtocolViolation, match=r"worker 7 joined, but it is here already, at clock 1"):
        clocks.add(7)


def test_two_workers_cannot_share_an_id() -> None:
    with pytest.raises(ProtocolViolation, match="worker 4 joined"):
        Clocks([4, 4])


def test_with_nobody_left_the_clocks_wait_for_whoever_joins() -> None:
    clocks = Clocks([0])
    clocks.advance(0)
    assert not clocks.remove(0)
    assert (len(clocks), list(clocks), list(clocks.slowest_workers()), 0 in clocks) == (0, [], [], False)
    clocks.add(1)
    assert (clocks[1], clocks.slowest, clocks.fastest) == (1, 1, 1)


def test_without_workers_there_is_nobody() -> None:
    clocks = Clocks()
    assert (len(clocks), clocks.slowest, clocks.fastest, list(clocks.slowest_workers())) == (0, 0, 0, [])


class DumbClocks:
    """What Clocks is, at a cost that nobody would pay."""

    def __init__(self, workers: int) -> None:
        self.clock = dict.fromkeys(range(workers), 0)
        self.came = {worker: (0, worker) for worker in range(workers)}  # when each came to its clock
        self.slowest = 0

    def look(self) -> None:
        self.slowest = min(self.clock.values(), default=self.slowest)

    def slowest_workers(self) -> list[int]:
        slowest = [worker for worker, clock in self.clock.items() if clock == self.slowest]
        return sorted(slowest, key=lambda worker: self.came[worker])


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(["push", "push", "push", "leave", "join"]), st.integers(0, 5))),
)
def test_any_history_ends_as_with_min_and_max(workers: int, history: list[tuple[str, int]]) -> None:
    clocks, dumb = Clocks(range(workers)), DumbClocks(workers)
    for now, (verb, worker) in enumerate(history, start=1):
        before = dumb.slowest
        if verb == "join" and worker not in dumb.clock:
            clocks.add(worker)
            dumb.clock[worker] = dumb.slowest
        elif verb == "join" or worker not in dumb.clock:
            assert (verb == "join") == (worker in clocks)
            continue
        elif verb == "push":
            dumb.clock[worker] += 1
            dumb.look()
            assert clocks.advance(worker) == (dumb.slowest != before)
        else:
            del dumb.clock[worker]
            dumb.look()
            assert clocks.remove(worker) == (dumb.slowest != before)
        if worker in dumb.clock:
            dumb.came[worker] = (now, worker)
        assert {worker: clocks[worker] for worker in clocks} == dumb.clock
        assert {worker: clocks.lead(worker) for worker in clocks} == {
            w: c - dumb.slowest for w, c in dumb.clock.items()
        }
        assert list(clocks.slowest_workers()) == dumb.slowest_workers()
        assert (len(clocks), clocks.slowest) == (len(dumb.clock), dumb.slowest)
        assert not dumb.clock or clocks.fastest == max(dumb.clock.values())
