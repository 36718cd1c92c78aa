"""A closed terminal or a `kill` ends what goes on as Ctrl-C does, so that nothing is left `running` for ever."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_deferred() -> Iterator[None]:
    """While inside, the first Ctrl-C waits for the end; the second does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal waiting
        if waiting:
            raise KeyboardInterrupt
        waiting = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        raise KeyboardInterrupt


@contextmanager
def termination_as_interrupt(*also: signal.Signals) -> Iterator[None]:
    """While inside, SIGTERM, SIGHUP and those named raise KeyboardInterrupt, also where Ctrl-C is set to be ignored.

    A SIGHUP that is ignored (nohup) stays so. Outside the main thread, where no signal arrives, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM, *also]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
