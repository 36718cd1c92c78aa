"""Who is taken to hang: with processes that are only numbers, and moments that are only said."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
import torch

from dssp_bench.core.errors import WorkerFailed
from dssp_bench.core.messages import SECOND, Left, Push
from dssp_bench.engines.local.channel import Channel, Kind, channel_pair
from dssp_bench.engines.local.engine import LocalEngine, Post
from dssp_bench.engines.local.leases import Leases
from dssp_bench.engines.local.own_time import ServiceTimes


class Watched:
    """Leases of 30 s on workers that are all this process, and whom they would have killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, iteration_s: float = 0.1, workers: int = 2) -> None:
        self.killed: list[int] = []
        monkeypatch.setattr(os, "pidfd_open", lambda pid: pid)
        monkeypatch.setattr(os, "close", lambda descriptor: None)
        self.hung_up_on: list[int] = []
        self.leases = Leases(30.0, hang_up=self.hung_up_on.append, kill=self.killed.append)
        self.leases.look(SECOND)
        for worker in range(workers):
            self.leases.watch(worker, 100 + worker, iteration_s)

    def pass_until(self, moment_s: int, since_s: int = 2) -> None:
        """Look every second."""
        for second in range(since_s, moment_s + 1):
            self.leases.look(second * SECOND)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watched]:
    return lambda **options: Watched(monkeypatch, **options)


def test_a_worker_that_computes_for_longer_than_its_lease_is_killed_once(watched: Callable[..., Watched]) -> None:
    two = watched()
    two.leases.begin(0, 1 * SECOND)
    two.pass_until(31)
    assert two.killed == []
    two.pass_until(40, since_s=32)
    assert (two.killed, two.hung_up_on) == ([100], [0])


def test_one_on_another_machine_is_not_killed_but_no_longer_listened_to(watched: Callable[..., Watched]) -> None:
    two = watched()
    two.leases.watch(1, 0, 0.1)
    two.leases.begin(1, SECOND)
    two.pass_until(40)
    assert (two.killed, two.hung_up_on) == ([], [1])


def test_one_that_pushed_or_is_held_or_has_left_is_not(watched: Callable[..., Watched]) -> None:
    two = watched()
    for worker in (0, 1):
        two.leases.begin(worker, SECOND)
    two.leases.end(0, 2 * SECOND)
    two.leases.forget(1)
    two.pass_until(100)
    assert two.killed == []


def test_one_whose_iterations_are_long_gets_twenty_times_their_median(watched: Callable[..., Watched]) -> None:
    two = watched()
    for took in (1, 10, 10, 10, 500):
        two.leases.begin(0, SECOND)
        two.leases.end(0, (1 + took) * SECOND)
    two.leases.begin(0, 2 * SECOND)
    two.pass_until(202)
    assert two.killed == []
    two.pass_until(203, since_s=203)
    assert two.killed == [100]


def test_before_its_first_push_what_it_took_to_get_ready_counts(watched: Callable[..., Watched]) -> None:
    two = watched(iteration_s=4.0)
    two.leases.begin(0, SECOND)
    two.pass_until(81)
    assert two.killed == []
    two.pass_until(82, since_s=82)
    assert two.killed == [100]


def test_after_its_first_push_it_does_not_count_any_more(watched: Callable[..., Watched]) -> None:
    two = watched(iteration_s=4.0)
    two.leases.begin(0, SECOND)
    two.leases.end(0, 2 * SECOND)
    two.leases.begin(0, 2 * SECOND)
    two.pass_until(32)
    assert two.killed == []
    two.pass_until(33, since_s=33)
    assert two.killed == [100]


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LocalEngine, Channel]]:
    """An engine with a lease of 30 s on a time that stands still, and the channel of its only worker."""
    here, there = channel_pair()
    weights = torch.zeros(3)
    engine = LocalEngine({0: Post(here, weights.clone())}, weights, crew=None, times=ServiceTimes())
    there.send(Kind.READY, 0, 0.1)
    engine.start()
    monkeypatch.setattr(LocalEngine, "now", 0)
    yield engine, there
    engine.close()
    there.close()


def test_what_a_push_is_on_its_way_counts_as_part_of_an_iteration(
    one: tuple[LocalEngine, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, worker = one
    engine.deliver([0], 0, ())
    look_until(engine, 10, monkeypatch)
    worker.send(Kind.PUSH, 1000, 0.5)
    assert isinstance(engine.next_event(None), Push)
    engine.deliver([0], 0, ())
    look_until(engine, 200, monkeypatch)
    assert not worker.has_ended()
    look_until(engine, 211, monkeypatch)
    assert worker.has_ended()


def look_until(engine: LocalEngine, moment_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for second in range(engine.now // SECOND, moment_s + 1):
        monkeypatch.setattr(LocalEngine, "now", second * SECOND)
        engine._leases.look(engine.now)


def test_one_that_cannot_die_is_lost_once_and_its_last_push_is_heard(
    one: tuple[LocalEngine, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, worker = one
    child = subprocess.Popen(["sleep", "600"])  # it holds on to the socket, as this process does
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda process, number: None)
    engine._leases.watch(0, child.pid, 0.1)
    engine.deliver([0], 0, ())
    worker.send(Kind.PUSH, 1000, 0.5)
    look_until(engine, 31, monkeypatch)
    assert isinstance(engine.next_event(None), Push)
    engine.deliver([0], 0, ())
    assert engine.next_event(None) == Left(0, 31 * SECOND)
    assert engine.lost == [0]
    with pytest.raises(WorkerFailed, match="every worker has died"):
        engine.next_event(None)
    child.kill()
    child.wait()


def test_if_the_whole_run_was_suspended_nobody_hung(watched: Callable[..., Watched]) -> None:
    two = watched()
    two.leases.begin(0, 1 * SECOND)
    two.pass_until(20)
    two.leases.look(3600 * SECOND)
    two.pass_until(3630, since_s=3601)
    assert two.killed == []
    two.pass_until(3631, since_s=3631)
    assert two.killed == [100]


def test_a_process_that_is_not_ready_in_time_is_killed_too(watched: Callable[..., Watched]) -> None:
    two = watched()
    two.leases.expect(2, 102, within_s=5.0, at=SECOND)
    two.leases.expect(3, 103, within_s=5.0, at=SECOND)
    two.leases.watch(3, 103, 0.1)
    two.pass_until(100)
    assert two.killed == [102]
