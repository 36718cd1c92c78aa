"""A closed terminal or a `kill` ends what goes on as Ctrl-C does, so that nothing is left `running` for ever."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from dssp_bench.engines.engine import Limits

Handler = Callable[[int, object], None]


@contextmanager
def termination_as_interrupt(*also: signal.Signals) -> Iterator[None]:
    """While inside, SIGTERM, SIGHUP and those named raise KeyboardInterrupt, also where Ctrl-C is set to be ignored.

    A SIGHUP that is ignored (nohup) stays so. Outside the main thread, where no signal arrives, nothing changes.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, [signal.SIGTERM, *also, *_unless_ignored(signal.SIGHUP)]):
        yield


class Stop:
    """Whether somebody asked for an end."""

    interrupted = False


@contextmanager
def stopped_by_interrupt(limits: Limits) -> Iterator[Stop]:
    """While inside, the first Ctrl-C asks the run to stop at a safe point, and the second interrupts it at once."""
    stop = Stop()

    def interrupt(_number: int, _frame: object) -> None:
        if stop.interrupted:
            raise KeyboardInterrupt
        stop.interrupted = limits.stop_requested = True

    with _handled(interrupt, [signal.SIGTERM, *_unless_ignored(signal.SIGINT, signal.SIGHUP)]):
        yield stop


@contextmanager
def interrupt_deferred(patience: int = 1) -> Iterator[None]:
    """While inside, so many Ctrl-C wait for the end; the next does not."""
    waiting = 0

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal waiting
        if waiting == patience:
            raise KeyboardInterrupt
        waiting += 1

    with _handled(interrupt, [signal.SIGINT, signal.SIGTERM, *_unless_ignored(signal.SIGHUP)]):
        yield
    if waiting:
        raise KeyboardInterrupt


def _unless_ignored(*numbers: signal.Signals) -> list[signal.Signals]:
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def _handled(handler: Handler, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
