"""The server's word with its shards: parts of the weights that live in processes of their own.

The server has the first part, and is the only one who decides. It tells the shards what it decided, and each carries
that out on its part, in the same order; so all parts of a pull are of the same version. A worker sends every shard its
part of the gradient, and its push to the server when all of them have theirs; so what the server decides can always be
done.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.messages import Applied, MessageId, Outcome, Update, WorkerId
from dssp_bench.engines.local.channel import Channel, Kind, Message
from dssp_bench.engines.local.memory import SharedTensors

_ALIGNMENT = 16  # elements, which are a cache line
_ANSWERS_WITHIN_S = 120.0  # a shard that hangs, or the largest tensor over a slow network


def parts(parameters: int, shards: int) -> list[range]:
    """Which weights each shard has: as many as any other, but for the last and for whole cache lines."""
    length = -(-parameters // (shards * _ALIGNMENT)) * _ALIGNMENT
    begins = [min(number * length, parameters) for number in range(shards + 1)]
    return [range(begin, end) for begin, end in itertools.pairwise(begins)]


class Shards:
    """The server's word with its shards, each behind a channel, with the memory in which tensors come and go.

    What they say otherwise goes to `on_message`, with the shard's name. They are ready when this is made. Raises
    DsspBenchError if one dies, fails or does not answer.
    """

    def __init__(
        self,
        shards: Sequence[tuple[Channel, SharedTensors]],
        on_message: Callable[[str, Message | None], None] = lambda _shard, _message: None,
    ) -> None:
        self._exchanges = [memory.views()[0] for _, memory in shards]
        self.channels = {f"shard {number}": channel for number, (channel, _) in enumerate(shards, start=1)}
        self._on_message = on_message
        for shard in self.channels:
            self._answer(shard, Kind.READY)

    def __bool__(self) -> bool:
        return bool(self.channels)

    def expect(self, worker: WorkerId) -> None:
        """Let this worker come."""
        self._tell(Kind.EXPECT, worker)

    def forget(self, worker: WorkerId) -> None:
        """This worker has left."""
        self._tell(Kind.FORGET, worker)

    def update(self, outcome: Outcome, rates: Sequence[float]) -> None:
        """Carry out an outcome's updates."""
        if outcome.updates or outcome.keep:
            content = _written(outcome, rates)
            for channel in self.channels.values():
                channel.send_json(Kind.UPDATE, content)

    def release(self, workers: Sequence[WorkerId], copy: bool = True) -> None:
        """Let workers pull: what the weights are now, or what they had pulled before."""
        for channel in self.channels.values():
            channel.send_json(Kind.GO, {"workers": list(workers), "copy": copy})

    def snapshot(self, number: int) -> None:
        """Copy the weights into a snapshot; each shard says when it has done its part."""
        self._tell(Kind.SNAPSHOT, number)

    def get(self, name: str) -> list[Tensor]:
        """Copies of all shards' parts of a tensor; nothing has no name."""
        for channel in self.channels.values():
            channel.send(Kind.GET, body=name.encode())
        sizes = [self._answer(shard, Kind.DONE).number for shard in self.channels]
        return [exchange[:size].clone() for exchange, size in zip(self._exchanges, sizes, strict=True)]

    def drain(self) -> None:
        """Wait until all that was ordered is done."""
        self.get("")

    def put(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Hand over their parts of a tensor."""
        for channel, exchange, tensor in zip(self.channels.values(), self._exchanges, tensors, strict=True):
            exchange[: tensor.numel()].copy_(tensor)
            channel.send(Kind.PUT, tensor.numel(), body=name.encode())
        for shard in self.channels:
            self._answer(shard, Kind.DONE)

    def restore(self) -> None:
        """Go on from all tensors that were handed over."""
        self._tell(Kind.RESTORE)

    def stop(self) -> None:
        """The run is over."""
        self._tell(Kind.STOP)

    def _tell(self, kind: Kind, number: int = 0) -> None:
        for channel in self.channels.values():
            channel.send(kind, number)

    def _answer(self, shard: str, kind: Kind) -> Message:
        while True:
            if not self.channels[shard].has_news(_ANSWERS_WITHIN_S):
                raise DsspBenchError(f"server {shard} has not answered for {_ANSWERS_WITHIN_S:g} s")
            message = self.channels[shard].receive()
            if message is None:
                raise DsspBenchError(f"server {shard} died")
            if message.kind is Kind.FAILED:
                raise DsspBenchError(f"server {shard} failed:\n{message.text()}")
            if message.kind is kind:
                return message
            self._on_message(shard, message)


def _written(outcome: Outcome, rates: Sequence[float]) -> dict[str, Any]:
    """What a shard has to know of an outcome, as plain values."""
    return {"updates": outcome.updates, "keep": outcome.keep, "rates": rates}


def read_outcome(content: dict[str, Any]) -> tuple[Outcome, list[float]]:
    """What a shard was told of an outcome, and the learning rates of its updates."""
    updates = tuple(
        Update(version, at, tuple(Applied(MessageId(*message), *rest) for message, *rest in gradients))
        for version, at, gradients in content["updates"]
    )
    keep = tuple(MessageId(*message) for message in content["keep"])
    return Outcome(0, updates=updates, keep=keep), content["rates"]
