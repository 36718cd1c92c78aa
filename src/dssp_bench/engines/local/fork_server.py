"""The process that forks all others of a run, so that torch is imported once for all of them.

It can be started before this process has torch itself: both imports take a second, and then take it at the same time.
"""

import multiprocessing
import os
import signal
from collections.abc import Sequence

DRIVER = "DSSP_BENCH_DRIVER"
"""Whose process it is; it may not be there any more when that asks for its parent."""


def start_fork_server(preload: Sequence[str] = ()) -> None:
    """Start the process that imports the modules once and then forks the others; returns at once.

    It inherits that Ctrl-C is blocked, and so do the processes that it forks: what a terminal sends to all of them is
    the driver's business, also while they are still starting.
    """
    from multiprocessing import forkserver, resource_tracker

    if multiprocessing.get_start_method() not in ("fork", "spawn", "forkserver"):
        # A joblib worker has a default of its own, which it would hand down to processes that do not know it.
        multiprocessing.set_start_method("forkserver", force=True)
    if preload:
        multiprocessing.set_forkserver_preload(["dssp_bench.engines.local.forking", *preload])
    resource_tracker.ensure_running()  # it unblocks signals, so it must be there before they are blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ[DRIVER] = str(os.getpid())
    try:
        forkserver.ensure_running()
    finally:
        del os.environ[DRIVER]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
