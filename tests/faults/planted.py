"""Bugs to plant: each is a small wrong override of one part, to be mixed into the real one.

    coordinator = plant(OnlyTheFirstHeldIsReleased, Coordinator(SSP(1), range(3)))

What a bug derives from says which part it is for; `super()` is the real thing, whichever paradigm that is.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

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
    WorkerId,
)
from dssp_bench.core.paradigm import Paradigm, View
from dssp_bench.core.server import ParameterServer
from dssp_bench.engines.delivery import Inbox, Outbox, Ruling
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP

Bug = Any
"""A class; what it does to types is nothing that a type checker could follow."""
Part = TypeVar("Part")


def plant(bug: Bug | None, part: Part) -> Part:
    """The same part, with the bug in it if it is one of those that the bug is for; a coordinator's parts too."""
    kind: Any = type(part)
    if bug is not None and isinstance(part, bug.__base__):
        part.__class__ = _mixed(bug, kind)
    if isinstance(part, Coordinator):
        plant(bug, part.paradigm)
        plant(bug, part.view.clocks)
    return part


@cache
def _mixed(bug: Bug, kind: type) -> Bug:
    return type(bug.__name__, (bug, kind), {})


# --- in a paradigm ---------------------------------------------------------------------------------------------------


class NobodyIsAskedAgainWhenAWorkerLeaves(Paradigm):
    def on_leave(self, left: Left, view: View) -> Decision:
        return Decision()


class NobodyIsAskedAgainWhenTheSlowestPushes(Paradigm):
    def on_push(self, push: Push, view: View) -> Decision:
        view.slowest_moved = False
        return super().on_push(push, view)


class OneMoreThanTheThreshold(SSP):
    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        return clocks.lead(worker) <= self.threshold + 1


class LessThanTheThreshold(SSP):
    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        return clocks.lead(worker) < max(1, self.threshold)


class WhoeverIsHeldGoesOn(Paradigm):
    def released(self, view: View) -> tuple[WorkerId, ...]:
        return tuple(view.held)


class ThoseThatComputeAreReleased(Paradigm):
    def released(self, view: View) -> tuple[WorkerId, ...]:
        return tuple(view.clocks)


class OnlyTheFirstHeldIsReleased(Paradigm):
    def released(self, view: View) -> tuple[WorkerId, ...]:
        return super().released(view)[:1]


class GradientsOfThoseThatLeftAreForgotten(Paradigm):
    def on_leave(self, left: Left, view: View) -> Decision:
        for message in [message for message in view.buffered if message.worker == left.worker]:
            del view.buffered[message]
            view.orphans.pop(message, None)
        return super().on_leave(left, view)


class GradientsOfThoseThatLeftWaitForEver(Paradigm):
    def merged(
        self, release: tuple[WorkerId, ...], view: View, pushed: MessageId | None = None
    ) -> dict[MessageId, float] | None:
        merged = super().merged(release, view, pushed) or {}
        return {message: weight for message, weight in merged.items() if message.worker in view.clocks} or None


class ThePushedGradientIsForgotten(Paradigm):
    def merged(
        self, release: tuple[WorkerId, ...], view: View, pushed: MessageId | None = None
    ) -> dict[MessageId, float] | None:
        merged = super().merged(release, view, pushed) or {}
        return {message: weight for message, weight in merged.items() if message != pushed} or None


class HeldGradientsAreMergedTooEarly(BSP):
    def on_push(self, push: Push, view: View) -> Decision:
        return super().on_push(push, view)._replace(flush=Flush.MEAN)


class AWorkerThatLeavesSplitsTheRound(BSP):
    def on_leave(self, left: Left, view: View) -> Decision:
        return super().on_leave(left, view)._replace(flush=Flush.MEAN)


class TheGrantCostsNothing(DSSP):
    def _ask_controller(self, push: Push, view: View) -> bool:
        granted = super()._ask_controller(push, view)
        if granted and self.variant != "literal":
            self._extra[push.worker] += 1
        return granted

    def _cap(self, lead: int) -> int:
        return max(0, super()._cap(lead))


class RStarIsNotCapped(DSSP):
    def _cap(self, lead: int) -> int:
        return self.upper - self.lower


class TheCapIsOneTooHigh(DSSP):
    def _cap(self, lead: int) -> int:
        return min(self.upper - self.lower, self.upper - lead + 2)


class ExtraIterationsAreNeverUsedUp(DSSP):
    def proceeds(self, push: Push, view: View) -> bool:
        before = self._extra.get(push.worker, 0)
        proceeds = super().proceeds(push, view)
        self._extra[push.worker] = max(before, self._extra.get(push.worker, 0))
        return proceeds


