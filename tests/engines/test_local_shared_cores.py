"""Few cores and many workers, in virtual time: by hand, and against the engine without contention."""

from collections.abc import Sequence
from typing import Any

import pytest

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import SECOND, Outcome
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.schedule import LearningRate
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.local.shared_cores import SharedCores
from dssp_bench.engines.observer import Observer
from dssp_bench.engines.serve import serve
from dssp_bench.engines.simulated import SimulatedEngine
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP

Pushes = list[tuple[int, float]]


class Seen(Observer):
    def __init__(self) -> None:
        self.pushes: Pushes = []
        self.computes: list[float] = []

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        if outcome.push:
            self.pushes.append((outcome.push.worker, outcome.push.at / SECOND))
            self.computes.append(outcome.push.compute / SECOND)


def play(engine: SimulatedEngine, layout: ClusterLayout, paradigm: Paradigm, **limits: Any) -> Seen:
    seen = Seen()
    rates = LearningRate(0.1, (), 0.1, "samples", "none", workers=len(layout.workers), batch_size=1, examples=100)
    serve(Coordinator(paradigm, layout.present), engine, Limits(**limits), rates, None, [seen])
    return seen


def on_cores(
    cores: int, shares: Sequence[float], paradigm: Paradigm | None = None, *, pushes: int = 4, **layout: Any
) -> Seen:
    """Workers whose iterations take a second alone, unless the layout says otherwise."""
    described = ClusterLayout(**{"workers": [{}] * len(shares), **layout})
    engine = SharedCores(described, SECOND, 1, cores=cores, shares=shares)
    return play(engine, described, paradigm or ASP(), pushes=pushes)


def test_two_workers_on_one_core_take_twice_the_time() -> None:
    seen = on_cores(1, [1, 1])
    assert seen.pushes == [(0, 2.0), (1, 2.0), (0, 4.0), (1, 4.0)]
    assert seen.computes == [1.0] * 4  # what they would have taken alone


def test_three_workers_on_two_cores_take_half_as_long_again() -> None:
    assert on_cores(2, [1, 1, 1], pushes=3).pushes == [(0, 1.5), (1, 1.5), (2, 1.5)]


def test_whoever_computes_on_gets_what_others_leave() -> None:
    seen = on_cores(1, [1, 1], workers=[{"slowdown": 1.0}, {"slowdown": 2.0}], pushes=2, paradigm=BSP())
    assert seen.pushes == [(0, 2.0), (1, 3.0)]  # half of the core each for 2 s, then a whole one for the second left


def test_waiting_for_a_core_is_made_up_for_by_sleeping_less() -> None:
    workers = [{"slowdown": 1.0}, {"slowdown": 3.0}]
    seen = on_cores(1, [1, 1 / 3], paradigm=BSP(), workers=workers, pushes=2)
    assert seen.pushes == [(0, 2.0), (1, 3.0)]


def test_a_slow_phase_is_slept_and_takes_no_core() -> None:
    events = [{"worker": 1, "at_s": 0, "slowdown": 4.0}]
    assert on_cores(1, [1, 1], paradigm=BSP(), events=events, pushes=2).pushes == [(0, 2.0), (1, 4.0)]


def test_the_server_takes_a_core_while_it_works() -> None:
    # At 1 s the server works until 1.5 s on the only core; what worker 1 has left waits that long.
    workers = [{"slowdown": 0.5}, {"slowdown": 1.0}]
    seen = on_cores(1, [1, 1], paradigm=BSP(), workers=workers, server={"receive_s": 0.5}, pushes=2)
    assert seen.pushes == [(0, 1.0), (1, 2.0)]


def test_workers_that_need_no_core_share_none() -> None:
    assert on_cores(1, [0, 0, 1], pushes=3).pushes == [(0, 1.0), (1, 1.0), (2, 1.0)]


@pytest.mark.parametrize("paradigm", [BSP(), ASP(), SSP(threshold=2), DSSP(2, 6)])
def test_with_a_core_for_everyone_nothing_differs_from_the_engine_without_contention(paradigm: Paradigm) -> None:
    layout = ClusterLayout.model_validate(
        {
            "workers": [{"jitter": "noisy"}, {"slowdown": 1.4, "jitter": "shared"}, {"slowdown": 2.3}],
            "server": {"receive_s": 0.003, "update_s": 0.05, "reply_s": 0.002},
            "network": {"latency_s": 0.01},
            "events": [
                {"worker": 0, "at_s": 20, "slowdown": 3.0, "for_s": 30},
                {"worker": 1, "at_s": 70, "leave": True},
                {"worker": 2, "at_s": 10, "join": True},
            ],
        }
    )
    alone = play(SimulatedEngine(layout, SECOND, 7), layout, paradigm, pushes=200)
    shared = SharedCores(layout, SECOND, 7, cores=4, shares=[1.0, 0.7, 0.4])
    beside = play(shared, layout, paradigm, pushes=200)
    assert [worker for worker, _ in beside.pushes] == [worker for worker, _ in alone.pushes]
    moments = [[at for _, at in seen.pushes] for seen in (beside, alone)]
    assert moments[0] == pytest.approx(moments[1], abs=1e-6)  # a share of a nanosecond is rounded differently


def test_the_cores_are_never_idle_while_somebody_wants_one() -> None:
    seen = on_cores(2, [1.0] * 5, pushes=500)
    assert seen.pushes[-1][1] == pytest.approx(500 / 2, abs=1.0)


def test_equal_seeds_give_equal_runs() -> None:
    workers = [{"jitter": "noisy"}] * 5
    runs = [on_cores(2, [1.0] * 5, workers=workers, pushes=300).pushes for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_run_ends_at_the_moment_that_was_asked_for() -> None:
    layout = ClusterLayout.model_validate({"workers": [{}, {}]})
    engine = SharedCores(layout, SECOND, 1, cores=1, shares=[1, 1])
    seen = play(engine, layout, ASP(), until=5 * SECOND)
    assert seen.pushes[-1] == (1, 4.0)
