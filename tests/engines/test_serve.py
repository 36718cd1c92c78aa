"""The one loop, with an engine whose events are written down."""

from collections.abc import Iterable, Sequence
from math import nan
from typing import Any, ClassVar

import pytest
import torch

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.errors import NotFinite, ProtocolViolation
from dssp_bench.core.messages import Decision, Event, Joined, Left, Nanoseconds, Outcome, Push, Timer, TimerFired, Use
from dssp_bench.core.paradigm import Paradigm, View
from dssp_bench.core.schedule import LearningRate
from dssp_bench.core.server import ParameterServer, Slot
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.observer import Observer
from dssp_bench.engines.serve import serve
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.ssp import SSP
from tests.engines.scripted import Log, ScriptedEngine, Seen, Written, turns


def rate(**changes: Any) -> LearningRate:
    """A rate of 1; four samples to a batch, and sixteen to an epoch."""
    fields: dict[str, Any] = {
        "base": 1.0, "milestones": (), "gamma": 0.1, "clock": "samples", "scale": "none",
        "workers": 2, "batch_size": 4, "examples": 16,
    }  # fmt: skip
    return LearningRate(**{**fields, **changes})


class Played:
    """A script that was served: what engine, observer and update rule saw of it."""

    def __init__(
        self,
        paradigm: Paradigm,
        events: Iterable[Event],
        limits: Limits | None = None,
        *,
        present: Iterable[int] = (0, 1),
        rates: LearningRate | None = None,
    ) -> None:
        self.log: Log = []
        self.engine = ScriptedEngine(events, self.log)
        self.seen, self.rule = Seen(self.log), Written(self.log)
        self.coordinator = Coordinator(paradigm, present)
        slots = {w: Slot(torch.tensor([10.0**w]), torch.empty(0)) for w in range(4)}
        server = ParameterServer(torch.zeros(1), self.rule, slots)
        self.duration: Nanoseconds = serve(
            self.coordinator, self.engine, limits or Limits(), rates or rate(), server, [self.seen]
        )

    @property
    def gradients(self) -> list[float]:
        """Of each update; worker 0 pushes 1, worker 1 pushes 10, and so on."""
        return [gradient for (gradient,), _ in self.rule.steps]


def test_an_event_is_decided_then_carried_out_then_observed_and_only_then_delivered() -> None:
    played = Played(ASP(), turns(1))
    assert played.log == [
        "start", "outcome", "deliver [0, 1] after 0 updates",
        "apply", "outcome", "deliver [1] after 1 updates",
        "finish", "close",
    ]  # fmt: skip


def test_a_worker_that_is_held_is_not_delivered_to_until_it_is_released() -> None:
    played = Played(BSP(), turns(1, 0))
    assert [line for line in played.log if line.startswith("deliver")] == [
        "deliver [0, 1] after 0 updates",
        "deliver [] after 0 updates",
        "deliver [0, 1] after 1 updates",
    ]


def test_without_a_server_only_the_timing_runs() -> None:
    engine, seen = ScriptedEngine(turns(0, 1, 0)), Seen()
    assert serve(Coordinator(ASP(), [0, 1]), engine, Limits(), rate(), None, [seen]) == 3
    assert len(seen.rates) == 3


# --- a worker that has done its share ---------------------------------------------------------------------------------


def test_a_worker_leaves_with_the_last_push_of_its_share() -> None:
    played = Played(ASP(), turns(0, 0, 1, 1), Limits(iterations=2))
    assert played.engine.dismissed == [0, 1]
    assert played.seen.membership == [(Left(0, 2), 2), (Left(1, 4), 4)]
    assert played.duration == 4
    assert played.gradients == [1, 1, 10, 10]


