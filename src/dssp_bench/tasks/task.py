"""A task: what to train on what, and how well it does."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from pydantic import Field
from torch import Generator, Tensor, nn

from dssp_bench.core.streams import stream_seed

Seconds = Annotated[float, Field(gt=0)]


class DataFacts(NamedTuple):
    """What can be said of a data set without reading it: training examples, shape of an input [C, H, W], classes."""

    examples: int
    input_shape: tuple[int, int, int]
    classes: int


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in memory, not yet normalised; may be shared between processes and is never written.

    Inputs are [N, C, H, W], either bytes or floats, labels int64 [N]. `mean` and `std` are per channel, of floats as
    they are and of bytes divided by 255. Training images are cropped at random out of a border of `crop_padding` zeros
    and mirrored at random if `mirror`.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    mirror: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        _, channels, height, width = self.train_inputs.shape
        return channels, height, width

    @property
    def examples(self) -> int:
        """How many examples there are to train on."""
        return len(self.train_labels)

    @property
    def facts(self) -> DataFacts:
        """What a timing-only run needs to know."""
        return DataFacts(self.examples, self.input_shape, self.classes)


class DataSource(ABC):
    """Finds and reads one data set; its fields are its options."""

    @abstractmethod
    def load(self) -> Data:
        """The data set, in memory. Raises `DataNotFound`, with the path to fill, if it is not on this machine."""

    @abstractmethod
    def facts(self) -> DataFacts:
        """What is known of the data set even where it is not on the machine, so that timing can be simulated."""


class ModelSource(ABC):
    """Builds one kind of network; its fields are its options."""

    iteration_s: Seconds
    """What one iteration on a worker without slowdown takes in virtual time, in seconds."""

    @abstractmethod
    def build(self, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """A network from [B, C, H, W] to logits [B, classes], with initial weights drawn from torch's generator.

        Raises `ConfigurationError` if the network cannot take such inputs.
        """


class Task:
    """A network, the data it learns, the loss that it minimises and the evaluation that counts."""

    def __init__(self, model: ModelSource, data: Data) -> None:
        self.model = model
        self.data = data

    def build_model(self, seed: int) -> nn.Module:
        """A new network on the CPU; equal seeds give equal weights, and torch's global randomness stays as it was."""
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would reseed the CUDA devices too, and they would stay so.
            torch.default_generator.manual_seed(stream_seed(seed, "initial weights"))
            return self.model.build(self.data.input_shape, self.data.classes)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """The mean cross entropy of a batch, a scalar."""
        return F.cross_entropy(logits, labels)

    def evaluate(self, model: nn.Module, device: torch.device | str, batch_size: int = 1024) -> tuple[float, float]:
        """Mean loss and accuracy (0 to 1) over the full test set; the model is on `device` and stays in its mode."""
        was_training = model.training
        model.eval()
        try:
            return self._evaluate(model, device, batch_size)
        finally:
            model.train(was_training)

    @torch.inference_mode()
    def _evaluate(self, model: nn.Module, device: torch.device | str, batch_size: int) -> tuple[float, float]:
        data = self.data
        total = torch.zeros(2, dtype=torch.float64, device=device)  # summed there: one transfer back, at the end
        for start in range(0, len(data.test_labels), batch_size):
            batch = slice(start, start + batch_size)
            labels = data.test_labels[batch].to(device)
            logits = model(prepare(data.test_inputs[batch].to(device), data))
            total[0] += F.cross_entropy(logits, labels, reduction="sum")
            total[1] += (logits.argmax(1) == labels).sum()
        loss, accuracy = (total / len(data.test_labels)).tolist()
        return loss, accuracy


def prepare(inputs: Tensor, data: Data) -> Tensor:
    """The inputs [B, C, H, W] as normalised float32, on the device where they are; the originals stay as they are."""
    scale, shift = _scale_and_shift(data.mean, data.std, inputs.dtype, inputs.device)
    return inputs.to(torch.float32, copy=True).mul_(scale).add_(shift)


@cache  # a copy to a GPU per batch would make the GPU wait
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    largest = 255.0 if dtype == torch.uint8 else 1.0
    with torch.inference_mode(False):  # the first caller may be an evaluation, the next one trains
        means, stds = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
        return 1 / (stds * largest), -means / stds


@dataclass(frozen=True, eq=False)
class Views:
    """How each of N images is seen: its crop's offset, int64 [N, 2] (down, right), and whether mirrored, bool [N]."""

    offsets: Tensor
    mirrored: Tensor

    @classmethod
    def draw(cls, examples: int, data: Data, generator: Generator) -> "Views":
        """Random views of that many images, on the generator's device."""
        device = generator.device
        offsets = torch.randint(0, 2 * data.crop_padding + 1, (examples, 2), generator=generator, device=device)
        mirrored = torch.rand(examples, generator=generator, device=device) < (0.5 if data.mirror else 0.0)
        return cls(offsets, mirrored)

    def __getitem__(self, chosen: slice | Tensor) -> "Views":
        return Views(self.offsets[chosen], self.mirrored[chosen])

    def to(self, device: torch.device | str) -> "Views":
        """The same views on another device."""
        return Views(self.offsets.to(device), self.mirrored.to(device))


def augment(inputs: Tensor, data: Data, generator: Generator) -> Tensor:
    """Random views of the images [B, C, H, W], of the same type and on the same device, if the data set wants any."""
    if not wants_augmentation(data):
        return inputs
    return look(inputs, Views.draw(len(inputs), data, generator).to(inputs.device), data.crop_padding)


def wants_augmentation(data: Data) -> bool:
    """Whether training images are to be cropped or mirrored at random."""
    return data.crop_padding > 0 or data.mirror


def look(inputs: Tensor, views: Views, padding: int) -> Tensor:
    """The images [B, C, H, W] as the views [B] see them; without a loop, and without waiting for the device."""
    batch, channels, height, width = inputs.shape
    rows = views.offsets[:, :1] + torch.arange(height, device=inputs.device)
    columns = views.offsets[:, 1:] + torch.arange(width, device=inputs.device)
    columns = torch.where(views.mirrored[:, None], columns.flip(1), columns)

    padded = F.pad(inputs, (padding,) * 4).flatten(2)
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    pixels = pixels.reshape(batch, 1, -1).expand(-1, channels, -1)
    return padded.gather(2, pixels).view(batch, channels, height, width)
