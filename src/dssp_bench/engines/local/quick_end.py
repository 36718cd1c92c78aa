"""For the process that forks the others, which imports this first and is the only one that does.

When its driver has died it has nothing to take down; but taking torch down would take it a second, for which the
processes that are to die with it would live.
"""

import atexit
import os


def _end(pid: int) -> None:
    if os.getpid() == pid:  # and not one that was forked from it
        os._exit(0)


atexit.register(_end, os.getpid())  # what is registered first is called last
