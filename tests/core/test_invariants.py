"""Random histories of pushing, leaving and joining, under each of the paradigms; a referee keeps the book.

What it checks after every event is in `tests.scenario.Referee`: only held workers are released, versions count
updates, staleness is the versions between, leads stay in bounds, the slowest is never held, and every gradient is
applied exactly once, at the latest when everyone has left.
"""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Event, Joined, Left, Push
from dssp_bench.core.paradigm import HeldGradients, Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from tests.scenario import Referee, promise_of

HELD_GRADIENTS: st.SearchStrategy[HeldGradients] = st.sampled_from(["apply", "merge_sum", "merge_mean"])

PARADIGMS: st.SearchStrategy[Paradigm] = st.one_of(
    st.builds(BSP, held_gradients=st.sampled_from(["merge_mean", "merge_sum"])),
    st.builds(ASP),
    st.builds(SSP, threshold=st.integers(0, 4), held_gradients=HELD_GRADIENTS),
    st.integers(0, 3).flatmap(
        lambda lower: st.builds(
            DSSP,
            lower=st.just(lower),
            upper=st.integers(lower, lower + 5),
            variant=st.sampled_from(["bounded", "literal", "single_grant"]),
            interval=st.sampled_from(["raw", "hold_corrected"]),
            held_gradients=HELD_GRADIENTS,
        )
    ),
)


class AnyHistory(RuleBasedStateMachine):
    """Workers push, leave and join in any order and at any time."""

    @initialize(paradigm=PARADIGMS, workers=st.integers(1, 5))
    def begin(self, paradigm: Paradigm, workers: int) -> None:
        self.coordinator = Coordinator(paradigm, range(workers))
        self.referee = Referee(promise_of(paradigm), self.coordinator.start())
        self.now, self.next_id, self.pushes = 0, workers, 0

    def happens(self, make: Callable[[int, int], Event], worker: int) -> None:
        event = make(worker, self.now)
        self.referee.saw(event, self.coordinator.handle(event))

    @precondition(lambda self: self.referee.computing)
    @rule(pick=st.integers(0, 99), passes=st.integers(0, 5))
    def somebody_pushes(self, pick: int, passes: int) -> None:
        self.now += passes
        self.pushes += 1
        self.happens(Push, self.referee.computing[pick % len(self.referee.computing)])

    @precondition(lambda self: self.referee.computing)
    @rule(pick=st.integers(0, 99), passes=st.integers(0, 5), times=st.integers(2, 6))
    def somebody_pushes_as_often_as_it_may(self, pick: int, passes: int, times: int) -> None:
        worker = self.referee.computing[pick % len(self.referee.computing)]
        for _ in range(times):
            if worker in self.referee.computing:
                self.now += passes
                self.pushes += 1
                self.happens(Push, worker)

    @precondition(lambda self: self.referee.clock)
    @rule(pick=st.integers(0, 99))
    def somebody_leaves(self, pick: int) -> None:
        self.happens(Left, list(self.referee.clock)[pick % len(self.referee.clock)])

    @precondition(lambda self: len(self.referee.clock) < 6)
    @rule()
    def somebody_joins(self) -> None:
        self.happens(Joined, self.next_id)
        self.next_id += 1

    @invariant()
    def the_coordinator_and_the_referee_agree(self) -> None:
        view, referee = self.coordinator.view, self.referee
        assert {worker: view.clocks[worker] for worker in view.clocks} == referee.clock
        assert {worker: push.at for worker, push in view.held.items()} == referee.held_since
        assert view.buffered == referee.waiting
        assert (view.version, self.coordinator.pushes) == (referee.version, self.pushes)
        assert self.coordinator.computing == len(referee.computing)
        assert not referee.clock or referee.computing

    def teardown(self) -> None:
        if hasattr(self, "referee"):
            for worker in list(self.referee.clock):
                self.happens(Left, worker)
            assert self.referee.applied == self.pushes


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnyHistory = AnyHistory.TestCase
