"""In virtual time, what processes do to each other that compute on fewer cores than there are processes."""

import heapq
from collections.abc import Sequence
from itertools import count
from math import inf
from typing import NamedTuple

from dssp_bench.core.messages import Event, Nanoseconds, WorkerId
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.simulated import SimulatedEngine


class _Iteration(NamedTuple):
    worker: WorkerId
    began: Nanoseconds
    compute: Nanoseconds
    work: float  # nanoseconds of a core


class SharedCores(SimulatedEngine):
    """Virtual time on one machine: workers that compute share its cores, and the server takes one when it needs it.

    `shares` says which part of a worker's iteration is work for a core. The rest is slept, and waiting for a core is
    made up for by sleeping less, as in the local engine. A push's compute time is what it would have been alone.
    """

    def __init__(
        self,
        layout: ClusterLayout,
        iteration: Nanoseconds,
        seed: int,
        *,
        cores: int,
        shares: Sequence[float],
        keys: int = 1,
        message_bytes: int = 0,
    ) -> None:
        super().__init__(layout, iteration, seed, keys=keys, message_bytes=message_bytes)
        self._cores = cores
        self._shares = shares
        self._starting: list[tuple[Nanoseconds, int, _Iteration]] = []
        self._computing: list[tuple[float, int, _Iteration]] = []
        self._moment = 0.0
        self._got = 0.0  # what a worker would have got by now, had it computed all the time
        self._ties = count()

    def next_event(self, until: Nanoseconds | None) -> Event | None:
        """The next event, once everything has happened that happens between the workers before it."""
        while True:
            self._forget_the_gone()
            outside = self._next_from_outside()
            start = self._starting[0][0] if self._starting else inf
            done = self._next_done()
            if min(start, done) > outside or min(start, done) == inf:
                break
            self._advance(min(start, done))
            if start <= done:
                _, tie, iteration = heapq.heappop(self._starting)
                heapq.heappush(self._computing, (self._got + iteration.work, tie, iteration))
            else:
                self._finish(heapq.heappop(self._computing)[2])
        event = super().next_event(until)
        if event is not None:
            self._advance(event.at)
        return event

    def _next_from_outside(self) -> float:
        """When the server takes up what is on its way to it, or stands in the calendar."""
        keys = [*self._pushes[:1], *(key for key, _ in self._calendar[:1])]
        return max(min(keys) >> self._at_bits, self._free_at) if keys else inf

    def _begin(self, worker: WorkerId, at: Nanoseconds) -> None:
        slowdown = self._layout.slowdown(worker, at)
        noise = self._noise.next(worker) if self._noise else 1.0
        compute = round(self._iteration * slowdown * noise)
        slowed = slowdown / self._layout.workers[worker].slowdown  # slept, as every slowdown is
        iteration = _Iteration(worker, at, compute, compute * self._shares[worker] / slowed)
        heapq.heappush(self._starting, (at, next(self._ties), iteration))

    def _finish(self, iteration: _Iteration) -> None:
        done = max(round(self._moment), iteration.began + iteration.compute)
        self._takes[iteration.worker] = iteration.compute
        heapq.heappush(self._pushes, self._key(done + self._transit, iteration.worker))

    # --- the cores ---

    def _next_done(self) -> float:
        """When the next worker has had the work it needs, if no other begins and the server is left alone."""
        if not self._computing:
            return inf
        left = max(0.0, self._computing[0][0] - self._got)
        busy = max(0.0, self._free_at - self._moment)
        beside, alone = self._pace(self._cores - 1), self._pace(self._cores)
        if left < busy * beside:
            return self._moment + left / beside
        return self._moment + busy + (left - busy * beside) / alone

    def _advance(self, to: float) -> None:
        """Give every computing worker its share of the cores up to a moment."""
        busy = min(max(0.0, self._free_at - self._moment), to - self._moment)
        self._got += busy * self._pace(self._cores - 1) + (to - self._moment - busy) * self._pace(self._cores)
        self._moment = to

    def _pace(self, cores: int) -> float:
        """How fast each computing worker gets on with so many cores for all of them."""
        return min(1.0, cores / len(self._computing)) if self._computing else 1.0
