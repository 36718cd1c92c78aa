"""One part of the weights: what becomes of the gradients of workers that leave."""

import threading
from collections.abc import Iterator

import pytest
import torch

from dssp_bench.core.messages import Applied, MessageId, Outcome, Update, WorkerId
from dssp_bench.engines.cluster.gateway import listener
from dssp_bench.engines.cluster.shard import ShardDoor, ShardMemory, _Shard
from dssp_bench.engines.local.channel import channel_pair
from dssp_bench.engines.local.memory import SharedTensors
from dssp_bench.engines.local.shards import Shards
from tests.engines.cluster.parties import DEADLINE_S, HOST, KEY, Client, gradient_of, wait_for

PARAMETERS = 16


class Counting(_Shard):
    """A shard that counts what it hears from workers."""

    heard = 0

    def _from_worker(self, worker: WorkerId) -> None:
        super()._from_worker(worker)
        self.heard += 1


class Held:
    """A shard in a thread, and the server's word with it."""

    def __init__(self) -> None:
        here, there = channel_pair()
        memory = SharedTensors([((PARAMETERS,), torch.float32)])
        self._entrance = listener(HOST, 0)
        self.port: int = self._entrance.getsockname()[1]
        door = ShardDoor(self._entrance, KEY, DEADLINE_S, {})
        weights = torch.zeros(PARAMETERS)
        self.shard = Counting(there, ShardMemory(weights, [], memory.views()[0]), door)
        self._thread = threading.Thread(target=self.shard.run, daemon=True)
        self._thread.start()
        self.server = Shards([(here, memory)])
        self._channels = here, there

    def push(self, worker: WorkerId) -> None:
        """Have this worker's first gradient arrive."""
        self.server.expect(worker)
        self.server.drain()
        self.client = Client(self.port, worker)
        wait_for(lambda: self.shard.heard == 1, "it does not get ready")
        self.server.release([worker])
        wait_for(lambda: self.shard.heard == 2, "no push comes")

    def update(self, *messages: MessageId, keep: tuple[MessageId, ...] = ()) -> None:
        gradients = tuple(Applied(message, 0, 1.0) for message in messages)
        updates = (Update(1, 0, gradients),) if gradients else ()
        self.server.update(Outcome(0, updates=updates, keep=keep), [1.0] * len(updates))
        self.server.drain()

    @property
    def weight(self) -> float:
        lowest, highest = (float(weight) for weight in torch.aminmax(self.server.get("weights")[0]))
        assert lowest == highest
        return lowest

    def close(self) -> None:
        self.server.stop()
        self._thread.join(DEADLINE_S)
        for channel in self._channels:
            channel.close()


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.close()
    made.client.ended()


def leave(held: Held, worker: WorkerId) -> None:
    held.server.forget(worker)
    held.server.drain()


def test_a_gradient_that_waits_outlives_its_worker_and_its_room_does_not_outlive_it(held: Held) -> None:
    held.push(2)
    leave(held, 2)
    assert list(held.shard._slots) == [2]
    held.update(MessageId(2, 1))
    assert held.weight == -gradient_of(1)
    assert held.shard._slots == {}


def test_nothing_is_left_of_a_worker_whose_gradient_was_used(held: Held) -> None:
    held.push(2)
    held.update(MessageId(2, 1))
    leave(held, 2)
    assert held.shard._slots == {}


def test_a_gradient_that_was_copied_needs_no_slot(held: Held) -> None:
    held.push(2)
    held.update(keep=(MessageId(2, 1),))
    leave(held, 2)
    assert held.shard._slots == {}
    held.update(MessageId(2, 1))
    assert held.weight == -gradient_of(1)


def test_a_worker_that_leaves_before_its_first_push_leaves_nothing(held: Held) -> None:
    held.push(2)
    held.server.expect(1)
    leave(held, 1)
    assert list(held.shard._slots) == [2]
