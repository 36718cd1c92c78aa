"""Small systems, looked at completely: what is promised holds in every history, and planted bugs are found."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import pytest

from dssp_bench.core.clocks import Clocks
from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import (
    Decision,
    Event,
    Flush,
    Left,
    MessageId,
    Nanoseconds,
    Outcome,
    Push,
    Release,
    Update,
    Use,
    WorkerId,
)
from dssp_bench.core.paradigm import Paradigm, View
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from tests.explore import BugFoundError, System, explore
from tests.scenario import Promise, promise_of

# Numbers of states are written down so that a change of what is explored cannot pass unseen.
SYSTEMS: list[tuple[str, Callable[[], Paradigm], int, System, int]] = [
    ("BSP", BSP, 4, System(iterations=4, crashes=2), 844),
    ("BSP, one joins", BSP, 3, System(iterations=4, crashes=2, joins=1), 1027),
    ("ASP, one joins", ASP, 3, System(iterations=3, crashes=2, joins=1), 1318),
    ("SSP(0)", partial(SSP, 0), 4, System(iterations=4, crashes=2), 528),
    ("SSP(1)", partial(SSP, 1), 5, System(iterations=4, crashes=2), 5552),
    ("SSP(1), one joins", partial(SSP, 1), 3, System(iterations=3, crashes=2, joins=1), 943),
    ("SSP(1), merged", partial(SSP, 1, "merge_sum"), 3, System(iterations=4, crashes=2, joins=1), 2010),
    ("SSP(2), merged", partial(SSP, 2, "merge_mean"), 3, System(iterations=5, crashes=1), 398),
    ("DSSP(0, 1)", partial(DSSP, 0, 1), 2, System(iterations=5, crashes=1, steps=(1, 3)), 1997),
    ("DSSP(1, 3), merged", partial(DSSP, 1, 3, held_gradients="merge_sum"), 2, System(5, 1, steps=(1, 3)), 4976),
    ("DSSP(0, 2), corrected", partial(DSSP, 0, 2, interval="hold_corrected"), 2, System(5, 1, steps=(1, 2)), 1980),
    ("DSSP(0, 1), single grant", partial(DSSP, 0, 1, "single_grant"), 2, System(5, 1, steps=(1, 3)), 2057),
    ("DSSP(0, 1), literal", partial(DSSP, 0, 1, "literal"), 2, System(5, 1, steps=(1, 3)), 3146),
    ("DSSP(0, 2), three workers", partial(DSSP, 0, 2), 3, System(iterations=4), 5057),
    ("DSSP(0, 1), one joins", partial(DSSP, 0, 1), 2, System(iterations=4, crashes=1, joins=1), 11992),
]


@pytest.mark.parametrize(
    ("make", "workers", "system", "states"), [row[1:] for row in SYSTEMS], ids=[row[0] for row in SYSTEMS]
)
def test_every_history_ends_well(make: Callable[[], Paradigm], workers: int, system: System, states: int) -> None:
    explored = explore(lambda: Coordinator(make(), range(workers)), promise_of(make()), system)
    assert explored.states == states
    assert explored.ends > 0


# --- planted bugs ----------------------------------------------------------------------------------------------------


class NobodyIsAskedAgainWhenAWorkerLeaves(SSP):
    def on_leave(self, left: Left, view: View) -> Decision:
        return Decision()


class NobodyIsAskedAgainWhenTheSlowestPushes(SSP):
    def on_push(self, push: Push, view: View) -> Decision:
        return Decision(release=(push.worker,) if self.proceeds(push, view) else ())


class OneMoreThanTheThreshold(SSP):
    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        return clocks.lead(worker) <= self.threshold + 1


class LessThanTheThreshold(SSP):
    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        return clocks.lead(worker) < self.threshold


class WhoeverIsHeldGoesOn(SSP):
    def released(self, view: View) -> tuple[WorkerId, ...]:
        return tuple(view.held)


class ThoseThatComputeAreReleased(SSP):
    def released(self, view: View) -> tuple[WorkerId, ...]:
        return tuple(view.clocks)


class OnlyTheFirstHeldIsReleased(SSP):
    def released(self, view: View) -> tuple[WorkerId, ...]:
        return super().released(view)[:1]


class GradientsOfThoseThatLeftAreForgotten(SSP):
    def on_leave(self, left: Left, view: View) -> Decision:
        for message in [message for message in view.buffered if message.worker == left.worker]:
            del view.buffered[message]
            view.orphans.pop(message, None)
        return super().on_leave(left, view)


class GradientsOfThoseThatLeftWaitForEver(SSP):
    def merged(
        self, release: tuple[WorkerId, ...], view: View, pushed: MessageId | None = None
    ) -> dict[MessageId, float] | None:
        merged = super().merged(release, view, pushed) or {}
        return {message: weight for message, weight in merged.items() if message.worker in view.clocks} or None


class HeldGradientsAreMergedTooEarly(BSP):
    def on_push(self, push: Push, view: View) -> Decision:
        return super().on_push(push, view)._replace(flush=Flush.MEAN)


class AWorkerThatLeavesSplitsTheRound(BSP):
    def on_leave(self, left: Left, view: View) -> Decision:
        return super().on_leave(left, view)._replace(flush=Flush.MEAN)


class TheGrantCostsNothing(DSSP):
    def _ask_controller(self, push: Push, view: View) -> bool:
        granted = super()._ask_controller(push, view)
        if granted:
            self._extra[push.worker] += 1
        return granted

    def _cap(self, lead: int) -> int:
        return max(0, super()._cap(lead))


class TheCapIsOneTooHigh(DSSP):
    def _cap(self, lead: int) -> int:
        return min(self.upper - self.lower, self.upper - lead + 2)


class ExtraIterationsAreNeverUsedUp(DSSP):
    def proceeds(self, push: Push, view: View) -> bool:
        before = self._extra.get(push.worker, 0)
        proceeds = super().proceeds(push, view)
        self._extra[push.worker] = max(before, self._extra.get(push.worker, 0))
        return proceeds


class ADeadWorkerIsStillCounted(Clocks):
    def remove(self, worker: WorkerId) -> bool:
        del self[worker]
        return False


class TheSlowestClockFollowsThePusher(Clocks):
    def advance(self, worker: WorkerId) -> bool:
        super().advance(worker)
        self.slowest = self[worker]
        return True


class JoinsAtZero(Clocks):
    def add(self, worker: WorkerId) -> None:
        self[worker] = 0
        self._at.setdefault(0, {})[worker] = None
        self.slowest = 0


class ALeaverStaysHeld(Coordinator):
    def _on_leave(self, left: Left) -> Outcome:
        held = self.view.held.get(left.worker)
        outcome = super()._on_leave(left)
        if held:
            self.view.held[left.worker] = held
        return outcome


class AppliedTwice(Coordinator):
    def _flush(self, flush: Flush | Mapping[MessageId, float], at: Nanoseconds) -> tuple[Update, ...]:
        orphans = {m: pulled for m, pulled in self.view.buffered.items() if m.worker not in self.view.clocks}
        updates = super()._flush(flush, at)
        self.view.buffered.update(orphans)
        self.view.orphans.update(dict.fromkeys(orphans))
        return updates


class AVersionIsSkipped(Coordinator):
    def _on_leave(self, left: Left) -> Outcome:
        self.view.version += 1
        return super()._on_leave(left)


class PullsAtItsPush(Coordinator):
    def _release(self, worker: WorkerId, at: Nanoseconds) -> Release:
        pulled, release = self._pulled.get(worker, 0), super()._release(worker, at)
        if release.held:
            self._pulled[worker] = pulled
        return release


class ReleasesBeforeUpdates(Coordinator):
    def handle(self, event: Event) -> Outcome:
        before = self.view.version
        outcome = super().handle(event)
        for release in outcome.released:
            self._pulled[release.worker] = before
        return outcome


class NoDeadlockGuard(Coordinator):
    def _guard_against_deadlock(self) -> None:
        pass


class KeepsNothing(Coordinator):
    def _to_keep(self, released: tuple[Release, ...]) -> tuple[MessageId, ...]:
        return ()


class ReleasesBeforeItMerges(SSP):
    """Correct where gradients are copied: a held worker goes on, and its gradient still waits."""

    def on_push(self, push: Push, view: View) -> Decision:
        decision = super().on_push(push, view)
        waits = Decision(Use.BUFFER, decision.release)
        return waits if len(decision.release) > 1 else decision


def counting(clocks: type[Clocks], paradigm: Paradigm, workers: Iterable[WorkerId]) -> Coordinator:
    coordinator = Coordinator(paradigm, workers)
    coordinator.view.clocks = clocks(workers)
    return coordinator


CRASH = System(iterations=3, crashes=1)
JOIN = System(iterations=3, crashes=1, joins=1)
TIMED = System(iterations=6, steps=(1, 3))
NOTHING = Promise()
S1, D1, D2 = promise_of(SSP(1)), promise_of(DSSP(0, 1)), promise_of(DSSP(0, 2))

BUGS: list[tuple[Callable[[Iterable[WorkerId]], Coordinator], Promise, System, str]] = [
    (partial(Coordinator, NobodyIsAskedAgainWhenAWorkerLeaves(1)), NOTHING, CRASH, "Deadlock"),
    (partial(NoDeadlockGuard, NobodyIsAskedAgainWhenAWorkerLeaves(1)), NOTHING, CRASH, "nobody computes"),
    (partial(Coordinator, NobodyIsAskedAgainWhenTheSlowestPushes(1)), S1, CRASH, "is held at lead 1"),
    (partial(Coordinator, OneMoreThanTheThreshold(1)), S1, CRASH, "pushed at lead 3"),
    (partial(Coordinator, LessThanTheThreshold(1)), S1, CRASH, "is held at lead 1"),
    (partial(Coordinator, WhoeverIsHeldGoesOn(1)), S1, CRASH, "pushed at lead 3"),
    (partial(Coordinator, ThoseThatComputeAreReleased(1)), S1, CRASH, "InvalidDecision"),
    (partial(Coordinator, OnlyTheFirstHeldIsReleased(1)), S1, CRASH, "is the slowest and held"),
    (partial(Coordinator, GradientsOfThoseThatLeftAreForgotten(1, "merge_sum")), S1, CRASH, "never applied"),
    (partial(Coordinator, GradientsOfThoseThatLeftWaitForEver(1, "merge_sum")), S1, CRASH, "never applied"),
    (partial(Coordinator, HeldGradientsAreMergedTooEarly()), promise_of(BSP()), CRASH, "is stale"),
    (partial(Coordinator, AWorkerThatLeavesSplitsTheRound()), promise_of(BSP()), CRASH, "is stale"),
    (partial(Coordinator, TheGrantCostsNothing(0, 2)), D2, TIMED, "pushed at lead 4"),
    (partial(Coordinator, TheCapIsOneTooHigh(0, 1)), D1, TIMED, "pushed at lead 3"),
    (partial(Coordinator, ExtraIterationsAreNeverUsedUp(0, 2)), D2, TIMED, "pushed at lead 4"),
    (partial(Coordinator, DSSP(0, 1, variant="literal")), D1, TIMED, "pushed at lead 3"),
    (partial(counting, ADeadWorkerIsStillCounted, SSP(1)), S1, CRASH, "the record says lead 1"),
    (partial(counting, TheSlowestClockFollowsThePusher, SSP(1)), S1, CRASH, "the record says lead 0"),
    (partial(counting, JoinsAtZero, SSP(1)), S1, JOIN, "released after another push"),
    (partial(ALeaverStaysHeld, SSP(1)), S1, CRASH, "KeyError"),
    (partial(AppliedTwice, SSP(1, "merge_sum")), S1, CRASH, "applied again"),
    (partial(AVersionIsSkipped, SSP(1)), S1, CRASH, "version"),
    (partial(PullsAtItsPush, SSP(1)), S1, CRASH, "another version"),
    (partial(ReleasesBeforeUpdates, SSP(1)), S1, CRASH, "another version"),
    (partial(KeepsNothing, ReleasesBeforeItMerges(1, "merge_sum")), S1, CRASH, "copy"),
]


def _name_of(make: Callable[..., Coordinator]) -> str:
    assert isinstance(make, partial)
    planted = next(part for part in (make.func, *make.args) if part not in (Coordinator, counting))
    return planted.__name__ if isinstance(planted, type) else type(planted).__name__


@pytest.mark.parametrize(("plant", "promise", "system", "complaint"), BUGS, ids=[_name_of(bug[0]) for bug in BUGS])
def test_a_planted_bug_is_found(
    plant: Callable[[Iterable[WorkerId]], Coordinator], promise: Promise, system: System, complaint: str
) -> None:
    workers = 2 if system is TIMED else 3
    with pytest.raises(BugFoundError, match=complaint):
        explore(lambda: plant(range(workers)), promise, system)
