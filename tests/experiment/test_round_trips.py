"""Round trips: what is measured of a known worker, and whether wrong weights are noticed. Speed is not asserted."""

import os
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.server import Slot
from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.experiment.contenders import IdleWorker, IdleWorkers, ThroughServer, limit, memcpy, update_of
from dssp_bench.experiment.round_trips import (
    GRADIENT,
    LEARNING_RATE,
    MOMENTUM,
    PRELOAD,
    Case,
    Contender,
    ContenderFailed,
    Measurement,
    Processes,
    Weights,
    expected_weight,
    in_turns,
    measure,
    until_time_is_up,
)
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP

STEP = LEARNING_RATE * GRADIENT / (1 - MOMENTUM)
"""How far an update moves a weight, once the momentum is there."""

HERE = Processes((), (os.getpid(),))
TURN = Measurement(per_s=1.0, p50_ms=1.0, p99_ms=1.0, cpu_ms=1.0, server_cpu=1.0, made=1, right=True)


@pytest.fixture(scope="module")
def processes() -> None:
    start_fork_server(PRELOAD)


class TestWeights:
    @pytest.mark.parametrize("updates", [0, 1, 2, 3, 50])
    def test_the_closed_form_is_what_torchs_optimizer_makes(self, updates: int) -> None:
        weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=LEARNING_RATE, momentum=MOMENTUM)
        weight.grad = torch.full_like(weight, GRADIENT)
        for _ in range(updates):
            optimizer.step()
        assert expected_weight(updates) == pytest.approx(weight.item(), rel=1e-12)

    def test_rounding_does_not_add_up_in_thousands_of_updates(self) -> None:
        weights = torch.zeros(3)
        update, gradient = update_of(weights), torch.full_like(weights, GRADIENT)
        for _ in range(20_000):
            update(gradient)
        assert Weights(weights.min().item(), weights.max().item(), 20_000).right

    @pytest.mark.parametrize("updates", [1, 7, 1_000, 1_000_000])
    def test_one_update_too_many_or_too_few_anywhere_is_noticed(self, updates: int) -> None:
        right = expected_weight(updates)
        assert Weights(right, right, updates).right
        for wrong in (right - STEP, right + STEP / 2):
            assert not Weights(wrong, right, updates).right
            assert not Weights(right, wrong, updates).right
        assert not Weights(right, float("nan"), updates).right


def at_moments(*moments: list[int], weights: tuple[Weights, ...] = ()) -> Contender:
    """A contender whose workers began their round trips at these moments, milliseconds."""

    def contender(case: Case) -> Generator[Processes, None, list[Weights]]:
        for worker, mine in enumerate(moments):
            case.moments(worker)[: len(mine)] = [1_000_000 * moment for moment in mine]
        yield HERE
        return list(weights)

    return contender


