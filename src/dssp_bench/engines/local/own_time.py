"""A thread's own time: wall time less the time for which it was ready to run, but every core was busy with others.

Where more processes compute than there are cores, this tells what a piece of work costs from how long it waited for its
turn. Linux counts the waiting in `/proc/thread-self/schedstat`; where there is none, own time is wall time.
"""

import os
import time
import weakref
from typing import Literal

from dssp_bench.core.messages import SECOND, Nanoseconds

Part = Literal["receive", "update", "reply"]

FIRST = 400
EVERY = 13  # a number of which few numbers of workers are multiples, so that it is not always the same one
_LONGEST = 100  # characters of a line with three numbers


class OwnTime:
    """The clock of the thread that makes it; only differences between its moments mean something."""

    def __init__(self) -> None:
        self._file: int | None = None
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file)
            self._waited()
        except (OSError, ValueError, IndexError):
            self._file = None

    def now(self) -> Nanoseconds:
        """A moment; costs two microseconds."""
        waited = self._waited()
        while True:
            moment = time.monotonic_ns()
            before, waited = waited, self._waited()
            if waited == before:  # else it had to wait between the two readings
                return moment - waited

    def _waited(self) -> Nanoseconds:
        return 0 if self._file is None else int(os.pread(self._file, _LONGEST, 0).split()[1])


class ServiceTimes:
    """What the server's own time goes to: receiving pushes and deciding, updating the weights, replying to workers.

    Looking at the clock takes longer than some of this: after the `FIRST` events, one in `EVERY` is timed. All count.
    """

    def __init__(self) -> None:
        self._clock = OwnTime()
        self._since = self._clock.now()
        self._events = 0
        self._timed = True
        self._spent: dict[Part, Nanoseconds] = {"receive": 0, "update": 0, "reply": 0}
        self._timed_count: dict[Part, int] = {"receive": 0, "update": 0, "reply": 0}
        self._count: dict[Part, int] = {"receive": 0, "update": 0, "reply": 0}

    def begin(self) -> None:
        """The server turns to something new; what it did since it last said anything was waiting."""
        self._timed = self._events < FIRST or self._events % EVERY == 0
        self._events += 1
        if self._timed:
            self._since = self._clock.now()

    def lap(self, part: Part, count: int = 0) -> None:
        """What was done since then was this part of the work, for so many more pushes, updates or replies."""
        self._count[part] += count
        if self._timed:
            now = self._clock.now()
            self._spent[part] += now - self._since
            self._timed_count[part] += count
            self._since = now

    def summary(self, duration: Nanoseconds) -> dict[str, float | None]:
        """Mean seconds of a receive, an update and a reply, and the share of the run for which the server was busy."""
        means = {part: self._mean(part) for part in self._spent}
        busy = sum(SECOND * (mean or 0.0) * self._count[part] for part, mean in means.items())
        return {
            **{f"{part}_s": mean for part, mean in means.items()},
            "busy_share": busy / duration if duration else None,
        }

    def _mean(self, part: Part) -> float | None:
        count = self._timed_count[part]
        return self._spent[part] / count / SECOND if count else None
