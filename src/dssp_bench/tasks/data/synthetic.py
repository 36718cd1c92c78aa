"""Images made of noise, of any shape and number, that can still be learned."""

import os
from math import prod
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Generator, Tensor

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.tasks.task import Data, DataFacts, DataSource

Size = Annotated[int, Field(ge=1)]
MIDDLE, SPREAD = 128.0, 64.0  # mean and standard deviation of the pixels, in bytes
AT_ONCE = 4096  # images made at a time, so that a large data set needs little memory beyond its bytes


@dataclass(config=ConfigDict(extra="forbid"))
class Synthetic(DataSource):
    """Every class is a smooth random image, and every example its class's image under `noise` times as much noise.

    Its own `seed` makes it, not the run's, so that runs with different seeds learn the same thing.
    """

    shape: tuple[Size, Size, Size] = (3, 32, 32)
    classes: Annotated[int, Field(ge=2)] = 10
    examples: Size = 10_000
    test_examples: Size = 2_000
    noise: Annotated[float, Field(ge=0)] = 4.0
    seed: int = 0

    def load(self) -> Data:
        """The images as bytes, made on the spot; all classes are equally frequent, up to one example."""
        self._check_size()
        generator = Generator().manual_seed(self.seed)
        prototypes = self._prototypes(generator)
        train_inputs, train_labels = self._examples(self.examples, prototypes, generator)
        test_inputs, test_labels = self._examples(self.test_examples, prototypes, generator)
        channels = self.shape[0]
        return Data(
            train_inputs,
            train_labels,
            test_inputs,
            test_labels,
            self.classes,
            mean=(MIDDLE / 255,) * channels,
            std=(SPREAD / 255,) * channels,
        )

    def facts(self) -> DataFacts:
        """Known from the fields."""
        return DataFacts(self.examples, self.shape, self.classes)

    def _check_size(self) -> None:
        size = prod(self.shape) * max(self.examples + self.test_examples, 4 * self.classes)
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > there:
            problem = f"its images take {size / 1e9:.3g} GB, and this machine has {there / 1e9:.3g}"
            raise ConfigurationError("dataset", problem, "take fewer or smaller ones")

    def _prototypes(self, generator: Generator) -> Tensor:
        """Images [classes, C, H, W] with mean 0 and variance 1; smooth, so that convolutions find something too."""
        channels, height, width = self.shape
        coarse = torch.randn(self.classes, channels, min(4, height), min(4, width), generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
        return (smooth - smooth.mean()) / smooth.std().clamp(min=1e-6)

    def _examples(self, count: int, prototypes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        labels = (torch.arange(count) % self.classes)[torch.randperm(count, generator=generator)]
        inputs = torch.empty(count, *self.shape, dtype=torch.uint8)
        for start in range(0, count, AT_ONCE):
            images = prototypes[labels[start : start + AT_ONCE]]
            images += self.noise * torch.randn(images.shape, generator=generator)
            images *= SPREAD / (1 + self.noise**2) ** 0.5
            inputs[start : start + AT_ONCE] = images.add_(MIDDLE).round_().clamp_(0, 255)
        return inputs, labels
