"""How a gradient changes the weights: stochastic gradient descent on the server's flat weights."""

from typing import Any

from torch import Tensor
from torch.optim.sgd import sgd


class SGD:
    """Stochastic gradient descent with momentum, weight decay and Nesterov, exactly as `torch.optim.SGD`.

    One optimizer state for all workers: it lives on the server and sees the updates in the order of their versions. It
    is torch's function without the optimizer around it, whose bookkeeping takes as long as a small network's update.
    Raises ValueError for Nesterov without momentum.
    """

    def __init__(
        self, weights: Tensor, *, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        if nesterov and momentum <= 0:
            raise ValueError("Nesterov's momentum needs a momentum above 0")
        self._weights = [weights]
        self._velocity: list[Tensor | None] = [None]
        self._options: dict[str, Any] = {
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "dampening": 0.0,
            "maximize": False,
            "fused": True,
            "foreach": False,
        }

    def apply(self, gradient: Tensor, learning_rate: float) -> None:
        """Change the weights, in place, by one step along a flat gradient of the same shape."""
        sgd(self._weights, [gradient], self._velocity, lr=learning_rate, **self._options)
