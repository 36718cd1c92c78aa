"""Whether a run goes on: the process that drives it holds a lock on its folder, which the kernel releases with it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def going_on(folder: Path) -> Iterator[bool]:
    """While inside, the run in this folder goes on; yields False if it does so already, here or in another process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def goes_on(folder: Path) -> bool:
    """Whether a process drives this run now."""
    with going_on(folder) as ours:
        return not ours


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
