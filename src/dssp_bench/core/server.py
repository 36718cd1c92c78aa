"""The data plane: it owns the flat weights and the optimizer state, and carries out what the coordinator decided."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dssp_bench.core.messages import MessageId, Outcome, Update, WorkerId
from dssp_bench.core.update import Weighted, weighted_sum


class Slot(NamedTuple):
    """Where a worker leaves what it computed: a flat gradient, and the statistics of its normalisation layers.

    The server reads a slot between its worker's push and its release, and never writes it.
    """

    gradient: Tensor
    statistics: Tensor


class UpdateRule(Protocol):
    """Anything that changes the server's weights by gradients."""

    def apply(self, gradients: Sequence[Weighted], learning_rate: float) -> None:
        """Change the weights in place by one or more flat gradients, each with its weight."""

    def state(self) -> list[Tensor]:
        """The flat tensors that it remembers, in the order of the weights; who writes into them changes it."""


class ParameterServer:
    """Flat weights [P], flat running statistics of normalisation layers [S], and one slot per worker.

    A push brings the batch's own statistics, and an update moves the running ones towards them by `momentum` [S], just
    as the layers do when one process trains the network. The mix is convex, so stale statistics cannot make a variance
    negative.
    """

    def __init__(
        self,
        weights: Tensor,
        rule: UpdateRule,
        slots: Mapping[WorkerId, Slot],
        *,
        statistics: Tensor | None = None,
        momentum: Tensor | None = None,
    ) -> None:
        self.weights = weights
        self.statistics = torch.empty(0) if statistics is None else statistics
        self._momentum = torch.empty(0) if momentum is None else momentum
        self._rule = rule
        self._slots = slots
        self._kept: dict[MessageId, Slot] = {}

    def carry_out(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Apply the updates in order, each at its rate, and copy the gradients that outlive their worker's release."""
        for update, learning_rate in zip(outcome.updates, learning_rates, strict=True):
            self._apply(update, learning_rate)
        for message in outcome.keep:
            if message not in self._kept:
                self._kept[message] = Slot(*(tensor.clone() for tensor in self._slots[message.worker]))

    def tensors(self, buffered: Iterable[MessageId]) -> dict[str, Tensor]:
        """All that the next updates depend on, with these gradients that wait for one, by name: copies on the CPU."""
        named = {"weights": self.weights, "statistics": self.statistics, "optimizer": _joined(self._rule.state())}
        for message in buffered:
            slot = self._kept.get(message) or self._slots[message.worker]
            named |= {f"kept.{message.worker}.{message.clock}.{part}": t for part, t in slot._asdict().items()}
        return {name: tensor.to("cpu", copy=True) for name, tensor in named.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave earlier."""
        self.weights.copy_(tensors["weights"])
        self.statistics.copy_(tensors["statistics"])
        offset = 0
        for part in self._rule.state():
            part.copy_(tensors["optimizer"][offset : offset + part.numel()])
            offset += part.numel()
        for message in {MessageId(*map(int, name.split(".")[1:3])) for name in tensors if name.startswith("kept.")}:
            kept = [tensors[f"kept.{message.worker}.{message.clock}.{part}"] for part in Slot._fields]
            self._kept[message] = Slot(*(tensor.to(self.weights.device, copy=True) for tensor in kept))

    def _apply(self, update: Update, learning_rate: float) -> None:
        slots = [(self._take(applied.message), applied.weight) for applied in update.gradients]
        self._rule.apply([(slot.gradient, weight) for slot, weight in slots], learning_rate)
        total = sum(weight for _, weight in slots)
        if self.statistics.numel() and total:
            mean = weighted_sum([(slot.statistics, weight / total) for slot, weight in slots])
            self.statistics.lerp_(mean, self._momentum)

    def _take(self, message: MessageId) -> Slot:
        slot = self._kept.pop(message, None) or self._slots[message.worker]
        device = self.weights.device
        return slot if slot.gradient.device == device else Slot(*(tensor.to(device) for tensor in slot))


def digest(weights: Tensor) -> str:
    """The SHA-256 of weights, by which two runs can be told to have come to the same."""
    return sha256(weights.cpu().numpy().data).hexdigest()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0)
