"""Whether a run goes on: the process that drives it holds a lock on its folder, which the kernel releases with it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dssp_bench.core.errors import RecordsError

_TRIES, _PAUSE_S = 5, 0.02


@contextmanager
def going_on(folder: Path) -> Iterator[bool]:
    """While inside, the run in this folder goes on; yields False if it does so already, here or in another process.

    Raises RecordsError if the folder cannot be opened or locked.
    """
    with _opened(folder) as opened:
        for _ in range(_TRIES):
            if ours := opened.lock(fcntl.LOCK_EX):
                break
            time.sleep(_PAUSE_S)  # somebody may only be looking
        yield ours


def goes_on(folder: Path) -> bool:
    """Whether a process drives this run now. Raises RecordsError if the folder cannot be opened or locked."""
    with _opened(folder) as opened:
        return not opened.lock(fcntl.LOCK_SH)


@contextmanager
def _opened(folder: Path) -> Iterator["_Opened"]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RecordsError(f"{folder} cannot be opened: {error.strerror}") from error
    try:
        yield _Opened(folder, descriptor)
    finally:
        os.close(descriptor)


class _Opened(NamedTuple):
    folder: Path
    descriptor: int

    def lock(self, kind: int) -> bool:
        """Whether it could be had at once. Raises RecordsError where there are no locks."""
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # file systems of networks, most often
            problem = f"{self.folder} cannot be locked ({error.strerror}), so nobody could tell whether its run goes on"
            raise RecordsError(f"{problem}; runs_dir may be on a file system with flock") from error
        return True