class TestMeasuring:
    def test_round_trips_are_counted_between_their_beginnings_once_all_workers_are_warm(self) -> None:
        ten, twenty = list(range(1000, 2001, 10)), list(range(1005, 2001, 20))
        measured = measure(at_moments(ten, twenty), 8, 2, seconds=1.0)
        assert measured.per_s == pytest.approx(100 + 50, rel=0.01)
        assert (measured.p50_ms, measured.p99_ms) == (10.0, 20.0)
        assert measured.made == len(ten) + len(twenty)

    def test_what_happens_while_warming_up_does_not_count(self) -> None:
        slow_at_first = [1000, 1150, *range(1200, 2001, 10)]
        measured = measure(at_moments(slow_at_first), 8, 1, seconds=1.0)
        assert measured.per_s == pytest.approx(100)
        assert measured.p99_ms == 10.0

    def test_a_worker_with_one_beginning_in_the_window_counts_as_one(self) -> None:
        often, once = list(range(1000, 2001, 10)), [1000, 1700, 2000]
        measured = measure(at_moments(often, once, once), 8, 3, seconds=1.0)
        assert measured.per_s == pytest.approx((81 + 2 + 2 - 1) / 0.8)

    @pytest.mark.parametrize("apart", [100, 200])
    def test_of_a_few_round_trips_no_rate_is_told(self, apart: int) -> None:
        measured = measure(at_moments(list(range(1000, 2001, apart))), 8, 1, seconds=1.0)
        assert measured.per_s == pytest.approx(10.0 if apart == 100 else 0.0)

    def test_where_no_file_can_be_made_is_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(DsspBenchError, match=r"nowhere.*TMPDIR names another folder"):
            measure(at_moments([1000]), 8, 1, seconds=1.0)

    def test_without_a_whole_round_trip_there_is_no_latency(self) -> None:
        measured = measure(at_moments([1000]), 8, 1, seconds=1.0)
        assert (measured.per_s, measured.p50_ms, measured.p99_ms, measured.made) == (0.0, None, None, 1)

    def test_a_worker_that_never_began_is_an_error(self) -> None:
        with pytest.raises(ContenderFailed, match="a worker made no round trip"):
            measure(at_moments([1000, 1500, 2000], []), 8, 2, seconds=1.0)

    def test_one_wrong_weight_makes_the_measurement_wrong(self) -> None:
        good = Weights(expected_weight(5), expected_weight(5), 5)
        moments = list(range(1000, 2001, 100))
        for weights, right in [((good, good), True), ((good, good._replace(updates=6)), False)]:
            assert measure(at_moments(moments, weights=weights), 8, 1, seconds=1.0).right is right

    @pytest.mark.parametrize("role", ["server", "worker"])
    def test_cpu_time_is_that_of_the_processes(self, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
        used, moment = iter(range(1000)), iter(range(10**9, 2 * 10**9, 10**6))

        def contender(case: Case) -> Generator[Processes, None, list[Weights]]:
            moments = case.moments(0)
            for i in range(100):  # a round trip each 10 ms of the clock, a look at each
                moments[i] = next(moment) * 10
                yield Processes((7,), ()) if role == "server" else Processes((), (7,))
            return []

        monkeypatch.setattr("time.clock_gettime", lambda clock: 0.002 * next(used) if clock == (~7 << 3) | 2 else 0.0)
        monkeypatch.setattr("time.monotonic_ns", lambda: next(moment) * 10)
        measured = measure(contender, 8, 1, seconds=0.05)
        assert measured.cpu_ms == pytest.approx(2.0)
        assert measured.server_cpu == pytest.approx(0.1 if role == "server" else 0.0)

    def test_time_ends_the_round_trips_and_the_last_moment_is_the_end(self) -> None:
        counts: list[int] = []

        def contender(case: Case) -> Generator[Processes, None, list[Weights]]:
            counts.append(until_time_is_up(case, 0, partial(time.sleep, 0.001)))
            yield HERE
            return []

        measured = measure(contender, 8, 1, seconds=0.01)
        assert measured.made == counts[0] + 1


class TestTurns:
    def test_everybody_has_a_turn_before_anybody_has_the_next(self) -> None:
        order: list[str] = []

        def turn(name: str) -> Measurement:
            order.append(name)
            return TURN

        in_turns({name: partial(turn, name) for name in "abc"}, repeats=2)
        assert "".join(order) == "abcabc"

    def test_medians_and_spread_are_those_of_the_repeats(self) -> None:
        rates = iter([100.0, 150.0, 120.0])
        latencies = iter([None, 1.0, 3.0])

        def turn() -> Measurement:
            return Measurement(next(rates), next(latencies), 2.0, None, 0.5, made=10, right=True)

        medians = in_turns({"it": turn}, repeats=3)[0]["it"]
        assert (medians.per_s, medians.p50_ms, medians.cpu_ms, medians.made) == (120.0, 2.0, None, 30)
        assert medians.spread == pytest.approx(0.5)

    def test_one_wrong_repeat_is_enough_to_be_wrong(self) -> None:
        rights = iter([True, False, True])

        def turn() -> Measurement:
            return Measurement(1.0, 1.0, 1.0, 1.0, 1.0, made=1, right=next(rights))

        assert not in_turns({"it": turn}, repeats=3)[0]["it"].right

    def test_who_fails_is_named_and_the_others_go_on(self) -> None:
        def fails() -> Measurement:
            raise ContenderFailed("no room")

        found, failed = in_turns({"bad": fails, "good": lambda: TURN}, repeats=2)
        assert (list(found), found["good"].made) == (["good"], 2)
        assert {name: str(error) for name, error in failed.items()} == {"bad": "no room"}


@pytest.mark.processes
@pytest.mark.usefixtures("processes")
class TestContenders:
    @pytest.mark.parametrize("contender", [limit, memcpy])
    def test_a_bound_works_as_often_as_there_are_workers(self, contender: Contender) -> None:
        measured = measure(contender, 1_000, 2, seconds=0.1)
        assert measured.right
        assert measured.made >= 2

    @pytest.mark.parametrize("paradigm", [ASP(), BSP(), SSP(), DSSP()])
    def test_the_server_ends_with_the_right_weights_and_no_pull_mixes_versions(
        self, paradigm: ASP | BSP | SSP | DSSP
    ) -> None:
        measured = measure(ThroughServer(paradigm, check_pulls=True), 1_000, 2, seconds=0.1)
        assert measured.right
        assert measured.made >= 2

    def test_records_can_be_left_out(self) -> None:
        assert measure(ThroughServer(ASP(), records=False), 1_000, 1, seconds=0.1).right

    def test_a_worker_that_pushes_another_gradient_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dssp_bench.experiment.contenders.IdleWorkers", WrongGradient)
        assert not measure(ThroughServer(ASP()), 1_000, 1, seconds=0.1).right

    def test_what_a_worker_raises_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dssp_bench.experiment.contenders.IdleWorkers", NoWorkers)
        with pytest.raises(DsspBenchError, match="nobody wants to work"):
            measure(ThroughServer(ASP()), 1_000, 1, seconds=0.1)

    def test_what_a_bound_cannot_do_is_told(self) -> None:
        with pytest.raises(ContenderFailed, match="RuntimeError"):
            measure(limit, 1_000, 1, seconds=0.1, device="nowhere")


class WrongGradient(IdleWorkers):
    """Its workers' gradient has one entry that is twice what it should be."""

    def __call__(self, worker: int, device: str, weights: Tensor, slot: Slot, iterations: int) -> IdleWorker:
        made = super().__call__(worker, device, weights, slot, iterations)
        slot.gradient[500] *= 2
        return made


class NoWorkers(IdleWorkers):
    """Cannot make workers."""

    def __call__(self, worker: int, device: str, weights: Tensor, slot: Slot, iterations: int) -> IdleWorker:
        raise RuntimeError("nobody wants to work")


@pytest.mark.gpu
@pytest.mark.processes
@pytest.mark.usefixtures("processes")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
class TestOnTheGpu:
    @pytest.mark.parametrize("contender", [limit, memcpy])
    def test_the_bounds_have_the_right_weights(self, contender: Contender) -> None:
        assert measure(contender, 100_000, 2, seconds=0.5, device="cuda").right

    @pytest.mark.parametrize("paradigm", [ASP(), BSP(), SSP(), DSSP()])
    def test_the_server_has_the_right_weights(self, paradigm: ASP | BSP | SSP | DSSP) -> None:
        assert measure(ThroughServer(paradigm, check_pulls=True), 100_000, 4, seconds=0.5, device="cuda").right
