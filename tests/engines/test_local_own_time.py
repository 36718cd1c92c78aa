"""What a piece of work costs, and what it only waited for."""

import os
import time
from collections.abc import Iterator

import pytest

from dssp_bench.core.messages import SECOND
from dssp_bench.engines.local.own_time import EVERY, FIRST, OwnTime, ServiceTimes


class Machine:
    """A monotonic clock and the kernel's account of waiting, both moved by hand."""

    def __init__(self) -> None:
        self.moment = 0
        self.waited = 0
        self.looks = 0
        self.between_readings: Iterator[int] = iter(())

    def monotonic_ns(self) -> int:
        self.looks += 1
        now = self.moment
        preempted = next(self.between_readings, 0)
        self.moment += preempted
        self.waited += preempted
        return now

    def pread(self, _file: int, _length: int, _offset: int) -> bytes:
        return f"123 {self.waited} 4\n".encode()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(time, "monotonic_ns", machine.monotonic_ns)
    monkeypatch.setattr(os, "pread", machine.pread)
    monkeypatch.setattr(os, "open", lambda *_: 99)
    monkeypatch.setattr(os, "close", lambda _: None)
    return machine


def test_waiting_for_a_core_is_not_own_time(machine: Machine) -> None:
    clock = OwnTime()
    began = clock.now()
    machine.moment += 700
    machine.waited += 200
    assert clock.now() - began == 500


def test_being_interrupted_between_the_two_readings_changes_nothing(machine: Machine) -> None:
    clock = OwnTime()
    began = clock.now()
    machine.moment += 300
    machine.between_readings = iter([5000, 40])
    assert clock.now() - began == 300


def test_where_the_kernel_does_not_count_own_time_is_wall_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(os, "open", missing)
    clock = OwnTime()
    began = clock.now()
    machine.moment += 700
    machine.waited += 200
    assert clock.now() - began == 700


def test_the_real_clock_never_runs_backwards() -> None:
    clock = OwnTime()
    moments = [clock.now() for _ in range(1000)]
    assert moments == sorted(moments)


def test_what_the_server_does_is_counted_and_what_it_waits_is_not(machine: Machine) -> None:
    times = ServiceTimes()

    def work(nanoseconds: int) -> None:
        machine.moment += nanoseconds

    for updates in (1, 0):
        work(1000)  # nothing to do
        times.begin()
        work(10)
        times.lap("receive", 1)
        work(5)  # deciding
        times.lap("receive")
        work(100 * updates)
        times.lap("update", updates)
        work(2)
        times.lap("reply", 2 * updates)
    assert times.summary(SECOND) == {
        "receive_s": pytest.approx(15e-9),
        "update_s": pytest.approx(100e-9),
        "reply_s": pytest.approx(2e-9),
        "busy_share": pytest.approx(134e-9),
    }


def test_of_many_events_a_few_are_timed_and_all_are_counted(machine: Machine) -> None:
    times = ServiceTimes()
    looks = machine.looks
    for _ in range(FIRST + 100 * EVERY):
        machine.moment += 1000
        times.begin()
        machine.moment += 10
        times.lap("receive", 1)
    assert machine.looks - looks < 3 * (FIRST + 100 * 2)
    summary = times.summary(SECOND)
    assert summary["receive_s"] == pytest.approx(10e-9)
    assert summary["busy_share"] == pytest.approx(10e-9 * (FIRST + 100 * EVERY))


def test_what_never_happened_has_no_mean(machine: Machine) -> None:
    assert ServiceTimes().summary(0) == {"receive_s": None, "update_s": None, "reply_s": None, "busy_share": None}
