"""Virtual time: nothing waits, the clock jumps from event to event."""

from array import array
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

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
    new,
)
from dssp_bench.core.streams import stream_seed
from dssp_bench.engines.compute_time import Streams
from dssp_bench.engines.engine import Engine
from dssp_bench.engines.layout import ClusterLayout

Compute = Callable[[WorkerId], tuple[float | None, bool]]

_ORDER_BITS = 48


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
        self._expected = array("d", [iteration * worker.slowdown for worker in layout.workers])
        self._changing = {event.worker for event in layout.events if event.slowdown is not None}
        self._noise = self._noise_from(seed) if layout.has_jitter else None
        self._gone: set[WorkerId] = set()
        # A worker has one push under way, so its heap needs nothing but keys: with many workers, comparing is what
        # virtual time takes longest for, and whole numbers compare twice as fast as tuples.
        self._pushes: list[int] = []
        self._takes = [0] * len(layout.workers)
        self._losses: list[float | None] = [None] * len(layout.workers)
        self._finite = [True] * len(layout.workers)
        self._calendar: list[tuple[int, Event]] = []  # a heap of all other events
        self._caused = 0
        self._worker_bits = len(layout.workers).bit_length()
        self._at_bits = self._worker_bits + _ORDER_BITS
        self._worker_mask = (1 << self._worker_bits) - 1
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
                self._enter(at, Left(event.worker, at))
            elif event.join:
                self._enter(at, Joined(event.worker, at))

    def next_event(self, until: Nanoseconds | None) -> Event | None:
        """The next event, at the moment at which the server is free for it."""
        if self._gone:
            self._forget_the_gone()
        pushes, calendar = self._pushes, self._calendar
        if calendar and not (pushes and pushes[0] < calendar[0][0]):
            return self._next_from_calendar(until)
        if not pushes:
            return None
        at = pushes[0] >> self._at_bits
        if at < self._free_at:
            at = self._free_at
        if until is not None and at > until:
            return None
        self._now = at
        self._received = self._receive
        worker = heappop(pushes) & self._worker_mask
        return new(Push, (worker, at, self._takes[worker], self._losses[worker], self._finite[worker]))

    def deliver(self, released: Sequence[WorkerId], updates: int, timers: Sequence[Timer]) -> None:
        """Spend the server's time on the event, and start the iterations of the released workers."""
        busy = (self._now if self._now > self._free_at else self._free_at) + self._received + updates * self._update
        self._received = 0
        for worker in released:
            busy += self._reply
            self._begin(worker, busy + self._transit)
        self._free_at = busy
        for timer in timers:
            self._enter(timer.at, TimerFired(timer.tag, timer.at))

    def dismiss(self, worker: WorkerId) -> None:
        """A worker that has done its share computes no more, and cannot leave again."""
        self._gone.add(worker)

    def close(self) -> None:
        """Nothing to give back."""

    def _begin(self, worker: WorkerId, at: Nanoseconds) -> None:
        takes = self._expected[worker]
        if worker in self._changing:
            takes = self._iteration * self._layout.slowdown(worker, at)
        if self._noise:
            takes *= self._noise.next(worker)
        self._takes[worker] = compute = round(takes)
        if self._compute:
            self._losses[worker], self._finite[worker] = self._compute(worker)
        heappush(self._pushes, self._key(at + compute + self._transit, worker))

    def _enter(self, at: Nanoseconds, event: Event) -> None:
        heappush(self._calendar, (self._key(at), event))

    def _next_from_calendar(self, until: Nanoseconds | None) -> Event | None:
        key, event = self._calendar[0]
        at = max(key >> self._at_bits, self._free_at)
        if until is not None and at > until:
            return None
        heappop(self._calendar)
        if isinstance(event, Left):
            self._gone.add(event.worker)
        self._now = at
        self._received = 0
        return event._replace(at=at)

    def _forget_the_gone(self) -> None:
        """Drop what comes next from workers that left: a push on the way, or another departure."""
        while self._pushes and self._pushes[0] & self._worker_mask in self._gone:
            heappop(self._pushes)
        while self._calendar and isinstance(event := self._calendar[0][1], Left) and event.worker in self._gone:
            heappop(self._calendar)

    def _key(self, at: Nanoseconds, worker: WorkerId = 0) -> int:
        """Sorts by moment, then by cause; its lowest bits say whose push it is."""
        self._caused += 1
        return at << self._at_bits | self._caused << self._worker_bits | worker

    def _noise_from(self, seed: int) -> Streams:
        workers = self._layout.workers
        seeds = [stream_seed(seed, "iteration time", worker) for worker in range(len(workers))]
        return Streams([worker.jitter for worker in workers], seeds)
