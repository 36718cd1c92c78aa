"""Small systems, looked at completely: what is promised holds in every history. Planted bugs are in tests/faults."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from tests.explore import AnyGrant, Explored, MergesByThree, System, explore
from tests.scenario import promise_of

TWO_CRASHES = System(iterations=5, crashes=2)
JOINS = System(iterations=4, crashes=2, joins=1)
SMALL = System(iterations=3, crashes=1, joins=1)
TIMED = System(iterations=5, crashes=1, steps=(1, 3))

# Numbers of states are written down so that a change of what is explored cannot pass unseen.
SYSTEMS: list[tuple[str, Callable[[], Paradigm], int, System, int]] = [
    ("BSP", BSP, 5, TWO_CRASHES, 136),
    ("BSP, one joins", BSP, 3, JOINS, 134),
    ("ASP", ASP, 5, TWO_CRASHES, 766),
    ("ASP, one joins", ASP, 3, JOINS, 302),
    ("SSP(0)", partial(SSP, 0), 5, TWO_CRASHES, 96),
    ("SSP(1)", partial(SSP, 1), 5, TWO_CRASHES, 208),
    ("SSP(2)", partial(SSP, 2), 5, TWO_CRASHES, 367),
    ("SSP(1), one joins", partial(SSP, 1), 3, JOINS, 165),
    ("SSP(1), merged", partial(SSP, 1, "merge_sum"), 5, TWO_CRASHES, 335),
    ("SSP(1), merged, one joins", partial(SSP, 1, "merge_mean"), 3, JOINS, 228),
    ("SSP(1), merged by three", partial(MergesByThree, 1), 5, TWO_CRASHES, 685),
    ("DSSP(0, 2)", partial(AnyGrant, 0, 2), 4, TWO_CRASHES, 2378),
    ("DSSP(1, 3)", partial(AnyGrant, 1, 3), 4, TWO_CRASHES, 2653),
    ("DSSP(1, 3), merged", partial(AnyGrant, 1, 3, held_gradients="merge_sum"), 4, TWO_CRASHES, 3687),
    ("DSSP(1, 3), single grant", partial(AnyGrant, 1, 3, "single_grant"), 4, TWO_CRASHES, 2653),
    ("DSSP(1, 2), literal", partial(AnyGrant, 1, 2, "literal"), 4, TWO_CRASHES, 2540),
    ("DSSP(0, 2), one joins", partial(AnyGrant, 0, 2), 3, JOINS, 2238),
    ("DSSP(0, 1), timed", partial(DSSP, 0, 1), 2, TIMED, 1001),
    ("DSSP(0, 2), timed, corrected", partial(DSSP, 0, 2, interval="hold_corrected"), 2, TIMED, 1178),
    ("DSSP(0, 2), timed, three workers", partial(DSSP, 0, 2), 3, System(iterations=4, steps=(1,)), 885),
]


def looked_at(make: Callable[[], Paradigm], workers: int, system: System, *, alike: bool = True) -> Explored:
    return explore(lambda: Coordinator(make(), range(workers)), promise_of(make()), system, alike=alike)


@pytest.mark.parametrize(
    ("make", "workers", "system", "states"), [row[1:] for row in SYSTEMS], ids=[row[0] for row in SYSTEMS]
)
def test_every_history_ends_well(make: Callable[[], Paradigm], workers: int, system: System, states: int) -> None:
    explored = looked_at(make, workers, system)
    assert explored.states == states
    assert explored.ends > 0


EACH = pytest.mark.parametrize(
    "make", [BSP, ASP, partial(SSP, 1, "merge_sum"), partial(MergesByThree, 1), partial(AnyGrant, 0, 1)]
)


@EACH
def test_workers_that_are_interchanged_lead_to_nothing_new(make: Callable[[], Paradigm]) -> None:
    each = looked_at(make, 3, SMALL, alike=False)
    alike = looked_at(make, 3, SMALL)
    assert alike.states < each.states
    assert alike.seen == {without_names(key) for key in each.seen}


def without_names(key: object) -> object:
    """What the key would be if workers were interchangeable."""
    assert isinstance(key, tuple)
    *workers, orphans, slowest, crashes, joins = key
    return (*sorted(tuple(mine) for _, *mine in workers), orphans, slowest, crashes, joins)


@EACH
def test_copies_share_nothing_that_can_change(make: Callable[[], Paradigm], monkeypatch: pytest.MonkeyPatch) -> None:
    fast = looked_at(make, 2, SMALL)
    monkeypatch.setattr("tests.explore.copy_of", deepcopy)
    assert looked_at(make, 2, SMALL) == fast