# --- in the clocks ---------------------------------------------------------------------------------------------------


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


# --- in the coordinator ----------------------------------------------------------------------------------------------


class ALeaverStaysHeld(Coordinator):
    def _on_leave(self, left: Left) -> Outcome:
        held = self.view.held.get(left.worker)
        outcome = super()._on_leave(left)
        if held:
            self.view.held[left.worker] = held
        return outcome


class OrphansAreAppliedTwice(Coordinator):
    def _flush(self, flush: Flush | Mapping[MessageId, float], at: Nanoseconds) -> tuple[Update, ...]:
        orphans = {m: pulled for m, pulled in self.view.buffered.items() if m.worker not in self.view.clocks}
        updates = super()._flush(flush, at)
        self.view.buffered.update(orphans)
        self.view.orphans.update(dict.fromkeys(orphans))
        return updates


class AnUpdateIsNotCounted(Coordinator):
    def _flush(self, flush: Flush | Mapping[MessageId, float], at: Nanoseconds) -> tuple[Update, ...]:
        updates = super()._flush(flush, at)
        self.view.version -= len(updates)
        return updates


class AVersionIsSkipped(Coordinator):
    def _on_leave(self, left: Left) -> Outcome:
        self.view.version += 1
        return super()._on_leave(left)


class PullsAtItsPush(Coordinator):
    def _release(self, worker: WorkerId, at: Nanoseconds) -> Release:
        pulled, release = self._pulled.get(worker, 0), super()._release(worker, at)
        if release.held or len(self.view.held) > 1:
            self._pulled[worker] = pulled
        return release


class ReleasesBeforeUpdates(Coordinator):
    def handle(self, event: Event) -> Outcome:
        before = self.view.version
        outcome = super().handle(event)
        for release in outcome.released:
            self._pulled[release.worker] = before
        return outcome


class KeepsNothing(Coordinator):
    def _to_keep(self, released: tuple[Release, ...]) -> tuple[MessageId, ...]:
        return ()


class NoDeadlockGuard(Coordinator):
    def _guard_against_deadlock(self) -> None:
        pass


# --- in the parameter server -----------------------------------------------------------------------------------------


class CopiesNothing(ParameterServer):
    def carry_out(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        super().carry_out(outcome._replace(keep=()), learning_rates)


class OnlyTheFirstGradientOfAnUpdateIsApplied(ParameterServer):
    def _apply(self, update: Update, learning_rate: float) -> None:
        super()._apply(update._replace(gradients=update.gradients[:1]), learning_rate)


# --- in delivery -----------------------------------------------------------------------------------------------------


class ARepeatIsTakenAgain(Inbox[int]):
    def receive(self, worker: WorkerId, number: int) -> Ruling:
        again = number == self._taken.get(worker)
        ruling = super().receive(worker, number)
        return Ruling.TAKE if again and number else ruling


class AStragglerIsTaken(Inbox[int]):
    def receive(self, worker: WorkerId, number: int) -> Ruling:
        straggles = 0 < number < self._taken.get(worker, 0)
        ruling = super().receive(worker, number)
        return Ruling.TAKE if straggles else ruling


class ALostAnswerIsNeverRepeated(Inbox[int]):
    def receive(self, worker: WorkerId, number: int) -> Ruling:
        ruling = super().receive(worker, number)
        return Ruling.IGNORE if ruling is Ruling.REPEAT else ruling


class ARepeatIsAnsweredWithNewerWeights(Inbox[int]):
    def answer_again(self, worker: WorkerId) -> int:
        return max(self._answers.values())


class TheDeadMayPush(Inbox[int]):
    def forget(self, worker: WorkerId) -> bool:
        known_before = self.__dict__.setdefault("dead", set())
        first_time = worker in self._taken and worker not in known_before
        known_before.add(worker)
        return first_time


class TheDeadMayComeBack(Inbox[int]):
    def forget(self, worker: WorkerId) -> bool:
        took_part = super().forget(worker)
        self._departed.discard(worker)
        return took_part


class APushIsNeverRepeated(Outbox):
    @property
    def unanswered(self) -> int | None:
        return super().unanswered if self._latest == 0 else None


class ARepeatedAnswerStartsAnotherIteration(Outbox):
    def receive(self, number: int) -> bool:
        return super().receive(number) or number == self._latest


class AnyAnswerWillDo(Outbox):
    def receive(self, number: int) -> bool:
        return super().receive(self._latest)
