"""Virtual time: nothing waits, the clock jumps from event to event."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from dssp_bench.core.messages import (
    SECOND,
    Event,
    Joined,
    Left,
    Nanoseconds,
    Push,
    Timer,
    TimerFired,
    WorkerId,
)
from dssp_bench.core.streams import stream_seed
from dssp_bench.engines.engine import Engine
from dssp_bench.engines.layout import ClusterLayout

Compute = Callable[[WorkerId], float | None]


class SimulatedEngine(Engine):
    """Virtual time in whole nanoseconds; events at the same moment keep the order in which they were caused.

    An iteration takes `iteration` times the worker's slowdown and noise. Messages travel, and then queue at a server
    that does one thing at a time: it receives a push, updates, and replies to everyone it releases. An event's time is
    the moment at which the server takes it up.

    `compute`, if given, computes a worker's real gradient on the current weights when the worker is released (in
    virtual time the weights cannot change before its push), and returns the loss.
    """

    def __init__(
        self,
        layout: ClusterLayout,
        iteration: Nanoseconds,
        seed: int,
        *,
        keys: int = 1,
        message_bytes: int = 0,
        compute: Compute | None = None,
    ) -> None:
        self._layout = layout
        self._iteration = iteration
        self._transit = layout.network.transit(keys, message_bytes)
        self._receive, self._update, self._reply = layout.server.costs(keys)
        self._compute = compute
        self._expected = [iteration * worker.slowdown for worker in layout.workers]
        self._changing = {event.worker for event in layout.events if event.slowdown is not None}
        self._noise = {w: self._noise_of(w, seed) for w, worker in enumerate(layout.workers) if worker.jitter.varies}
        self._gone: set[WorkerId] = set()
        self._heap: list[tuple[Nanoseconds, int, Event]] = []
        self._order = count()
        self._now = 0
        self._free_at = 0
        self._received = 0

    @property
    def now(self) -> Nanoseconds:
        """The virtual moment of the latest event."""
        return self._now

    def start(self) -> None:
        """Enter the layout's departures and arrivals into the calendar."""
        for event in self._layout.events:
            at = round(event.at_s * SECOND)
            if event.leave:
                self._push(at, Left(event.worker, at))
            elif event.join:
                self._push(at, Joined(event.worker, at))

    def next_event(self, until: Nanoseconds | None) -> Event | None:
        """The next event, at the moment at which the server is free for it."""
        while self._heap:
            arrival, _, event = self._heap[0]
            at = arrival if arrival > self._free_at else self._free_at
            if until is not None and at > until:
                return None
            heapq.heappop(self._heap)
            if self._gone and isinstance(event, (Push, Left)) and event.worker in self._gone:
                continue  # it died with its push on the way, or had left already
            self._now = at
            if isinstance(event, Push):
                self._received = self._receive
                return event if at == arrival else Push(event.worker, at, event.compute, event.loss)
            if isinstance(event, Left):
                self._gone.add(event.worker)
            self._received = 0
            return event._replace(at=at)
        return None

    def deliver(self, released: Sequence[WorkerId], updates: int, timers: Sequence[Timer]) -> None:
        """Spend the server's time on the event, and start the iterations of the released workers."""
        busy = (self._now if self._now > self._free_at else self._free_at) + self._received + updates * self._update
        self._received = 0
        for worker in released:
            busy += self._reply
            self._begin(worker, busy + self._transit)
        self._free_at = busy
        for timer in timers:
            self._push(timer.at, TimerFired(timer.tag, timer.at))

    def dismiss(self, worker: WorkerId) -> None:
        """A worker that has done its share computes no more, and cannot leave again."""
        self._gone.add(worker)

    def close(self) -> None:
        """Nothing to give back."""

    def _begin(self, worker: WorkerId, at: Nanoseconds) -> None:
        takes = self._expected[worker]
        if worker in self._changing:
            takes = self._iteration * self._layout.slowdown(worker, at)
        if worker in self._noise:
            takes *= next(self._noise[worker])
        compute = round(takes)
        loss = self._compute(worker) if self._compute else None
        arrival = at + compute + self._transit
        self._push(arrival, Push(worker, arrival, compute, loss))

    def _push(self, at: Nanoseconds, event: Event) -> None:
        heapq.heappush(self._heap, (at, next(self._order), event))

    def _noise_of(self, worker: WorkerId, seed: int) -> Iterator[float]:
        return self._layout.workers[worker].jitter.stream(stream_seed(seed, "iteration time", worker))
