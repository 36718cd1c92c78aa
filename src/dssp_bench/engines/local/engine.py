"""The engine that runs in the server's process: it turns workers' messages into events and releases into messages."""

import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dssp_bench.core.errors import WorkerFailed
from dssp_bench.core.messages import SECOND, Event, Joined, Left, Nanoseconds, Push, Timer, TimerFired, WorkerId
from dssp_bench.engines.engine import Engine
from dssp_bench.engines.local.channel import Channel, Kind, Message
from dssp_bench.engines.local.crew import Copier, Crew
from dssp_bench.engines.local.leases import LOOKS_EVERY_S, Leases
from dssp_bench.engines.local.own_time import ServiceTimes
from dssp_bench.engines.local.shards import Shards


class Post(NamedTuple):
    """Where the server meets one worker: their channel, and where the weights are laid down for it to pull."""

    channel: Channel
    weights: Tensor


class LocalEngine(Engine):
    """Real time, real workers. A release copies one whole version of the weights for the worker, then wakes it.

    `calendar` says who joins and who leaves when. `on_message` handles what arrives on `others` (the evaluator and
    the driver); the run starts when they are ready too. A worker whose socket closes without a word has died: that is
    an event, its number goes to `lost`, and `on_loss` is told, which may raise, or say that a replacement will come. A
    worker that raised sends its traceback first, and that raises WorkerFailed here. One that computes for longer than
    the `lease`, and than 20 times its median iteration from release to push, is killed. The `crew`, if there is one,
    makes the copies; `times` is told what the server's time goes to. A run that was left at a moment goes on there, and
    those who were `computing` then do so again, each on the weights that it had pulled; those who were `missing` are
    lost now. The `shards` let their parts of the weights go at the same time.
    """

    def __init__(
        self,
        posts: dict[WorkerId, Post],
        weights: Tensor,
        *,
        crew: Crew | None,
        times: ServiceTimes,
        calendar: Sequence[Joined | Left] = (),
        others: dict[str, Channel] | None = None,
        on_message: Callable[[str, Message | None], None] | None = None,
        startup_timeout_s: float = 120.0,
        on_loss: Callable[[WorkerId], bool] = lambda _worker: False,
        lease_s: float = 30.0,
        left_at: Nanoseconds = 0,
        computing: Mapping[WorkerId, Tensor] | None = None,
        shards: Shards | None = None,
        missing: Sequence[WorkerId] = (),
    ) -> None:
        self._posts = posts
        self._shards = shards or Shards(())
        self._workers = len(posts)
        self._crew = crew
        self._copier = Copier(weights, crew)
        self._device = weights.device
        self._on_message = on_message or (lambda _name, _message: None)
        self._times = times
        self._startup_timeout_s = startup_timeout_s
        self._on_loss = on_loss
        self._leases = Leases(lease_s, hang_up=self.hang_up)
        self._coming = 0  # replacements that are not here yet
        self._starting: set[WorkerId] = set()  # those that are, but not ready
        self._selector = selectors.DefaultSelector()
        for worker, post in posts.items():
            self._selector.register(post.channel, selectors.EVENT_READ, worker)
        self._others = others or {}
        for name, channel in self._others.items():
            self._selector.register(channel, selectors.EVENT_READ, name)
        self._waiting: deque[WorkerId | str] = deque()
        self._timers: list[TimerFired | Joined | Left] = list(calendar)
        self._absent = {event.worker for event in calendar if isinstance(event, Joined)}
        self._unready: set[WorkerId | str] = {*posts, *(set(others or {}) - set(self._shards.channels))}
        self._interrupted = False
        self._left_at = left_at
        self._computing = computing or {}
        self._missing = missing
        self.lost: list[WorkerId] = []
        self.started_at = 0

    @property
    def began_at(self) -> Nanoseconds:
        """When the workers began, or went on, on the monotonic clock."""
        return self.started_at + self._left_at

    @property
    def now(self) -> Nanoseconds:
        """Nanoseconds since the start, on the monotonic clock."""
        return time.monotonic_ns() - self.started_at

    def start(self) -> None:
        """Wait until every worker is ready and the driver says go. Raises WorkerFailed."""
        deadline = time.monotonic() + self._startup_timeout_s
        while self._unready and not self._interrupted:
            self._poll(max(0.0, deadline - time.monotonic()))
            if not self._waiting and time.monotonic() >= deadline:
                late = sorted(f"the {who}" if isinstance(who, str) else f"worker {who}" for who in self._unready)
                raise WorkerFailed(
                    f"not ready after {self._startup_timeout_s:g} s: {', '.join(late)}; is the machine overloaded? "
                    "engine.startup_timeout_s allows more"
                )
            while self._waiting:
                self._receive_ready(self._waiting.popleft())
        self.started_at = time.monotonic_ns() - self._left_at
        self._times.begin()
        for worker, pulled in self._computing.items():
            self._posts[worker].weights.copy_(pulled)
        if self._shards and self._computing:
            self._shards.release(list(self._computing), copy=False)
        self._wake({worker: self._posts[worker] for worker in self._computing})
        self._computing = {}
        self._coming = sum(self._on_loss(worker) for worker in self._missing)

    def next_event(self, until: Nanoseconds | None) -> Event | None:
        """The next push, departure, arrival or timer, in the order in which they are taken up."""
        while not self._interrupted:
            while self._waiting:
                event = self._receive(self._waiting.popleft())
                if event is not None:
                    return event
            self._times.begin()
            if (due := self._due()) is not None:
                return due
            if until is not None and self.now >= until:
                return None
            if not self._posts and not self._coming:
                self._refuse_to_end_alone()
                return None
            self._poll(self._patience(until))
            self._leases.look(self.now)
            if self._crew:
                self._crew.check()
        return None

    def interrupt(self) -> None:
        """End the run at the next safe point: there will be no more events."""
        self._interrupted = True

    def hang_up(self, worker: WorkerId) -> None:
        """Take a worker for lost, although its channel is open."""
        if worker in self._posts:
            self._posts[worker].channel.hang_up()

    def expect(self) -> None:
        """A replacement will come for somebody who was lost long ago."""
        self._coming += 1

    def admit(self, worker: WorkerId, post: Post, former: WorkerId, pid: int) -> None:
        """A replacement is starting; it joins when it is ready, but not before the one that died would have."""
        self._timers = [
            event if isinstance(event, TimerFired) or event.worker != former else event._replace(worker=worker)
            for event in self._timers
        ]
        self._leases.expect(worker, pid, self._startup_timeout_s, self.now)
        self._posts[worker] = post
        self._absent.add(worker)
        self._starting.add(worker)
        self._workers += 1
        self._coming -= 1
        self._selector.register(post.channel, selectors.EVENT_READ, worker)

    def deliver(self, released: Sequence[WorkerId], updates: int, timers: Sequence[Timer]) -> None:
        """Copy the current version for every released worker, then wake them."""
        self._times.lap("receive")
        for timer in timers:
            self._timers.append(TimerFired(timer.tag, timer.at))
        posts = {worker: self._posts[worker] for worker in released if worker in self._posts}
        if posts:
            if self._shards:
                self._shards.release(list(posts))
            self._copier.copy([post.weights for post in posts.values()], lambda: self._wake(posts))
        self._times.lap("reply", len(posts))

    def _wake(self, posts: Mapping[WorkerId, Post]) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = self.now
        for worker, post in posts.items():
            self._leases.begin(worker, now)
            post.channel.send(Kind.GO, self.started_at)

    def dismiss(self, worker: WorkerId) -> None:
        """Tell a worker that has done its share to go."""
        if worker in self._posts:
            self._posts[worker].channel.send(Kind.STOP)
            self._forget(worker)

    def close(self) -> None:
        """Send everybody home."""
        for worker in list(self._posts):
            self.dismiss(worker)
        self._selector.close()

    # --- receiving ---

    def _poll(self, timeout: float | None) -> None:
        self._waiting.extend(key.data for key, _ in self._selector.select(timeout))

    def _receive(self, source: WorkerId | str) -> Event | None:
        if isinstance(source, str):
            self._receive_from_other(source)
            return None
        post = self._posts.get(source)
        if post is None:
            return None  # it left while its message waited
        self._times.begin()
        message = post.channel.receive()
        at = self.now
        if message is None:
            return self._lose(source, at)
        if message.kind is Kind.FAILED:
            raise _failure(source, message)
        if message.kind is Kind.READY:
            self._leases.watch(source, message.number, message.real)
            return self._ready_to_join(source, at)
        self._leases.end(source, at)
        self._times.lap("receive", 1)
        return Push(source, at, message.number, message.real, message.kind is Kind.PUSH)

    def _ready_to_join(self, worker: WorkerId, at: Nanoseconds) -> Event | None:
        self._starting.discard(worker)
        if any(isinstance(event, Joined) and event.worker == worker for event in self._timers):
            return None  # its time has not come
        self._absent.discard(worker)
        return Joined(worker, at)

    def _lose(self, worker: WorkerId, at: Nanoseconds) -> Event | None:
        self.lost.append(worker)
        self._forget(worker)
        self._coming += self._on_loss(worker)
        return None if worker in self._absent else Left(worker, at)

    def _receive_ready(self, source: WorkerId | str) -> None:
        if isinstance(source, str):
            self._receive_from_other(source)
            return
        message = self._posts[source].channel.receive()
        if message is None:
            raise WorkerFailed(f"worker {source} died before it was ready")
        if message.kind is Kind.FAILED:
            raise _failure(source, message)
        self._leases.watch(source, message.number, message.real)
        self._unready.discard(source)

    def _receive_from_other(self, name: str) -> None:
        channel = self._others[name]
        message = channel.receive()
        if message is None:
            self._selector.unregister(channel)
        elif message.kind in (Kind.GO, Kind.READY):
            self._unready.discard(name)
        self._on_message(name, message)

    def _forget(self, worker: WorkerId) -> None:
        post = self._posts.pop(worker)
        self._shards.forget(worker)
        if self._crew:
            self._crew.drain()  # which may be about to wake it
        self._selector.unregister(post.channel)
        post.channel.close()
        self._leases.forget(worker)

    def _refuse_to_end_alone(self) -> None:
        if len(self.lost) == self._workers:
            raise WorkerFailed("every worker has died")

    # --- time ---

    def _due(self) -> Event | None:
        if not self._timers:
            return None
        now = self.now
        for event in sorted(self._timers, key=lambda event: event.at):
            if event.at > now:
                return None
            self._timers.remove(event)
            if isinstance(event, TimerFired):
                return event._replace(at=now)
            if event.worker not in self._posts or event.worker in self._starting:
                continue  # it is gone already, or will join as soon as it is ready
            if isinstance(event, Left):
                self.dismiss(event.worker)
            self._absent.discard(event.worker)
            return event._replace(at=now)
        return None

    def _patience(self, until: Nanoseconds | None) -> float:
        moments = [event.at for event in self._timers]
        if until is not None:
            moments.append(until)
        if not moments:
            return LOOKS_EVERY_S
        return min(max(0.0, (min(moments) - self.now) / SECOND), LOOKS_EVERY_S)


def _failure(worker: WorkerId, message: Message) -> WorkerFailed:
    return WorkerFailed(f"worker {worker} failed:\n{message.text()}")
