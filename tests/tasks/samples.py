"""Tiny data for the tests of tasks."""

import torch
from torch import Generator, Tensor

from dssp_bench.tasks.task import Data


def numbered(examples: int = 10, *, crop_padding: int = 0, mirror: bool = False) -> Data:
    """Images of 2x4x4 in which every byte of image i is i, labelled i."""
    labels = torch.arange(examples)
    inputs = labels.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 2, 4, 4)
    return Data(
        inputs,
        labels,
        inputs[:3],
        labels[:3],
        classes=examples,
        mean=(0.0, 0.0),
        std=(1 / 255, 1 / 255),  # so that a normalised pixel is the byte that it was
        crop_padding=crop_padding,
        mirror=mirror,
    )


def generator(seed: int = 0) -> Generator:
    """A seeded generator."""
    return Generator().manual_seed(seed)


def images(*shape: int) -> Tensor:
    """Random bytes, none of them zero."""
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator())
