"""A small convolutional network."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from dssp_bench.tasks.models.shapes import require_size
from dssp_bench.tasks.task import ModelSource, Seconds


@dataclass(config=ConfigDict(extra="forbid"))
class CNN(ModelSource):
    """Two 3x3 convolutions, each with ReLU and 2x2 pooling, and one hidden layer: learns in minutes on a CPU."""

    iteration_s: Seconds
    channels: Annotated[int, Field(ge=1)] = 16
    hidden: Annotated[int, Field(ge=1)] = 64

    def build(self, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network for images of at least 4x4."""
        require_size("cnn", input_shape, smallest=4)
        colours, height, width = input_shape
        wide = 2 * self.channels
        return nn.Sequential(
            nn.Conv2d(colours, self.channels, 3, padding=1),
            nn.MaxPool2d(2),  # before ReLU, which gives the same and is asked about a quarter of the values
            nn.ReLU(),
            nn.Conv2d(self.channels, wide, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(wide * (height // 4) * (width // 4), self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, classes),
        )
