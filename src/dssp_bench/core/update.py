"""How gradients change the weights: stochastic gradient descent on the server's flat weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Weighted = tuple[Tensor, float]
"""A gradient, and what it is multiplied with."""


class SGD:
    """Stochastic gradient descent with momentum, weight decay and Nesterov, exactly as `torch.optim.SGD`.

    One optimizer state for all workers: it lives on the server and sees the updates in the order of their versions. It
    is torch's operator without the optimizer around it, whose bookkeeping takes as long as a small network's update.
    Raises ValueError for Nesterov without momentum.
    """

    def __init__(
        self, weights: Tensor, *, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        if nesterov and momentum <= 0:
            raise ValueError("Nesterov's momentum needs a momentum above 0")
        self._weights = [weights]
        self._velocity = [torch.zeros_like(weights)] if momentum else []
        self._sum: Tensor | None = None
        self._options: dict[str, Any] = {
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "dampening": 0.0,
            "maximize": False,
            "is_first_step": False,  # with a velocity of 0 the first step is as any other
        }

    def apply(self, gradients: Sequence[Weighted], learning_rate: float) -> None:
        """Change the weights, in place, by one step along the weighted sum of flat gradients of the same shape."""
        gradient, weight = gradients[0]
        if len(gradients) > 1 or weight != 1.0:
            gradient = self._sum = weighted_sum(gradients, self._sum)
        torch._fused_sgd_(self._weights, [gradient], self._velocity, lr=learning_rate, **self._options)

    def state(self) -> list[Tensor]:
        """The velocity [P], if there is momentum."""
        return self._velocity


def weighted_sum(parts: Sequence[Weighted], out: Tensor | None = None) -> Tensor:
    """The sum of tensors, each times its weight, in `out` if there is one."""
    (first, weight), *others = parts
    total = torch.mul(first, weight, out=out)
    for tensor, weight in others:
        total.add_(tensor, alpha=weight)
    return total
