"""Planted bugs are found, by the exhaustive exploration or by the fault simulation; the table says by which."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.ssp import SSP
from tests.explore import AnyGrant, BugFoundError, MergesByThree, System, explore
from tests.faults import planted
from tests.faults.planted import Bug, plant
from tests.faults.simulation import SEEDS, failures
from tests.scenario import Promise, promise_of

CRASH = System(iterations=3, crashes=1)
JOIN = System(iterations=3, crashes=1, joins=1)
LONG = System(iterations=6)

Make = Callable[[], Paradigm]
SSP1: Make = partial(SSP, 1)
MERGED: Make = partial(SSP, 1, "merge_sum")
DSSP2: Make = partial(AnyGrant, 0, 2)


@dataclass(frozen=True)
class Explored:
    """Where the exploration finds a bug, and what it says."""

    complaint: str
    make: Make = SSP1
    system: System = CRASH
    promised: bool = True


@dataclass(frozen=True)
class Row:
    """One bug, and who finds it; `simulated` is what the simulation says."""

    bug: Bug
    explored: Explored | None = None
    simulated: str | None = None


FOUND = [
    Row(planted.NobodyIsAskedAgainWhenAWorkerLeaves, Explored("Deadlock", promised=False), "Deadlock"),
    Row(planted.NobodyIsAskedAgainWhenTheSlowestPushes, Explored("is held at lead 1"), "is the slowest and held"),
    Row(planted.OneMoreThanTheThreshold, Explored("pushed at lead 3"), "pushed at lead"),
    Row(planted.LessThanTheThreshold, Explored("is held at lead 1"), "is held at lead"),
    Row(planted.WhoeverIsHeldGoesOn, Explored("pushed at lead 3"), "pushed at lead"),
    Row(planted.ThoseThatComputeAreReleased, Explored("InvalidDecision"), "InvalidDecision"),
    Row(planted.OnlyTheFirstHeldIsReleased, Explored("is the slowest and held"), "is the slowest and held"),
    Row(planted.GradientsOfThoseThatLeftAreForgotten, Explored("waiting gradients: {}", MERGED), "waiting gradients"),
    Row(planted.GradientsOfThoseThatLeftWaitForEver, Explored("never applied", MERGED), "never applied"),
    Row(planted.ThePushedGradientIsForgotten, Explored("never applied", MERGED), "never applied"),
    Row(planted.HeldGradientsAreMergedTooEarly, Explored("is stale", BSP), "is stale"),
    Row(planted.AWorkerThatLeavesSplitsTheRound, Explored("is stale", BSP), "is stale"),
    Row(planted.TheGrantCostsNothing, Explored("pushed at lead 4", DSSP2, LONG), "pushed at lead"),
    Row(planted.RStarIsNotCapped, Explored("pushed at lead 4", DSSP2, LONG), "pushed at lead"),
    Row(planted.TheCapIsOneTooHigh, Explored("pushed at lead 4", DSSP2, LONG), "pushed at lead"),
    Row(planted.ExtraIterationsAreNeverUsedUp, Explored("pushed at lead 4", DSSP2, LONG), "pushed at lead"),
    Row(planted.ADeadWorkerIsStillCounted, Explored("the record says lead 1"), "Deadlock"),
    Row(planted.TheSlowestClockFollowsThePusher, Explored("the record says lead 0"), "the record says lead"),
    Row(planted.JoinsAtZero, Explored("released after another push", system=JOIN), "released after another push"),
    Row(planted.ALeaverStaysHeld, Explored("held workers"), "held workers"),
    Row(planted.OrphansAreAppliedTwice, Explored("waiting gradients", MERGED), "waiting gradients"),
    Row(planted.AnUpdateIsNotCounted, Explored("differ in staleness", MERGED), "differ in staleness"),
    Row(planted.AVersionIsSkipped, Explored("coordinator's version"), "version"),
    Row(planted.PullsAtItsPush, Explored("pulled versions"), "pulled versions"),
    Row(planted.ReleasesBeforeUpdates, Explored("pulled versions"), "pulled versions"),
    Row(planted.KeepsNothing, Explored("copy", partial(MergesByThree, 1)), "copy"),
    Row(planted.CopiesNothing, simulated="while its worker might write it"),
    Row(planted.OnlyTheFirstGradientOfAnUpdateIsApplied, simulated="was applied instead of"),
    Row(planted.ARepeatIsTakenAgain, simulated="was applied twice"),
    Row(planted.AStragglerIsTaken, simulated="was applied twice"),
    Row(planted.ALostAnswerIsNeverRepeated, simulated="there is no end yet"),
    Row(planted.ARepeatIsAnsweredWithNewerWeights, simulated="was computed on version"),
    Row(planted.TheDeadMayPush, simulated="it is not one of the live workers"),
    Row(planted.TheDeadMayComeBack, simulated="left before"),
    Row(planted.APushIsNeverRepeated, simulated="these have not finished"),
    Row(planted.ARepeatedAnswerStartsAnotherIteration, simulated="has no answer yet"),
    Row(planted.AnyAnswerWillDo, simulated="was computed on version"),
]
EXPLORED = [row for row in FOUND if row.explored]
SIMULATED = [row for row in FOUND if row.simulated is not None]


def look_at(where: Explored, bug: Bug | None) -> None:
    promise = promise_of(where.make()) if where.promised else Promise()
    explore(lambda: plant(bug, Coordinator(where.make(), range(3))), promise, where.system)


@pytest.mark.parametrize("row", EXPLORED, ids=[row.bug.__name__ for row in EXPLORED])
def test_the_exploration_finds(row: Row) -> None:
    assert row.explored is not None
    with pytest.raises(BugFoundError, match=row.explored.complaint):
        look_at(row.explored, row.bug)


@pytest.mark.parametrize("row", SIMULATED, ids=[row.bug.__name__ for row in SIMULATED])
def test_the_simulation_finds(row: Row) -> None:
    assert row.simulated is not None
    assert any(row.simulated in complaint for _, complaint in failures(row.bug, SEEDS))


def test_the_exploration_finds_nothing_where_nothing_is_planted() -> None:
    """The simulation's seeds are played without a bug in test_simulation."""
    for where in {row.explored for row in EXPLORED if row.explored}:
        look_at(where, None)


def test_the_exploration_needs_no_help_to_see_that_nobody_computes() -> None:
    def make() -> Coordinator:
        stuck = plant(planted.NobodyIsAskedAgainWhenAWorkerLeaves, Coordinator(SSP(1), range(3)))
        return plant(planted.NoDeadlockGuard, stuck)

    with pytest.raises(BugFoundError, match="nobody computes"):
        explore(make, Promise(), CRASH)
