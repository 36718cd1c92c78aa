"""Whether a run goes on: the process that drives it holds a lock on its folder, which the kernel releases with it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TRIES, _PAUSE_S = 5, 0.02


@contextmanager
def going_on(folder: Path) -> Iterator[bool]:
    """While inside, the run in this folder goes on; yields False if it does so already, here or in another process."""
    with _opened(folder) as descriptor:
        for _ in range(_TRIES):
            if ours := _lock(descriptor, fcntl.LOCK_EX):
                break
            time.sleep(_PAUSE_S)  # somebody may only be looking
        yield ours


def goes_on(folder: Path) -> bool:
    """Whether a process drives this run now."""
    with _opened(folder) as descriptor:
        return not _lock(descriptor, fcntl.LOCK_SH)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
