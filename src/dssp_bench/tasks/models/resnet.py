"""Residual networks for small images, as in MXNet's image-classification example.

The DSSP paper trained "ResNet-50" and "ResNet-110" on CIFAR-100, most likely these: for images of at most 28 pixels
MXNet's `symbols/resnet.py` builds three stages of pre-activation basic blocks (He et al., "Identity Mappings in Deep
Residual Networks", ECCV 2016) with 16, 32 and 64 filters. It is not the ResNet-50 with 25 million parameters that is
usual for ImageNet.

As there: batch normalisation with epsilon 2e-5 and momentum 0.9 (0.1 in torch's words), also on the images themselves;
a 1x1 convolution on the shortcut of each stage's first block, the first stage's too; weights from a normal distribution
with variance 2 / fan-in.

Different from there: the normalisation of the images has no parameters (MXNet counts a fixed scale and a trained shift,
2 per channel: 764,474 parameters instead of our 764,468 for ResNet-50 and 100 classes), and images keep their size
(MXNet's example crops 28x28 from 32x32), so that an iteration takes a third more work.
"""

from typing import Annotated, cast

import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from pydantic import AfterValidator, ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dssp_bench.tasks.models.shapes import require_size
from dssp_bench.tasks.task import ModelSource, Seconds

STAGES = 3
FILTERS = 16  # of the first stage; each further stage doubles them and halves the image


def _depth(depth: int) -> int:
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6 n + 2, such as 20, 32, 50, 56 or 110, not {depth}")
    return depth


@dataclass(config=ConfigDict(extra="forbid"))
class ResNet(ModelSource):
    """A CIFAR-style residual network: `depth` counts the layers with weights, (depth - 2) / 6 blocks per stage."""

    iteration_s: Seconds
    depth: Annotated[int, AfterValidator(_depth)] = 20

    def build(self, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network for images of at least 8x8."""
        require_size("resnet", input_shape, smallest=8)
        network = _network(input_shape[0], classes, blocks=(self.depth - 2) // 6)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        return network


def _network(colours: int, classes: int, blocks: int) -> nn.Module:
    layers: list[nn.Module] = [_norm(colours, affine=False), _convolution(colours, FILTERS, 3)]
    width = FILTERS
    for stage in range(STAGES):
        outputs = FILTERS * 2**stage
        layers += [_Block(width, outputs, stride=1 if stage == 0 else 2, same=False)]
        layers += [_Block(outputs, outputs, stride=1, same=True) for _ in range(blocks - 1)]
        width = outputs
    head = nn.Linear(width, classes)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, _norm(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class _Block(nn.Module):
    """Normalise, ReLU, convolve, twice; plus the input, which a 1x1 convolution brings into shape if it is not."""

    def __init__(self, inputs: int, outputs: int, stride: int, same: bool) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.convolution1 = _convolution(inputs, outputs, 3, stride)
        self.norm2 = _norm(outputs)
        self.convolution2 = _convolution(outputs, outputs, 3)
        self.shortcut = None if same else _convolution(inputs, outputs, 1, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        activated = F.relu(self.norm1(inputs))
        shortcut = inputs if self.shortcut is None else self.shortcut(activated)
        residual = self.convolution2(F.relu(self.norm2(self.convolution1(activated))))
        return cast(Tensor, residual + shortcut)


def _norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=2e-5, affine=affine)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
