"""Virtual time: exact to the nanosecond, the same every time, and a server that does one thing at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import SECOND, Grant, Nanoseconds, PushRecord
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.schedule import LearningRate
from dssp_bench.engines.compute_time import PRESETS, Jitter
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.observer import Membership
from dssp_bench.engines.serve import serve
from dssp_bench.engines.simulated import SimulatedEngine
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from tests.engines.scripted import Seen
from tests.scenario import seconds

MILLISECOND = 1_000_000
RATE = LearningRate(1.0, (), 0.1, "samples", "none", workers=2, batch_size=1, examples=100)


def layout(slowdowns: Sequence[float] = (1.0, 2.0), **fields: Any) -> ClusterLayout:
    """Workers that are so many times slower than the base of a second."""
    return ClusterLayout(workers=[{"slowdown": slowdown} for slowdown in slowdowns], **fields)


class Simulated:
    """A run of which only the timing is simulated."""

    def __init__(
        self,
        paradigm: Paradigm,
        cluster: ClusterLayout | None = None,
        *,
        iteration: Nanoseconds = SECOND,
        seed: int = 1,
        keys: int = 1,
        message_bytes: int = 0,
        **limits: Any,
    ) -> None:
        cluster = cluster or layout()
        self.seen, self.membership = Seen(), Membership()
        self.coordinator = Coordinator(paradigm, cluster.present)
        engine = SimulatedEngine(cluster, iteration, seed, keys=keys, message_bytes=message_bytes)
        self.duration = serve(self.coordinator, engine, Limits(**limits), RATE, None, [self.seen, self.membership])

    @property
    def pushes(self) -> list[PushRecord]:
        return [outcome.push for outcome in self.seen.outcomes if outcome.push]

    @property
    def timeline(self) -> list[tuple[float, int]]:
        """When who pushed, in seconds."""
        return [(push.at / SECOND, push.worker) for push in self.pushes]

    @property
    def grants(self) -> list[Grant]:
        return [outcome.grant for outcome in self.seen.outcomes if outcome.grant]


# --- times and ties ---------------------------------------------------------------------------------------------------


def test_an_iteration_takes_the_base_time_times_the_slowdown() -> None:
    run = Simulated(ASP(), layout([1.0, 1.57]), pushes=5)
    assert [(push.at, push.worker) for push in run.pushes] == [
        (1 * SECOND, 0), (seconds("1.57"), 1), (2 * SECOND, 0), (3 * SECOND, 0), (seconds("3.14"), 1),
    ]  # fmt: skip
    assert [push.compute for push in run.pushes[:2]] == [SECOND, seconds("1.57")]


def test_at_the_same_moment_whoever_started_first_comes_first() -> None:
    run = Simulated(ASP(), layout([1.0, 2.0]), pushes=6)
    # Worker 1 started at 0 for 2 s, worker 0 at 1 s for 1 s: at 2 s worker 1 is first, since its push was caused first.
    assert run.timeline == [(1, 0), (2, 1), (2, 0), (3, 0), (4, 1), (4, 0)]


def test_workers_that_are_equal_push_in_the_order_of_their_numbers() -> None:
    run = Simulated(ASP(), layout([1.0] * 5), pushes=10)
    assert [worker for _, worker in run.timeline] == [0, 1, 2, 3, 4] * 2


def test_a_held_worker_starts_again_at_the_moment_of_its_release() -> None:
    run = Simulated(BSP(), layout([1.0, 2.0]), pushes=4)
    assert run.timeline == [(1, 0), (2, 1), (3, 0), (4, 1)]


def test_times_stay_whole_nanoseconds_over_a_long_run() -> None:
    run = Simulated(ASP(), layout([1.0]), iteration=333_333_333, pushes=3000)
    assert run.duration == 3000 * 333_333_333


def test_a_worker_that_needs_longer_than_a_century_holds_up_nobody_under_asp() -> None:
    run = Simulated(ASP(), layout([1.0, 1e12]), pushes=5)
    assert [push.worker for push in run.pushes] == [0] * 5


@pytest.mark.parametrize("paradigm", [ASP(), DSSP(1, 3)])
def test_what_is_made_the_quick_way_has_a_value_for_every_field(paradigm: Paradigm) -> None:
    def check(value: object) -> None:
        if isinstance(value, tuple):
            assert len(value) == len(getattr(value, "_fields", value)), value
            for each in value:
                check(each)

    run = Simulated(paradigm, pushes=20)
    assert any(outcome.updates and outcome.released for outcome in run.seen.outcomes)
    check(tuple(run.seen.outcomes))


def test_nothing_happens_after_the_end_of_the_time() -> None:
    assert Simulated(ASP(), layout([1.0]), until=5 * SECOND).duration == 5 * SECOND
    assert len(Simulated(ASP(), layout([1.0]), until=5 * SECOND - 1).pushes) == 4


# --- network and server -----------------------------------------------------------------------------------------------


def test_a_message_travels_for_as_long_as_latency_keys_and_bytes_say() -> None:
    network = {"latency_s": 0.1, "per_key_s": 0.01, "bandwidth_bytes_per_s": 1000}
    run = Simulated(ASP(), layout([1.0], network=network), keys=20, message_bytes=700, pushes=2)
    # 0.1 + 20 * 0.01 + 0.7 = 1 s for each of the messages there and back.
    assert run.timeline == [(3, 0), (6, 0)]
    assert run.pushes[0].compute == SECOND


def test_the_server_replies_to_one_worker_after_the_other() -> None:
    run = Simulated(ASP(), layout([1.0, 1.0, 1.0], server={"reply_s": 0.25}), pushes=3)
    assert run.timeline == [(1.25, 0), (1.5, 1), (1.75, 2)]


def test_a_push_that_arrives_while_the_server_is_busy_queues() -> None:
    # Both arrive at 1 s. The first costs 0.2 to receive and 0.3 to apply and is answered in 0.1.
    server = {"receive_s": 0.2, "update_s": 0.3, "reply_s": 0.1}
    cluster = layout([1.0, 1.0], server=server)
    run = Simulated(ASP(), cluster, pushes=4)
    # Starts: 0.1 and 0.2. Arrivals 1.1 and 1.2; the second is taken up at 1.1 + 0.6. Released at 1.7 and 2.3.
    assert run.timeline == [(1.1, 0), (1.7, 1), (2.7, 0), (3.3, 1)]


def test_a_round_costs_one_update_and_a_reply_to_everyone() -> None:
    server = {"receive_s": 0.1, "update_s": 1.0, "reply_s": 0.01}
    run = Simulated(BSP(), layout([1.0] * 3, server=server), pushes=4)
    # Starts 0.01, 0.02, 0.03; arrivals one second later, taken up at 1.01, 1.11, 1.21 as 0.1 each is needed to receive.
    # The last one is received until 1.31, the update takes until 2.31, and the first reply until 2.32.
    # Whoever completed the round is answered first.
    assert run.timeline == [(1.01, 0), (1.11, 1), (1.21, 2), (3.32, 2)]


def test_costs_per_key_add_to_the_fixed_ones() -> None:
    fixed = Simulated(ASP(), layout(server={"receive_s": 0.05, "update_s": 0.3, "reply_s": 0.02}), pushes=50)
    per_key = {"receive_s": 0.01, "receive_per_key_s": 0.004, "update_per_key_s": 0.03, "reply_per_key_s": 0.002}
    assert Simulated(ASP(), layout(server=per_key), keys=10, pushes=50).timeline == fixed.timeline


# --- slow phases, departures, arrivals --------------------------------------------------------------------------------


def test_a_worker_is_slower_for_a_while() -> None:
    run = Simulated(ASP(), layout([1.0], events=[{"worker": 0, "at_s": 2, "slowdown": 3, "for_s": 4}]), pushes=6)
    # Iterations that start at 2 s and 5 s are in the slow phase, the one that starts at 8 s is not.
    assert [at for at, _ in run.timeline] == [1, 2, 5, 8, 9, 10]


def test_without_an_end_a_slow_phase_lasts_and_slow_phases_multiply() -> None:
    events = [{"worker": 0, "at_s": 1, "slowdown": 2}, {"worker": 0, "at_s": 3, "slowdown": 3, "for_s": 1}]
    run = Simulated(ASP(), layout([1.0], events=events), pushes=4)
    assert [at for at, _ in run.timeline] == [1, 3, 9, 11]


def test_a_worker_that_leaves_takes_its_push_along_and_holds_nobody_any_longer() -> None:
    cluster = layout([1.0, 10.0], events=[{"worker": 1, "at_s": 4.5, "leave": True}])
    run = Simulated(BSP(), cluster, iterations=3)
    # Worker 0 pushed at 1 s and waited; released at 4.5 s, it goes on alone. Worker 1's push, due at 10 s, never comes.
    assert run.timeline == [(1, 0), (5.5, 0), (6.5, 0)]
    assert [(event["event"], event["worker"]) for event in run.membership.events] == [("left", 1), ("left", 0)]


def test_a_push_that_arrives_at_the_moment_at_which_its_worker_leaves_is_lost() -> None:
    cluster = layout([1.0, 1.0], events=[{"worker": 1, "at_s": 2, "leave": True}])
    assert Simulated(ASP(), cluster, pushes=4).timeline == [(1, 0), (1, 1), (2, 0), (3, 0)]


def test_a_worker_joins_at_the_slowest_clock() -> None:
    cluster = layout([1.0, 1.0], events=[{"worker": 1, "at_s": 2.5, "join": True}])
    run = Simulated(BSP(), cluster, iterations=4)
    # It joins at clock 2 while worker 0 computes until 3 s; then the rounds are of both.
    assert run.timeline == [(1, 0), (2, 0), (3, 0), (3.5, 1), (4.5, 1), (4.5, 0)]
    assert [push.clock for push in run.pushes] == [1, 2, 3, 3, 4, 4]


def test_a_worker_that_would_join_when_all_is_done_does_not_prolong_the_run() -> None:
    cluster = layout([1.0, 1.0], events=[{"worker": 1, "at_s": 60, "join": True}])
    assert Simulated(ASP(), cluster, iterations=3).duration == 3 * SECOND


def test_a_worker_that_leaves_after_it_has_done_its_share_leaves_once() -> None:
    cluster = layout([1.0, 1.0], events=[{"worker": 1, "at_s": 60, "leave": True}])
    run = Simulated(ASP(), cluster, iterations=3)
    assert [event["worker"] for event in run.membership.events] == [0, 1]


def test_everybody_may_leave_and_a_later_worker_goes_on() -> None:
    events = [{"worker": 0, "at_s": 1.5, "leave": True}, {"worker": 1, "at_s": 3, "join": True}]
    run = Simulated(BSP(), layout([1.0, 1.0], events=events), iterations=3)
    assert run.timeline == [(1, 0), (4, 1), (5, 1)]


# --- the same every time ----------------------------------------------------------------------------------------------

NOISY = ClusterLayout(
    workers=[{"slowdown": 1.0, "jitter": "shared"}, {"slowdown": 1.3, "jitter": "noisy"}, {"jitter": "stress"}]
)


def test_equal_seeds_give_equal_runs_and_others_give_others() -> None:
    first, again, other = (Simulated(DSSP(3, 15), NOISY, seed=seed, pushes=500) for seed in (7, 7, 8))
    assert first.seen.outcomes == again.seen.outcomes
    assert first.timeline != other.timeline


def compute_times(run: Simulated) -> dict[int, list[Nanoseconds]]:
    times: dict[int, list[Nanoseconds]] = {}
    for push in run.pushes:
        times.setdefault(push.worker, []).append(push.compute)
    return times


@pytest.mark.parametrize("paradigm", [BSP(), SSP(3), DSSP(3, 15)])
def test_changing_the_paradigm_changes_nobodys_jitter(paradigm: Paradigm) -> None:
    asp, other = (
        compute_times(Simulated(ASP(), NOISY, pushes=600)),
        compute_times(Simulated(paradigm, NOISY, pushes=600)),
    )
    for worker in range(3):
        common = min(len(asp[worker]), len(other[worker]))
        assert common > 50
        assert asp[worker][:common] == other[worker][:common]


def test_another_worker_changes_nobodys_jitter() -> None:
    more = ClusterLayout(workers=[*NOISY.workers, {"jitter": Jitter(kind="pareto")}])
    three, four = compute_times(Simulated(ASP(), NOISY, pushes=300)), compute_times(Simulated(ASP(), more, pushes=300))
    for worker in range(3):
        common = min(len(three[worker]), len(four[worker]))
        assert three[worker][:common] == four[worker][:common]


def test_a_trace_is_played_again_and_again() -> None:
    cluster = ClusterLayout(workers=[{"jitter": {"kind": "trace", "factors": [1.0, 3.0]}}])
    assert [at for at, _ in Simulated(ASP(), cluster, pushes=4).timeline] == [1, 4, 5, 8]
    assert PRESETS["dedicated"].kind == "lognormal"


# --- the paper --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("upper", "r_star"), [(15, 9), (7, 4), (5, 2)])
def test_the_example_by_hand_has_its_first_grant_at_eight_seconds(upper: int, r_star: int) -> None:
    run = Simulated(DSSP(lower=3, upper=upper), layout([1.0, 1.7]), pushes=30)
    first = run.grants[0]
    assert (first.at, first.worker, first.lead, first.r_star) == (8 * SECOND, 0, 4, r_star)


@pytest.mark.parametrize("slow", [1.1, 1.57, 1.7, 2.0, 2.3, 5.0])
def test_bounded_dssp_never_lets_anyone_start_beyond_the_upper_bound(slow: float) -> None:
    run = Simulated(DSSP(lower=3, upper=15), layout([1.0, slow]), pushes=2000)
    assert max(push.lead for push in run.pushes) <= 16


def test_dssp_as_printed_runs_away() -> None:
    run = Simulated(DSSP(lower=3, upper=15, variant="literal"), layout([1.0, 1.7]), pushes=3000)
    assert max(push.lead for push in run.pushes) > 400
    free = Simulated(ASP(), layout([1.0, 1.7]), pushes=3000)
    assert run.timeline == free.timeline


@pytest.mark.parametrize(("paradigm", "milliseconds"), [(BSP(), 149), (ASP(), 220), (SSP(3), 220), (DSSP(3, 15), 220)])
def test_the_papers_cluster_takes_the_papers_time_per_iteration(paradigm: Paradigm, milliseconds: int) -> None:
    file = Path(__file__).parents[2] / "conf" / "cluster" / "paper_homogeneous.yaml"
    cluster = ClusterLayout(**yaml.safe_load(file.read_text(encoding="utf-8")))
    iteration, keys = round((cluster.iteration_s or 0) * SECOND), cluster.keys or 0
    run = Simulated(paradigm, cluster, iteration=iteration, keys=keys, pushes=4000)
    assert run.duration / 1000 == pytest.approx(milliseconds * MILLISECOND, rel=0.01)


def test_the_ratio_of_the_papers_pair_gives_its_number_of_updates_per_iteration_of_the_slow_worker() -> None:
    def updates(paradigm: Paradigm) -> float:
        run = Simulated(paradigm, layout([1.0, 1.57]), pushes=20_000)
        return run.coordinator.view.version / sum(push.worker == 1 for push in run.pushes)

    assert updates(ASP()) == pytest.approx(2.57, abs=0.01)
    assert updates(BSP()) == pytest.approx(1.0, abs=0.01)
    assert updates(SSP(3, held_gradients="merge_mean")) == pytest.approx(1.0, abs=0.01)
    assert updates(DSSP(3, 15, held_gradients="merge_mean")) == pytest.approx(1.93, abs=0.02)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_a_gradient_is_computed_when_its_worker_is_released() -> None:
    computed: list[tuple[Nanoseconds, int]] = []

    def compute(worker: int) -> tuple[float, bool]:
        computed.append((engine.now, worker))
        return float(len(computed)), True

    engine = SimulatedEngine(layout([1.0, 2.0]), SECOND, 1, compute=compute)
    seen = Seen()
    serve(Coordinator(BSP(), [0, 1]), engine, Limits(pushes=4), RATE, None, [seen])
    assert computed == [(0, 0), (0, 1), (2 * SECOND, 1), (2 * SECOND, 0), (4 * SECOND, 1), (4 * SECOND, 0)]
    assert [outcome.push.loss for outcome in seen.outcomes if outcome.push] == [1, 2, 4, 3]
