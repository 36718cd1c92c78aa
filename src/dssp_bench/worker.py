"""A worker: pulled weights and the next batch in, a gradient out; the same under every engine.

A worker's network has no memory of its own: its parameters are views of the flat weights that the worker pulled, and
its gradients and batch statistics are views of the worker's slot at the server. So nothing is copied on a push.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dssp_bench.core.server import Slot

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class Worker:
    """Computes gradients of one network, on weights [P] that somebody else fills, into a slot that somebody else reads.

    `seed_of` gives the seed of an iteration's own randomness (dropout), by the number of the iteration; `iterations` is
    the first one's.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterator[Batch],
        loss: Loss,
        weights: Tensor,
        slot: Slot,
        seed_of: Callable[[int], int],
        iterations: int = 0,
    ) -> None:
        self._model = model.train()
        self._batches = batches
        self._loss = loss
        self._slot = slot
        self._seed_of = seed_of
        self._generator = _generator(weights.device)
        self.iterations = iterations
        bind_parameters(model, weights)
        self.attach()

    def attach(self) -> None:
        """Point the network's gradients and statistics at this worker's slot (for workers that share a network)."""
        bind_gradients(self._model, self._slot.gradient)
        bind_statistics(self._model, self._slot.statistics)
        for layer in _normalisations(self._model):
            layer.momentum = 1.0  # the buffers then hold the statistics of the latest batch alone

    def warm_up(self, batch: Batch) -> None:
        """Compute once on a batch that does not count, so that no iteration pays for what happens only once."""
        inputs, targets = batch
        torch.autograd.backward(self._loss(self._model(inputs), targets))

    def compute_gradient(self) -> Tensor:
        """One iteration: the gradient goes to the slot; the batch's mean loss is returned, a scalar on the device."""
        self._generator.manual_seed(self._seed_of(self.iterations))
        inputs, targets = next(self._batches)
        self._slot.gradient.zero_()
        self._slot.statistics.zero_()  # the layers multiply what is there by 0, which a NaN survives
        loss = self._loss(self._model(inputs), targets)
        torch.autograd.backward(loss)
        self.iterations += 1
        return loss.detach()

    def is_finite(self) -> bool:
        """Whether the latest gradient and statistics hold neither NaN nor infinity, nor so much that their sum does."""
        return all(bool(tensor.sum().isfinite()) for tensor in self._slot)


def _generator(device: torch.device) -> torch.Generator:
    """What layers on this device draw from; torch.manual_seed would seed all devices, which takes long."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def flat_parameters(model: nn.Module) -> Tensor:
    """A copy of all parameters as one vector [P], in the model's order."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def flat_statistics(model: nn.Module) -> Tensor:
    """A copy of the running statistics of all normalisation layers as one vector [S]."""
    buffers = [buffer.reshape(-1) for buffer in _statistics(model)]
    return torch.cat(buffers) if buffers else torch.empty(0)


def statistics_momentum(model: nn.Module) -> Tensor:
    """For each entry of `flat_statistics` [S], how far an update moves it towards the batch's own value."""
    parts = []
    for layer in _normalisations(model):
        momentum = 0.1 if layer.momentum is None else layer.momentum
        parts.append(torch.full((2 * layer.num_features,), momentum))
    return torch.cat(parts) if parts else torch.empty(0)


def bind_parameters(model: nn.Module, flat: Tensor) -> None:
    """Make all parameters views of one vector [P]."""
    offset = 0
    for parameter in model.parameters():
        parameter.data = flat[offset : offset + parameter.numel()].view(parameter.shape)
        offset += parameter.numel()


def bind_gradients(model: nn.Module, flat: Tensor) -> None:
    """Make all gradients views of one vector [P]; autograd then accumulates into it."""
    offset = 0
    for parameter in model.parameters():
        parameter.grad = flat[offset : offset + parameter.numel()].view(parameter.shape)
        offset += parameter.numel()


def bind_statistics(model: nn.Module, flat: Tensor) -> None:
    """Make the running statistics of all normalisation layers views of one vector [S]."""
    offset = 0
    for layer in _normalisations(model):
        for name in ("running_mean", "running_var"):
            shape = getattr(layer, name).shape
            setattr(layer, name, flat[offset : offset + shape.numel()].view(shape))
            offset += shape.numel()


def _normalisations(model: nn.Module) -> list[_NormBase]:
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]


def _statistics(model: nn.Module) -> list[Tensor]:
    layers = _normalisations(model)
    return [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var) if buffer is not None]
