"""Signals to this process, which are Python's to deliver."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dssp_bench.engines.termination import interrupt_deferred, termination_as_interrupt


@contextmanager
def handled(number: signal.Signals, handler: signal.Handlers) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def done_when_interrupted(*numbers: signal.Signals, patience: int = 1) -> list[str]:
    """What is done inside although these signals come, each before a piece of work, and KeyboardInterrupt is raised."""
    done: list[str] = []

    def work() -> None:
        with interrupt_deferred(patience):
            for number, name in zip(numbers, ("first", "second", "third"), strict=False):
                signal.raise_signal(number)
                done.append(name)

    with pytest.raises(KeyboardInterrupt):
        work()
    return done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_kill_and_a_closed_terminal_are_as_ctrl_c_even_where_that_is_ignored(number: signal.Signals) -> None:
    with (
        handled(signal.SIGINT, signal.SIG_IGN),
        handled(number, signal.SIG_DFL),  # whoever runs the tests may have asked to outlive the terminal
        pytest.raises(KeyboardInterrupt),
        termination_as_interrupt(),
    ):
        signal.raise_signal(number)


def test_who_asked_to_outlive_the_terminal_does() -> None:
    with handled(signal.SIGHUP, signal.SIG_IGN), termination_as_interrupt():
        signal.raise_signal(signal.SIGHUP)  # would raise
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_afterwards_everything_is_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with termination_as_interrupt(signal.SIGINT), interrupt_deferred():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_waits_for_the_end(number: signal.Signals) -> None:
    assert done_when_interrupted(number) == ["first"]


def test_the_second_interrupt_does_not_or_the_third() -> None:
    assert done_when_interrupted(signal.SIGINT, signal.SIGINT) == ["first"]
    assert done_when_interrupted(*[signal.SIGINT] * 3, patience=2) == ["first", "second"]


def test_in_another_thread_nothing_changes() -> None:
    seen = []

    def inside() -> None:
        with termination_as_interrupt(), interrupt_deferred():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
