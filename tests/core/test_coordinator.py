"""The coordinator's guarantees, one story each, with paradigms that say what the story needs."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from dssp_bench.core.clocks import Clocks
from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.errors import Deadlock, InvalidDecision, ProtocolViolation
from dssp_bench.core.messages import (
    Applied,
    Decision,
    Event,
    Flush,
    Joined,
    Left,
    MessageId,
    Outcome,
    Push,
    PushRecord,
    Release,
    Timer,
    TimerFired,
    Update,
    Use,
    WorkerId,
)
from dssp_bench.core.paradigm import Paradigm, View
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP

HOLD = Decision()


@dataclass
class Scripted(Paradigm):
    """Answers event after event with what it was given."""

    answers: list[Decision] = field(default_factory=list)

    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        raise AssertionError("nobody asks")

    def on_push(self, push: Push, view: View) -> Decision:
        return self.answers.pop(0)

    def on_leave(self, left: Left, view: View) -> Decision:
        return self.answers.pop(0)

    def on_join(self, joined: Joined, view: View) -> Decision:
        return self.answers.pop(0)

    def on_timer(self, timer: TimerFired, view: View) -> Decision:
        return self.answers.pop(0)


def started(workers: int, *answers: Decision) -> Coordinator:
    coordinator = Coordinator(Scripted(list(answers)), range(workers))
    coordinator.start()
    return coordinator


def go(worker: WorkerId, use: Use = Use.APPLY) -> Decision:
    return Decision(use, release=(worker,))


# --- start -----------------------------------------------------------------------------------------------------------


def test_start_releases_everyone_at_time_zero_and_at_clock_zero() -> None:
    coordinator = Coordinator(ASP(), [4, 2])
    outcome = coordinator.start()
    assert outcome == Outcome(0, released=(Release(4, 0, MessageId(4, 0)), Release(2, 0, MessageId(2, 0))))
    assert (coordinator.computing, coordinator.pushes, coordinator.view.version) == (2, 0, 0)


def test_the_paradigm_is_reset_with_the_workers_of_the_run() -> None:
    class Asks(ASP):
        def reset(self, workers: object) -> None:
            self.workers = list(workers)  # type: ignore[call-overload]

    paradigm = Asks()
    Coordinator(paradigm, [4, 2])
    assert paradigm.workers == [4, 2]


# --- push ------------------------------------------------------------------------------------------------------------


def test_a_push_that_is_applied_and_goes_on() -> None:
    coordinator = started(2, go(0))
    assert coordinator.handle(Push(0, 30, 25, loss=1.5)) == Outcome(
        at=30,
        push=PushRecord(
            worker=0, clock=1, lead=1, pulled_version=0, version=1, staleness=0, at=30, compute=25, held=0,
            use=Use.APPLY, threshold=None, loss=1.5,
        ),
        updates=(Update(1, 30, (Applied(MessageId(0, 1), 0, 1.0),)),),
        released=(Release(0, 0, MessageId(0, 1)),),
    )  # fmt: skip
    assert coordinator.pushes == 1


def test_a_push_that_is_held_says_so_by_not_knowing_for_how_long() -> None:
    coordinator = started(2, HOLD, Decision(release=(1, 0)))
    held = coordinator.handle(Push(0, 10)).push
    assert held is not None
    assert held.held is None
    assert coordinator.computing == 1
    assert coordinator.handle(Push(1, 50)).released == (Release(1, 0, MessageId(1, 1)), Release(0, 40, MessageId(0, 1)))


def test_the_weight_of_a_gradient_travels_with_its_update() -> None:
    outcome = started(1, Decision(release=(0,), weight=0.25)).handle(Push(0, 1))
    assert [gradient.weight for gradient in outcome.updates[0].gradients] == [0.25]


def test_a_dropped_gradient_changes_nothing_and_has_no_staleness() -> None:
    coordinator = started(2, go(0, Use.DROP), go(1))
    dropped = coordinator.handle(Push(0, 1))
    assert dropped.push is not None
    assert (dropped.updates, dropped.push.staleness, dropped.push.use) == ((), None, Use.DROP)
    assert (coordinator.view.version, coordinator.pushes, coordinator.view.clocks[0]) == (0, 1, 1)
    assert coordinator.handle(Push(1, 2)).updates[0].version == 1


@pytest.mark.parametrize(
    "decision",
    [
        go(0),
        go(0, Use.BUFFER),
        Decision(Use.BUFFER, (0,), Flush.MEAN),
        Decision(Use.BUFFER, (0,), {MessageId(0, 1): 0.5}),
        Decision(Use.APPLY, (0,), weight=0.1),
    ],
)
def test_a_gradient_that_is_not_finite_changes_nothing_whatever_the_paradigm_says(decision: Decision) -> None:
    coordinator = started(2, decision, go(1))
    outcome = coordinator.handle(Push(0, 1, finite=False))
    assert outcome.push is not None
    assert (outcome.push.use, outcome.push.staleness, outcome.updates, outcome.keep) == (Use.SKIP, None, (), ())
    assert [release.worker for release in outcome.released] == [0]
    assert (coordinator.view.version, coordinator.view.clocks[0], coordinator.view.buffered) == (0, 1, {})
    assert coordinator.handle(Push(1, 2)).updates[0].version == 1


def test_a_round_is_the_mean_of_those_gradients_that_are_finite() -> None:
    coordinator = Coordinator(BSP(), range(3))
    coordinator.start()
    for infinite in (0, 2):
        outcomes = [coordinator.handle(Push(worker, 1, finite=worker != infinite)) for worker in range(3)]
        (update,) = outcomes[-1].updates
        assert {applied.message.worker: applied.weight for applied in update.gradients} == {
            worker: 0.5 for worker in range(3) if worker != infinite
        }
        assert sorted(release.worker for release in outcomes[-1].released) == [0, 1, 2]


@pytest.mark.parametrize("paradigm", [BSP(), SSP(0), SSP(1, held_gradients="merge_sum"), ASP(), DSSP(1, 2)])
def test_a_run_without_a_finite_gradient_goes_on_without_an_update(paradigm: Paradigm) -> None:
    coordinator = Coordinator(paradigm, range(2))
    coordinator.start()
    for clock in range(1, 6):
        outcomes = [coordinator.handle(Push(worker, clock, finite=False)) for worker in range(2)]
        assert sum(len(outcome.released) for outcome in outcomes) == 2
    assert coordinator.view.version == 0


def test_the_record_names_the_largest_lead_after_the_decision() -> None:
    class Learns(ASP):
        limit = 0

        def proceeds(self, push: Push, view: View) -> bool:
            self.limit += 5
            return True

        def largest_lead(self, worker: WorkerId, clocks: Clocks) -> int:
            return self.limit

    coordinator = Coordinator(Learns(), [0])
    coordinator.start()
    record = coordinator.handle(Push(0, 1)).push
    assert record is not None
    assert record.threshold == 5


# --- staleness and versions ------------------------------------------------------------------------------------------


def test_staleness_counts_the_updates_between_pull_and_application() -> None:
    coordinator = Coordinator(ASP(), range(2))
    coordinator.start()
    records = [coordinator.handle(Push(worker, at)).push for at, worker in enumerate([0, 0, 0, 1, 0])]
    assert [r.staleness for r in records if r] == [0, 0, 0, 3, 1]
    assert [r.pulled_version for r in records if r] == [0, 1, 2, 0, 3]
    assert [r.version for r in records if r] == [1, 2, 3, 4, 5]


def test_the_staleness_of_a_buffered_gradient_is_measured_when_it_is_flushed() -> None:
    coordinator = started(2, Decision(Use.BUFFER), go(1), Decision(Use.APPLY, (1,), Flush.SUM))
    waits = coordinator.handle(Push(0, 1)).push
    assert waits is not None
    assert waits.staleness is None
    coordinator.handle(Push(1, 2))
    outcome = coordinator.handle(Push(1, 3))
    assert [(u.version, u.gradients) for u in outcome.updates] == [
        (2, (Applied(MessageId(1, 2), 0, 1.0),)),
        (3, (Applied(MessageId(0, 1), 2, 1.0),)),
    ]
    assert outcome.push is not None
    assert (outcome.push.staleness, outcome.push.version) == (0, 3)


def test_a_worker_that_is_released_pulls_what_the_same_event_updated() -> None:
    coordinator = started(2, Decision(Use.BUFFER), Decision(Use.APPLY, (1, 0), Flush.MEAN), go(0))
    coordinator.handle(Push(0, 1))
    coordinator.handle(Push(1, 2))
    record = coordinator.handle(Push(0, 3)).push
    assert record is not None
    assert (record.pulled_version, record.staleness) == (2, 0)


# --- flush -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flush", "weight"), [(Flush.MEAN, 1 / 3), (Flush.SUM, 1.0)])
def test_a_flush_makes_one_update_of_everything_that_waits(flush: Flush, weight: float) -> None:
    buffer = Decision(Use.BUFFER)
    coordinator = started(3, buffer, buffer, Decision(Use.BUFFER, (0, 1, 2), flush))
    for worker in (2, 0):
        assert coordinator.handle(Push(worker, worker)).updates == ()
    outcome = coordinator.handle(Push(1, 9))
    assert outcome.updates == (Update(1, 9, tuple(Applied(MessageId(w, 1), 0, weight) for w in (2, 0, 1))),)
    assert coordinator.view.buffered == {}


def test_a_flush_can_name_gradients_and_their_weights_and_leave_the_others() -> None:
    buffer, first = Decision(Use.BUFFER), MessageId(0, 1)
    coordinator = started(2, buffer, Decision(Use.BUFFER, (0,), {first: 0.5}))
    coordinator.handle(Push(0, 1))
    outcome = coordinator.handle(Push(1, 2))
    assert outcome.updates == (Update(1, 2, (Applied(first, 0, 0.5),)),)
    assert outcome.push is not None
    assert outcome.push.staleness is None
    assert list(coordinator.view.buffered) == [MessageId(1, 1)]


@pytest.mark.parametrize("flush", [Flush.MEAN, Flush.SUM, {}])
def test_flushing_nothing_is_no_update(flush: Flush | dict[MessageId, float]) -> None:
    coordinator = started(1, Decision(Use.DROP, (0,), flush))
    assert coordinator.handle(Push(0, 1)).updates == ()
    assert coordinator.view.version == 0


def test_only_what_waits_can_be_flushed() -> None:
    coordinator = started(1, Decision(Use.APPLY, (0,), {MessageId(0, 1): 1.0}))
    with pytest.raises(InvalidDecision, match="Scripted flushed gradients that are not buffered"):
        coordinator.handle(Push(0, 1))


def test_a_gradient_that_waits_while_its_worker_goes_on_is_to_be_copied() -> None:
    coordinator = started(
        2, go(0, Use.BUFFER), Decision(Use.BUFFER), Decision(Use.BUFFER, (0, 1), {MessageId(0, 2): 1})
    )
    assert coordinator.handle(Push(0, 1)).keep == (MessageId(0, 1),)
    assert coordinator.handle(Push(1, 2)).keep == ()
    assert coordinator.handle(Push(0, 3)).keep == (MessageId(1, 1),)
    assert list(coordinator.view.buffered) == [MessageId(0, 1), MessageId(1, 1)]


def test_a_gradient_that_was_held_is_copied_when_its_worker_goes_on_without_it() -> None:
    coordinator = started(2, Decision(Use.BUFFER), Decision(release=(0,)))
    assert coordinator.handle(Push(0, 1)).keep == ()
    assert coordinator.handle(Left(1, 2)).keep == (MessageId(0, 1),)


# --- release ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "culprit"), [((0, 1), "worker 1, which"), ((0, 0), "worker 0, which"), ((7,), "worker 7, which")]
)
def test_only_held_workers_can_be_released_and_only_once(release: tuple[WorkerId, ...], culprit: str) -> None:
    coordinator = started(2, Decision(release=release))
    with pytest.raises(InvalidDecision, match=f"Scripted released {culprit} is not held"):
        coordinator.handle(Push(0, 1))


def test_the_paradigm_sees_for_how_long_a_worker_was_held_before_its_iteration() -> None:
    coordinator = started(2, HOLD, Decision(release=(0, 1)), go(0))
    coordinator.handle(Push(0, 10))
    coordinator.handle(Push(1, 35))
    assert coordinator.view.last_hold == {0: 25}
    coordinator.handle(Push(0, 50))
    assert coordinator.view.last_hold == {}


def test_held_workers_are_seen_in_the_order_in_which_they_were_held() -> None:
    coordinator = started(4, HOLD, HOLD, HOLD)
    for at, worker in enumerate([2, 0, 3]):
        coordinator.handle(Push(worker, at))
    assert list(coordinator.view.held) == [2, 0, 3]
    assert coordinator.view.held[0] == Push(0, 1)


# --- leave and join --------------------------------------------------------------------------------------------------


def test_who_waited_for_a_worker_that_left_is_asked_again() -> None:
    coordinator = Coordinator(SSP(threshold=0), range(3))
    coordinator.start()
    coordinator.handle(Push(0, 1))
    coordinator.handle(Push(1, 2))
    assert coordinator.handle(Left(2, 9)).released == (Release(0, 8, MessageId(0, 1)), Release(1, 7, MessageId(1, 1)))


def test_a_worker_that_left_while_held_is_not_released() -> None:
    coordinator = Coordinator(SSP(threshold=0), range(2))
    coordinator.start()
    coordinator.handle(Push(0, 1))
    assert coordinator.handle(Left(0, 2)) == Outcome(2)
    assert [release.worker for release in coordinator.handle(Push(1, 3)).released] == [1]


def test_a_worker_joins_at_the_slowest_clock_with_the_newest_version() -> None:
    coordinator = Coordinator(SSP(threshold=3), range(2))
    coordinator.start()
    for at, worker in enumerate([0, 1, 0]):
        coordinator.handle(Push(worker, at))
    assert coordinator.handle(Joined(7, 5)).released == (Release(7, 0, MessageId(7, 1)),)
    record = coordinator.handle(Push(7, 6)).push
    assert record is not None
    assert (record.clock, record.pulled_version, record.staleness, record.lead) == (2, 3, 0, 1)


def test_a_worker_that_joins_can_be_held_until_the_paradigm_wants_it() -> None:
    coordinator = started(1, HOLD, Decision(release=(5, 0)))
    assert coordinator.handle(Joined(5, 10)).released == ()
    assert coordinator.handle(Push(0, 30)).released == (Release(5, 20, MessageId(5, 0)), Release(0, 0, MessageId(0, 1)))


def test_the_last_worker_leaves_and_all_is_quiet() -> None:
    coordinator = Coordinator(BSP(), range(1))
    coordinator.start()
    assert coordinator.handle(Left(0, 3)) == Outcome(3)
    assert coordinator.computing == 0


def test_a_worker_that_joins_when_everyone_has_left_goes_on_where_they_stopped() -> None:
    coordinator = Coordinator(SSP(threshold=0), range(1))
    coordinator.start()
    coordinator.handle(Push(0, 1))
    coordinator.handle(Left(0, 2))
    assert coordinator.handle(Joined(1, 3)).released == (Release(1, 0, MessageId(1, 1)),)


# --- timers ----------------------------------------------------------------------------------------------------------


def test_a_timer_is_passed_on_and_its_moment_is_the_paradigms() -> None:
    timer = Timer("check", 40)
    coordinator = started(1, Decision(timers=(timer,)), Decision(release=(0,)))
    assert coordinator.handle(Push(0, 10)).timers == (timer,)
    assert coordinator.handle(TimerFired("check", 40)) == Outcome(40, released=(Release(0, 30, MessageId(0, 1)),))


def test_most_paradigms_do_nothing_when_a_timer_fires() -> None:
    assert ASP().on_timer(TimerFired("check", 4), View(range(1))) == Decision()


def test_of_two_timers_with_one_tag_the_later_is_still_to_come_when_the_earlier_has_fired() -> None:
    coordinator = started(1, Decision(timers=(Timer("check", 5), Timer("check", 9))), HOLD, HOLD)
    coordinator.handle(Push(0, 1))
    coordinator.handle(TimerFired("check", 5))
    with pytest.raises(Deadlock):
        coordinator.handle(TimerFired("check", 9))


def test_a_timer_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="timer 'check' fired, but nobody waits for it"):
        started(1).handle(TimerFired("check", 5))


def test_a_run_is_started_once() -> None:
    with pytest.raises(ProtocolViolation, match="started before"):
        started(1).start()


def test_the_number_of_a_worker_that_left_never_comes_back() -> None:
    coordinator = started(2, HOLD)
    coordinator.handle(Left(0, 1))
    with pytest.raises(ProtocolViolation, match="worker 0 left before; whoever takes its place takes a new number"):
        coordinator.handle(Joined(0, 2))


def test_within_one_event_updates_come_before_releases_and_these_before_timers() -> None:
    seen = []

    class Watched(Coordinator):
        def _release(self, worker: WorkerId, at: int) -> Release:
            seen.append((self.view.version, set(self._pending_timers)))
            return super()._release(worker, at)

    decision = Decision(Use.APPLY, (0,), timers=(Timer("check", 4),))
    coordinator = Watched(Scripted([decision]), [0])
    coordinator.start()
    coordinator.handle(Push(0, 1))
    assert seen == [(0, set()), (1, set())]  # at the start, and at the push
    assert coordinator._pending_timers == {"check": 1}


# --- deadlock --------------------------------------------------------------------------------------------------------


def test_when_everyone_is_held_and_nothing_is_to_come_it_is_a_deadlock() -> None:
    coordinator = started(2, HOLD, HOLD)
    coordinator.handle(Push(0, 1))
    with pytest.raises(
        Deadlock, match="Scripted holds every live worker and waits for nothing: 0 at clock 1, 1 at clock 1"
    ):
        coordinator.handle(Push(1, 2))


def test_a_pending_timer_is_something_to_come() -> None:
    coordinator = started(1, Decision(timers=(Timer("check", 4),)), HOLD)
    coordinator.handle(Push(0, 1))
    with pytest.raises(Deadlock):
        coordinator.handle(TimerFired("check", 4))


def test_a_leaving_worker_can_leave_a_deadlock_behind() -> None:
    coordinator = started(2, HOLD, HOLD)
    coordinator.handle(Push(0, 1))
    with pytest.raises(Deadlock, match="0 at clock 1"):
        coordinator.handle(Left(1, 2))


# --- what may not happen ---------------------------------------------------------------------------------------------


def snapshot(coordinator: Coordinator) -> object:
    """Everything that the coordinator and its paradigm know, as values."""
    view, clocks, paradigm = coordinator.view, coordinator.view.clocks, coordinator.paradigm
    parts = [{name: getattr(view, name) for name in View.__slots__ if name != "clocks"}]
    parts += [dict(vars(coordinator), view=None, paradigm=None), vars(clocks), vars(paradigm)]
    return pickle.loads(pickle.dumps(parts))


@pytest.mark.parametrize("make", [BSP, ASP, lambda: SSP(0), lambda: DSSP(0, 2)], ids=["BSP", "ASP", "SSP", "DSSP"])
@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (Push(9, 5), "worker 9 pushed, but it is not one of the live workers"),
        (Push(2, 5), "worker 2 pushed, but it is not one of the live workers"),
        (Left(9, 5), "worker 9 left, but it is not one of the live workers"),
        (Left(2, 5), "worker 2 left, but it is not one of the live workers"),
        (Joined(1, 5), "worker 1 joined, but it is here already, at clock 0"),
    ],
)
def test_an_event_that_cannot_be_changes_nothing(make: Callable[[], Paradigm], event: Event, complaint: str) -> None:
    coordinator = Coordinator(make(), range(3))
    coordinator.start()
    coordinator.handle(Push(0, 1))
    coordinator.handle(Left(2, 2))
    before = snapshot(coordinator)
    with pytest.raises(ProtocolViolation, match=complaint):
        coordinator.handle(event)
    assert snapshot(coordinator) == before
    coordinator.handle(Push(1, 6))  # and the run goes on


@pytest.mark.parametrize("make", [BSP, lambda: SSP(0), lambda: DSSP(0, 2)], ids=["BSP", "SSP", "DSSP"])
def test_a_held_worker_that_pushes_is_named_and_changes_nothing(make: Callable[[], Paradigm]) -> None:
    coordinator = Coordinator(make(), range(2))
    coordinator.start()
    coordinator.handle(Push(1, 1))
    before = snapshot(coordinator)
    with pytest.raises(ProtocolViolation, match="worker 1 pushed while held at clock 1"):
        coordinator.handle(Push(1, 2))
    assert snapshot(coordinator) == before
    assert [release.worker for release in coordinator.handle(Push(0, 3)).released] == [0, 1]


def test_nobody_pushes_before_the_start() -> None:
    coordinator = Coordinator(ASP(), range(1))
    with pytest.raises(ProtocolViolation, match="worker 0 pushed before the run was started"):
        coordinator.handle(Push(0, 1))
    assert (coordinator.pushes, coordinator.view.clocks[0]) == (0, 0)


# --- the contract's defaults -----------------------------------------------------------------------------------------


def test_a_paradigm_that_says_nothing_about_leads_has_no_largest_lead() -> None:
    assert ASP().largest_lead(0, Clocks([0])) is None


def test_without_held_workers_nothing_waits_to_be_merged() -> None:
    view = View([0])
    assert SSP(1, held_gradients="merge_sum").merged((), view) is None
    assert SSP(1).merged((), view) is None
