"""How a gradient changes the weights: stochastic gradient descent on the server's flat weights."""

import torch
from torch import Tensor


class SGD:
    """Stochastic gradient descent with momentum, weight decay and Nesterov, exactly as `torch.optim.SGD`.

    One optimizer state for all workers: it lives on the server and sees the updates in the order of their versions.
    """

    def __init__(
        self, weights: Tensor, *, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        self._weights = torch.nn.Parameter(weights, requires_grad=False)
        self._optimizer = torch.optim.SGD(
            [self._weights], lr=0.0, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True
        )

    def apply(self, gradient: Tensor, learning_rate: float) -> None:
        """Change the weights, in place, by one step along a flat gradient of the same shape."""
        self._weights.grad = gradient
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        self._weights.grad = None
