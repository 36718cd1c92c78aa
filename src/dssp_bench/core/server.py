"""The data plane: it owns the flat weights and the optimizer state, and carries out what the coordinator decided."""

from collections.abc import Mapping, Sequence
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
            self._kept[message] = Slot(*(tensor.clone() for tensor in self._slots[message.worker]))

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