def test_a_worker_that_may_go_on_but_has_done_its_share_is_not_told_to_compute() -> None:
    played = Played(ASP(), turns(0, 1), Limits(iterations=1))
    assert played.log[3:] == [
        "apply", "outcome", "deliver [] after 1 updates",
        "dismiss 0", "membership", "outcome", "deliver [] after 0 updates",
        "apply", "outcome", "deliver [] after 1 updates",
        "dismiss 1", "membership", "outcome", "deliver [] after 0 updates",
        "finish", "close",
    ]  # fmt: skip


@pytest.mark.parametrize(("merge", "last"), [("merge_mean", 37.0), ("merge_sum", 111.0)])
def test_the_update_of_the_last_round_is_made_from_everybodys_gradient(merge: Any, last: float) -> None:
    played = Played(BSP(held_gradients=merge), turns(0, 1, 2, 2, 0, 1), Limits(iterations=2), present=[0, 1, 2])
    assert played.gradients == pytest.approx([last, last])
    assert played.seen.staleness == [0] * 6


@pytest.mark.parametrize(("merge", "together"), [("merge_mean", 5.5), ("merge_sum", 11.0)])
def test_a_held_gradient_merges_with_the_last_push_of_the_worker_that_it_waited_for(
    merge: Any, together: float
) -> None:
    played = Played(SSP(threshold=0, held_gradients=merge), turns(0, 1), Limits(iterations=1))
    assert played.gradients == pytest.approx([together])


def test_a_gradient_is_not_lost_when_its_worker_leaves_before_the_round_is_complete() -> None:
    played = Played(BSP(), [Push(0, 1), Left(0, 2), Push(1, 3)])
    assert played.gradients == pytest.approx([5.5])


# --- when a run is over -----------------------------------------------------------------------------------------------


def test_a_run_ends_after_so_many_pushes() -> None:
    played = Played(ASP(), turns(0, 1, 0, 1), Limits(pushes=3))
    assert (played.coordinator.pushes, played.duration) == (3, 3)


def test_a_run_ends_after_so_many_updates() -> None:
    played = Played(BSP(), turns(0, 1, 0, 1, 0, 1), Limits(updates=2))
    assert (played.coordinator.pushes, played.coordinator.view.version) == (4, 2)


def test_a_run_ends_when_its_time_is_over() -> None:
    played = Played(ASP(), turns(0, 1, 0, 1), Limits(until=3))
    assert (played.coordinator.pushes, played.duration) == (3, 3)


def test_a_run_ends_when_somebody_asks_for_it() -> None:
    limits = Limits()

    class Enough(Seen):
        def on_outcome(self, outcome: Outcome, learning_rates: Any) -> None:
            limits.stop_requested = outcome.at == 2

    engine = ScriptedEngine(turns(0, 1, 0, 1))
    assert serve(Coordinator(ASP(), [0, 1]), engine, limits, rate(), None, [Enough()]) == 2


def test_whichever_limit_comes_first_ends_the_run() -> None:
    assert Played(ASP(), turns(0, 1, 0, 1), Limits(pushes=4, updates=2, until=3)).duration == 2
    assert Played(ASP(), turns(0, 1, 0, 1), Limits(pushes=1, updates=2, until=3)).duration == 1


def test_a_run_in_which_everybody_did_their_share_is_over_even_if_a_worker_would_join_later() -> None:
    events = [*turns(0, 0), Joined(1, 9), *(Push(1, at) for at in range(10, 99))]
    played = Played(ASP(), events, Limits(iterations=2), present=[0])
    assert played.duration == 2


def test_a_worker_that_joins_does_what_is_left_of_its_share() -> None:
    events = [*turns(0), Joined(1, 2), Push(1, 3), Push(1, 4), Push(0, 5), Push(0, 6)]
    played = Played(ASP(), events, Limits(iterations=3), present=[0])
    assert played.engine.dismissed == [1, 0]  # it started at clock 1
    assert played.duration == 6


def test_the_engine_is_closed_whatever_happens() -> None:
    engine = ScriptedEngine([Push(0, 1), Left(7, 2)])
    seen = Seen()
    with pytest.raises(ProtocolViolation, match="worker 7 left"):
        serve(Coordinator(ASP(), [0]), engine, Limits(), rate(), None, [seen])
    assert engine.closed
    assert seen.finished_at is None


