"""A network whose records tell everything about its weights: which version each worker pulled, and which pushes count.

All weights are equal, and whole numbers that float32 has exactly. The gradient of an iteration is drawn from that
iteration's own randomness, so any two of them differ; a push's recorded loss says which weights it was computed on, and
an evaluation's says which weights it saw. A pull, a snapshot or a gradient that is torn, lost, or applied twice shows.
"""

import time
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dssp_bench.core.streams import stream_seed
from dssp_bench.tasks.task import Data, DataFacts, DataSource, ModelSource

GRAIN = 60
"""Gradients are multiples of it, so that one in a mean of many is still more than what rounding adds up to."""

_MOST = 63
_MIDDLE = 2.0**23  # a cross entropy, to which the weights are added; around there float32 has all whole numbers


@dataclass
class Telltale(ModelSource):
    """So many equal weights; an iteration takes `pause_s` and what it takes to write as large a gradient."""

    parameters: int = 1000
    pause_s: float = 0.0
    iteration_s: float = 0.001

    def build(self, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, with weights of 0."""
        return _Network(self.parameters, self.pause_s)


@dataclass
class Blanks(DataSource):
    """Examples without content, and one to test on."""

    examples: int = 1000

    def load(self) -> Data:
        """All of them, of class 0 out of 2."""
        train, test = (torch.zeros(count, 1, 1, 1) for count in (self.examples, 1))
        labels = [torch.zeros(len(inputs), dtype=torch.int64) for inputs in (train, test)]
        return Data(train, labels[0], test, labels[1], 2, mean=(0.0,), std=(1.0,))

    def facts(self) -> DataFacts:
        """Known from the fields."""
        return DataFacts(self.examples, (1, 1, 1), 2)


def gradient_of(seed: int, place: int, iteration: int) -> int:
    """What the worker at this place of the layout computes in one of its iterations, in a run with this seed."""
    return _gradient(stream_seed(seed, "iteration", place, iteration))


def weight_in(loss: float) -> float:
    """The weight that was seen, by a recorded loss."""
    return loss - _MIDDLE


def _gradient(randomness: int) -> int:
    size = 1 + randomness // 2 % _MOST
    return GRAIN * (size if randomness % 2 else -size)


class _Network(nn.Module):
    def __init__(self, parameters: int, pause_s: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(parameters))
        self._pause_s = pause_s
        self._is_warm = False  # what it computes first does not count, and somebody may write the weights meanwhile

    def forward(self, inputs: Tensor) -> Tensor:
        smallest, largest = (float(weight) for weight in torch.aminmax(self.weight.detach()))
        if smallest != largest and (self._is_warm or not self.training):
            raise ArithmeticError(f"two versions in one: weights from {smallest} to {largest}")
        if not self.training:
            return torch.tensor([[0.0, _MIDDLE + largest]])
        self._is_warm = True
        time.sleep(self._pause_s)
        logits: Tensor = _Constant.apply(self.weight, largest, _gradient(torch.initial_seed()))  # type: ignore[no-untyped-call]
        return logits.expand(len(inputs), 2)


class _Constant(torch.autograd.Function):
    """Logits that say the weight, with a gradient that has nothing to do with them."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: float, gradient: int) -> Tensor:
        ctx.gradient, ctx.size = gradient, weight.numel()
        return torch.tensor([[0.0, _MIDDLE + value]])

    @staticmethod
    def backward(ctx: Any, *_upstream: Tensor) -> tuple[Tensor, None, None]:
        return torch.full((ctx.size,), float(ctx.gradient)), None, None
