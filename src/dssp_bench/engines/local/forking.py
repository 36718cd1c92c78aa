"""For the process that forks the others, which imports this first and is the only one that does.

- What it imports is no garbage, for which it would look all the time, and those that it forks after it; whoever looks
  has a copy of the memory of his own, too.
- When its driver has died it has nothing to take down; but it would hear of that only when it has torch, which takes a
  second, and taking torch down would take it another, for which the processes that are to die with it would live.
- It is no news that a driver died while it asked for a process, of which Python up to 3.13 shows a traceback there, and
  all versions in the process that was to be.
"""

import atexit
import gc
import os
import signal
import sys
from types import FrameType, TracebackType

from dssp_bench.engines.local.fork_server import DRIVER

_LOOKS_EVERY_S = 0.1
_ASKS = ("multiprocessing.reduction", "multiprocessing.spawn")
"""Where it, and the process that was to be, read what they are asked for."""

_self, _driver = os.getpid(), int(os.environ.pop(DRIVER, os.getppid()))
_say = sys.excepthook


def _end() -> None:
    if os.getpid() == _self:  # and not one that was forked from it
        os._exit(0)


def _look(_number: int, _frame: FrameType | None) -> None:
    if os.getppid() != _driver:
        _end()


def _before_it_forks() -> None:
    """Who is asked for a process has imported everything, and hears by itself from then on."""
    if os.getpid() == _self:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.freeze()


def _say_what_is_news(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    last = trace
    while last and last.tb_next:
        last = last.tb_next
    went = issubclass(kind, (EOFError, ConnectionError)) or kind.__name__ == "UnpicklingError"  # a part of it came
    if not (went and last and last.tb_frame.f_globals.get("__name__") in _ASKS):
        _say(kind, error, trace)


atexit.register(_end)  # what is registered first is called last
sys.excepthook = _say_what_is_news
signal.signal(signal.SIGALRM, _look)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, _LOOKS_EVERY_S, _LOOKS_EVERY_S)
gc.disable()
os.register_at_fork(before=_before_it_forks, after_in_child=gc.enable)