# --- who is there -----------------------------------------------------------------------------------------------------


def test_observers_hear_who_left_and_joined_and_after_how_many_pushes() -> None:
    events: list[Event] = [Push(0, 1), Left(0, 2), Push(1, 3), Joined(2, 4), Push(2, 5)]
    played = Played(ASP(), events)
    assert played.seen.membership == [(Left(0, 2), 1), (Joined(2, 4), 2)]


def test_a_worker_that_dies_lets_those_go_who_waited_for_it() -> None:
    events: list[Event] = [Push(0, 1), Left(1, 2)]
    played = Played(BSP(), events)
    assert played.gradients == [1]
    assert played.engine.computing == {0}


class Reminded(ASP):
    """Asks to be asked again, two nanoseconds after each push."""

    def on_push(self, push: Push, view: View) -> Decision:
        return Decision(Use.BUFFER, timers=(Timer("soon", push.at + 2),))

    def on_timer(self, timer: TimerFired, view: View) -> Decision:
        return Decision(release=tuple(view.held))


def test_timers_reach_the_engine_and_come_back_as_events() -> None:
    played = Played(Reminded(), [Push(0, 1), TimerFired("soon", 3)], present=[0])
    assert played.engine.timers == [Timer("soon", 3)]
    assert played.engine.computing == {0}


# --- learning rates ---------------------------------------------------------------------------------------------------


def test_on_the_clock_of_samples_the_rate_falls_with_the_push_that_begins_the_epoch() -> None:
    # Four pushes to the epoch, whatever the updates.
    asp = Played(ASP(), turns(*[0, 1] * 4), rates=rate(milestones=(1,)))
    assert asp.seen.rates == pytest.approx([1.0] * 4 + [0.1] * 4)
    bsp = Played(BSP(), turns(*[0, 1] * 4), rates=rate(milestones=(1,)))
    assert bsp.seen.rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_on_the_clock_of_updates_the_rate_falls_earlier_for_who_updates_more_often() -> None:
    # floor(16 / 4 / 2) = 2 updates to the epoch: ASP is there after half of the samples.
    asp = Played(ASP(), turns(*[0, 1] * 4), rates=rate(milestones=(1,), clock="updates"))
    assert asp.seen.rates == pytest.approx([1.0] * 2 + [0.1] * 6)
    bsp = Played(BSP(), turns(*[0, 1] * 4), rates=rate(milestones=(1,), clock="updates"))
    assert bsp.seen.rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_the_rate_may_be_divided_by_the_staleness_of_the_gradient() -> None:
    played = Played(ASP(), turns(0, 0, 0, 1, 1), rates=rate(scale="inverse_staleness"))
    assert played.seen.staleness == [0, 0, 0, 3, 0]
    assert played.seen.rates == pytest.approx([1, 1, 1, 1 / 3, 1])


def test_the_rates_that_observers_see_are_those_that_the_weights_changed_by() -> None:
    played = Played(ASP(), turns(*[0, 1] * 4), rates=rate(milestones=(0.5, 1.5), scale="linear_workers"))
    assert [applied for _, applied in played.rule.steps] == played.seen.rates


def test_no_checkpoint_can_be_made_of_a_state_in_which_the_run_must_end() -> None:
    class Rests(Observer):
        at: ClassVar[list[Nanoseconds]] = []

        def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
            pass

        def on_rest(self, at: Nanoseconds) -> None:
            self.at.append(at)

    events = [Push(0, 1, 1, 0.5), Push(1, 2, 1, 0.5), Push(0, 3, 2, nan, finite=False), Push(1, 4, 2, 0.5)]
    with pytest.raises(NotFinite):
        serve(Coordinator(ASP(), (0, 1)), ScriptedEngine(events, []), Limits(on_nan="stop"), rate(), None, [Rests()])
    assert Rests.at == [1, 2]
