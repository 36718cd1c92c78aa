"""A server shard: one part of the weights in a process of its own, with a port of its own, as the server orders."""

import selectors
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dssp_bench.core.messages import MessageId, WorkerId
from dssp_bench.core.server import ParameterServer, Slot
from dssp_bench.core.update import SGD
from dssp_bench.engines.cluster.courier import Seat
from dssp_bench.engines.cluster.gateway import Gateway
from dssp_bench.engines.local.channel import Channel, Kind, Message, channel_pair
from dssp_bench.engines.local.crew import Copier, Crew, StripedUpdate, threads_for
from dssp_bench.engines.local.engine import Post
from dssp_bench.engines.local.memory import SharedTensors
from dssp_bench.engines.local.processes import failures_told_to, prepare_process
from dssp_bench.engines.local.shards import read_outcome


class ShardMemory(NamedTuple):
    """What server and shard have in common of a part: the weights to begin with, snapshots, and room for a tensor."""

    initial: Tensor
    snapshots: Sequence[Tensor]
    exchange: Tensor


@dataclass
class ShardPart:
    """A part of a run's memory: `initial` holds its whole weights, `snapshots` copies, each followed by statistics."""

    part: range
    initial: SharedTensors
    snapshots: SharedTensors
    exchange: SharedTensors

    def views(self) -> ShardMemory:
        """The tensors themselves, in this process."""
        part = slice(self.part.start, self.part.stop)
        snapshots = [tensor[part] for tensor in self.snapshots.views()[::2]]
        return ShardMemory(self.initial.views()[0][part], snapshots, self.exchange.views()[0])


@dataclass
class ShardDoor:
    """Where a shard lets workers in, and what it must know besides its weights."""

    listener: socket.socket
    key: bytes
    reconnect_s: float
    optimizer: Mapping[str, Any]


@dataclass
class ShardJob:
    """All that a shard's process on the server's machine needs."""

    channel: Channel
    memory: ShardPart
    door: ShardDoor


# --- in a process of its own ---


def run_shard(job: ShardJob) -> None:
    """Be a shard's process: carry out the server's orders on one part of the weights, until it says stop or is gone."""
    prepare_process(threads=1)
    with failures_told_to(job.channel):
        hold_shard(job.channel, job.memory.views(), job.door)


def hold_shard(orders: Channel, memory: ShardMemory, door: ShardDoor) -> None:
    """Carry out the server's orders on one part of the weights, until it says stop or is gone."""
    _Shard(orders, memory, door).run()


