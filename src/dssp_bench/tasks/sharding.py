"""Which worker trains on which examples, and in which order."""

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.messages import WorkerId
from dssp_bench.core.streams import stream_seed
from dssp_bench.tasks.task import Data, Views, look, prepare, wants_augmentation


def shard(examples: int, workers: int, index: int, seed: int) -> Tensor:
    """The examples of the worker at this index, ascending, int64; shards are disjoint and differ in size by at most 1.

    The seed shuffles before it splits, so that a data set sorted by class does not give each worker its own classes.
    """
    shuffled = torch.randperm(examples, generator=_generator(seed, "shards"))
    return shuffled.tensor_split(workers)[index].sort().values


def iterations(epochs: float, shard_size: int, batch_size: int) -> int:
    """How many batches a worker needs for so many passes over its shard."""
    return math.ceil(epochs * shard_size / batch_size)


class Batches(Iterator[tuple[Tensor, Tensor]]):
    """An endless stream of training batches: float32 inputs [B, C, H, W], normalised and augmented, and labels [B].

    It is one permutation of the shard after the other, cut into batches of exactly `batch_size`, so a batch may hold
    the end of one epoch and the start of the next. The stream depends on seed and worker alone; the device changes
    nothing, and the batches before number `start` are left out.
    """

    def __init__(
        self,
        data: Data,
        indices: Tensor,
        batch_size: int,
        seed: int,
        worker: WorkerId,
        device: torch.device | str = "cpu",
        start: int = 0,
    ) -> None:
        if batch_size > len(indices):
            raise ConfigurationError(
                "batch_size",
                f"{batch_size} is more than the {len(indices)} training examples of worker {worker}",
                "take a smaller batch, fewer workers or more data",
            )
        self._data = data
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._generator = _generator(seed, "batches", worker)
        self._inputs, self._labels, self._indices = _on_device(data, indices, self._device)
        self._augments = wants_augmentation(data)
        self._order, self._views = self._epoch(0)
        self._position = 0
        for _ in range(start):
            self._move_on()

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch, on the device."""
        now = self._move_on()
        order = self._order[now]
        inputs = self._inputs.index_select(0, order)
        if self._augments:
            inputs = look(inputs, self._views[now], self._data.crop_padding)
        return prepare(inputs, self._data), self._labels.index_select(0, order)

    def _move_on(self) -> slice:
        """Where the next batch is."""
        if self._position + self._batch_size > len(self._order):
            self._append_epoch()
        now = slice(self._position, self._position + self._batch_size)
        self._position = now.stop
        return now

    def _append_epoch(self) -> None:
        """Follow what is left of this epoch with all of the next."""
        order, views = self._epoch(len(self._indices))
        rest = slice(self._position, None)
        self._order = torch.cat([self._order[rest], order])
        self._views = Views(
            torch.cat([self._views.offsets[rest], views.offsets]),
            torch.cat([self._views.mirrored[rest], views.mirrored]),
        )
        self._position = 0

    def _epoch(self, size: int) -> tuple[Tensor, Views]:
        """A permutation of the shard and a view for each of its images.

        Drawn on the CPU, where generators give the same numbers everywhere, and for a whole epoch, so that a GPU is
        waited for once per epoch and not once per batch.
        """
        order = torch.randperm(size, generator=self._generator)
        views = Views.draw(size if self._augments else 0, self._data, self._generator)
        return self._indices[order.to(self._device)], views.to(self._device)


def _on_device(data: Data, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels, and the shard's indices into them.

    On the CPU the whole data set is used where it lies, perhaps shared with other processes; another device gets a copy
    of the shard, and nothing else.
    """
    if device == data.train_inputs.device:
        return data.train_inputs, data.train_labels, indices
    inputs, labels = data.train_inputs[indices], data.train_labels[indices]
    return inputs.to(device), labels.to(device), torch.arange(len(indices), device=device)


def _generator(seed: int, purpose: str, worker: WorkerId | None = None) -> Generator:
    return Generator().manual_seed(stream_seed(seed, purpose, worker))
