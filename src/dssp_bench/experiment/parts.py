"""What runs are made of: workers, evaluations and records, as things that can be handed to a process."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.messages import WorkerId
from dssp_bench.core.server import Slot
from dssp_bench.core.streams import stream_seed
from dssp_bench.engines.local.memory import SharedTensors
from dssp_bench.tasks.sharding import Batches, shard
from dssp_bench.tasks.task import Data, ModelSource, Task
from dssp_bench.worker import (
    Worker,
    bind_parameters,
    bind_statistics,
    flat_parameters,
    flat_statistics,
    statistics_momentum,
)

_TENSORS = ("train_inputs", "train_labels", "test_inputs", "test_labels")


class SharedData:
    """A data set that is in memory once, however many processes use it."""

    def __init__(self, data: Data) -> None:
        self._tensors = SharedTensors.copy_of([getattr(data, name) for name in _TENSORS])
        nothing: dict[str, Any] = dict.fromkeys(_TENSORS, torch.empty(0))
        self._rest = replace(data, **nothing)

    @property
    def data(self) -> Data:
        """The data set, in this process; nothing is copied."""
        tensors: dict[str, Any] = dict(zip(_TENSORS, self._tensors.views(), strict=True))
        return replace(self._rest, **tensors)


@dataclass
class WorkerMaker:
    """Makes the workers of one run, each on its own shard, and warm."""

    source: ModelSource
    data: SharedData
    batch_size: int
    seed: int
    workers: int

    def __call__(self, worker: WorkerId, device: str, weights: Tensor, slot: Slot, iterations: int) -> Worker:
        """The worker with this number, on weights and a slot that live on its device, after so many iterations."""
        task = Task(self.source, self.data.data)
        model = task.build_model(self.seed)
        made = make_worker(task, model, self.batch_size, self.seed, self.workers, worker, weights, slot, iterations)
        examples = min(self.batch_size, task.data.examples)
        inputs = torch.zeros(examples, *task.data.input_shape, device=device)
        made.warm_up((inputs, torch.zeros(examples, dtype=torch.int64, device=device)))
        return made


def make_worker(
    task: Task,
    model: torch.nn.Module,
    batch_size: int,
    seed: int,
    workers: int,
    worker: WorkerId,
    weights: Tensor,
    slot: Slot,
    iterations: int = 0,
) -> Worker:
    """One worker on one network, which it may share with others if it attaches before each iteration."""
    indices = shard(task.data.examples, workers, worker, seed)
    batches = Batches(task.data, indices, batch_size, seed, worker, weights.device, iterations)
    return Worker(
        model.to(weights.device),
        batches,
        task.loss,
        weights,
        slot,
        lambda iteration: stream_seed(seed, "iteration", worker, iteration),
        iterations,
    )


@dataclass
class EvaluatorMaker:
    """Makes evaluations of one task on the full test set."""

    source: ModelSource
    data: SharedData
    batch_size: int

    def __call__(self, device: str, weights: Tensor, statistics: Tensor) -> Callable[[], tuple[float, float]]:
        """A function that gives loss and accuracy of whatever the two tensors hold when it is called."""
        return make_evaluation(Task(self.source, self.data.data), self.batch_size, device, weights, statistics)


def make_evaluation(
    task: Task, batch_size: int, device: str, weights: Tensor, statistics: Tensor
) -> Callable[[], tuple[float, float]]:
    """An evaluation of the network whose parameters and running statistics are these tensors."""
    model = task.build_model(0).to(device)
    bind_parameters(model, weights)
    bind_statistics(model, statistics)
    return lambda: task.evaluate(model, device, batch_size)


def parameter_count(source: ModelSource, input_shape: tuple[int, int, int], classes: int) -> tuple[int, int]:
    """How many tensors (keys) and how many float32 bytes one push or pull of this network has.

    Raises ConfigurationError if there can be no such network.
    """
    try:
        with torch.device("meta"):
            parameters = list(source.build(input_shape, classes).parameters())
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ConfigurationError("model", f"cannot be built: {str(error).splitlines()[0]}") from error
    return len(parameters), 4 * sum(p.numel() for p in parameters)


def initial_state(model: torch.nn.Module) -> list[Tensor]:
    """What a run starts from: weights [P], statistics of normalisation layers [S], and their momentum [S]."""
    return [flat_parameters(model), flat_statistics(model), statistics_momentum(model)]
