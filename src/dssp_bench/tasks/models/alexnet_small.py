"""A downsized AlexNet."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from dssp_bench.tasks.models.shapes import require_size
from dssp_bench.tasks.task import ModelSource, Seconds

Width = Annotated[int, Field(ge=1)]


@dataclass(config=ConfigDict(extra="forbid"))
class AlexNetSmall(ModelSource):
    """Three convolutions and two fully connected layers, as the DSSP paper's "downsized AlexNet".

    The paper gives no widths, kernels or dropout: all of them are ours. The second fully connected layer gives the
    logits.
    """

    iteration_s: Seconds
    channels: tuple[Width, Width, Width] = (32, 64, 128)
    hidden: Width = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def build(self, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network for images of at least 8x8."""
        require_size("alexnet_small", input_shape, smallest=8)
        colours, height, width = input_shape
        first, second, third = self.channels
        return nn.Sequential(
            *_convolution(colours, first, kernel=5),
            *_convolution(first, second, kernel=5),
            *_convolution(second, third, kernel=3),
            nn.Flatten(),
            nn.Linear(third * (height // 8) * (width // 8), self.hidden),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, classes),
        )


def _convolution(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.MaxPool2d(2), nn.ReLU()]
