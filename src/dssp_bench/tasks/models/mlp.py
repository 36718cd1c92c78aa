"""A multilayer perceptron."""

from itertools import pairwise
from math import prod
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from dssp_bench.tasks.task import ModelSource, Seconds


@dataclass(config=ConfigDict(extra="forbid"))
class MLP(ModelSource):
    """Fully connected layers with ReLU between them, on the flattened image; without a hidden layer, a linear model."""

    iteration_s: Seconds
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (128,)

    def build(self, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network for images of any size."""
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise((prod(input_shape), *self.hidden)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        last = self.hidden[-1] if self.hidden else prod(input_shape)
        return nn.Sequential(*layers, nn.Linear(last, classes))