class _Shard:
    def __init__(self, orders: Channel, memory: ShardMemory, door: ShardDoor) -> None:
        self._orders = orders
        self._optimizer = door.optimizer
        self._weights = memory.initial.clone()
        self._snapshots = memory.snapshots
        self._exchange = memory.exchange
        threads = threads_for(self._weights)
        self._crew = crew = Crew(threads) if threads > 1 else None
        rule = StripedUpdate(crew, self._weights, self._sgd) if crew else self._sgd(self._weights)
        self._slots: dict[WorkerId, Slot] = {}
        self._unused: set[WorkerId] = set()  # those whose slot has a gradient that was neither used nor copied
        self._posts: dict[WorkerId, Post] = {}
        self._parameters = ParameterServer(self._weights, rule, self._slots)
        self._copier = Copier(self._weights, crew)
        self._brought: dict[str, Tensor] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._orders, selectors.EVENT_READ, None)
        self._gateway = Gateway(door.listener, door.key, {}, door.reconnect_s, on_return=lambda _place: None)
        self._gateway.open()

    def run(self) -> None:
        self._orders.send(Kind.READY)
        try:
            while self._turn():
                if self._crew:
                    self._crew.check()
        finally:
            self._gateway.close()
            self._selector.close()
            for post in self._posts.values():
                post.channel.close()

    def _turn(self) -> bool:
        """Take up what has come; False if it is over."""
        for key, _ in self._selector.select():
            if key.data is not None:
                self._from_worker(key.data)
                continue
            message = self._orders.receive()
            if message is None or message.kind is Kind.STOP:
                return False
            self._carry_out(message)
        return True

    def _sgd(self, weights: Tensor) -> SGD:
        return SGD(weights, **self._optimizer)

    def _from_worker(self, worker: WorkerId) -> None:
        post = self._posts.get(worker)
        if post is None:
            return  # it was forgotten while its message waited
        message = post.channel.receive()
        if message is None:
            self._forget(worker)
            self._orders.send(Kind.LOST, worker)
        else:
            if message.kind is Kind.PUSH:
                self._unused.add(worker)
            post.channel.send(Kind.RECEIVED)

    def _carry_out(self, message: Message) -> None:
        if message.kind is Kind.UPDATE:
            outcome, rates = read_outcome(message.json())
            self._parameters.carry_out(outcome, rates)
            used = [applied.message for update in outcome.updates for applied in update.gradients]
            self._have_used({message.worker for message in (*used, *outcome.keep)})
        elif message.kind is Kind.GO:
            self._release(**message.json())
        elif message.kind is Kind.EXPECT:
            self._expect(message.number)
        elif message.kind is Kind.FORGET:
            self._forget(message.number)
        elif message.kind is Kind.SNAPSHOT:
            number = message.number
            self._copier.copy([self._snapshots[number]], lambda: self._tell(Kind.SNAPSHOT, number))
        elif message.kind is Kind.GET:
            self._give(message.text())
        elif message.kind is Kind.PUT:
            self._take(message.text(), message.number)
        elif message.kind is Kind.RESTORE:
            self._restore()

    def _tell(self, kind: Kind, number: int = 0) -> None:
        self._orders.send(kind, number)

    def _release(self, workers: Sequence[WorkerId], copy: bool) -> None:
        self._have_used(set(workers))
        posts = [self._posts[worker] for worker in workers if worker in self._posts]
        if copy:
            self._copier.copy([post.weights for post in posts], lambda: _wake(posts))
        else:
            _wake(posts)

    def _expect(self, worker: WorkerId) -> None:
        here, there = channel_pair()
        room = [torch.zeros_like(self._exchange), torch.zeros_like(self._exchange), torch.empty(0)]
        self._slots[worker] = Slot(*room[1:])
        self._posts[worker] = Post(here, room[0])
        self._selector.register(here, selectors.EVENT_READ, worker)
        self._gateway.expect(Seat(worker, worker, 0, there, room))

    def _forget(self, worker: WorkerId) -> None:
        post = self._posts.pop(worker, None)
        if post is not None:
            if self._crew:
                self._crew.drain()
            self._selector.unregister(post.channel)
            post.channel.close()
            if worker not in self._unused:
                del self._slots[worker]

    def _have_used(self, workers: set[WorkerId]) -> None:
        """What these left in their slots is not needed any more, nor the slots of those who have gone."""
        self._unused -= workers
        for worker in workers & (self._slots.keys() - self._posts.keys()):
            del self._slots[worker]

    def _give(self, name: str) -> None:
        """Put a tensor into the exchange, or as much of one as there is."""
        if self._crew:
            self._crew.drain()
        kind, *numbers = name.split(".")
        if not kind:
            tensor = torch.empty(0)
        elif kind == "pulled":
            tensor = self._posts[int(numbers[0])].weights
        else:
            buffered = [MessageId(int(numbers[0]), int(numbers[1]))] if kind == "kept" else []
            tensor = self._parameters.tensors(buffered)[name]
        self._exchange[: tensor.numel()].copy_(tensor)
        self._tell(Kind.DONE, tensor.numel())

    def _take(self, name: str, size: int) -> None:
        """Take a tensor from the exchange."""
        self._brought[name] = self._exchange[:size].clone()
        if name.startswith("kept."):
            self._brought[name.replace(".gradient", ".statistics")] = torch.empty(0)
        self._tell(Kind.DONE)

    def _restore(self) -> None:
        """Go on from the tensors that were brought."""
        for name in [name for name in self._brought if name.startswith("pulled.")]:
            self._posts[int(name.partition(".")[2])].weights.copy_(self._brought.pop(name))
        self._parameters.restore({"statistics": torch.empty(0), **self._brought})
        self._brought = {}


def _wake(posts: Sequence[Post]) -> None:
    for post in posts:
        post.channel.send(Kind.GO)
