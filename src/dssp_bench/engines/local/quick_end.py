"""For the process that forks the others, which imports this first and is the only one that does.

When its driver has died it has nothing to take down; but taking torch down would take it a second, for which the
processes that are to die with it would live. And it is no news that a driver died while it asked for a process, of
which Python up to 3.13 shows a traceback there, and all versions in the process that was to be.
"""

import atexit
import os
import sys
from types import TracebackType

_say = sys.excepthook


def _end(pid: int) -> None:
    if os.getpid() == pid:  # and not one that was forked from it
        os._exit(0)


def _say_what_is_news(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if kind is not EOFError:
        _say(kind, error, trace)


atexit.register(_end, os.getpid())  # what is registered first is called last
sys.excepthook = _say_what_is_news
