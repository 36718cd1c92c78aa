"""How long does one iteration of each network take on one CPU thread? The answers are `iteration_s` in conf/model.

An iteration is a batch, a forward and a backward pass, in the process that asks. `mlp` and `cnn` see the digits, the
others images of CIFAR's shape. Run it on an idle machine: python benchmarks/iteration_time.py [MODEL ...]
"""

import sys
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import yaml

from dssp_bench.tasks.sharding import Batches, shard
from dssp_bench.tasks.task import Data, Task

CONF = Path(__file__).parents[1] / "conf"
BATCH_SIZE = 32
WARM_UP = 3
REPEATS = 15
AT_LEAST_S = 0.05  # per repeat, so that the clock does not matter


def main() -> None:
    """Print parameters and seconds per iteration of the networks named on the command line, or of all."""
    torch.set_num_threads(1)
    digits, cifar_shaped = from_yaml("dataset/digits").load(), from_yaml("dataset/synthetic").load()
    names = sys.argv[1:] or sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
    for name in names:
        task = Task(from_yaml(f"model/{name}"), digits if name in ("mlp", "cnn") else cifar_shaped)
        parameters = sum(parameter.numel() for parameter in task.build_model(0).parameters())
        print(f"{name:15} {parameters:12,} parameters   iteration_s: {iteration_s(task):.6f}", flush=True)


def from_yaml(name: str) -> Any:
    """What the YAML describes, without a configuration library."""
    options = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    module, _, attribute = options.pop("_target_").rpartition(".")
    return getattr(import_module(module), attribute)(**options)


def iteration_s(task: Task) -> float:
    """Seconds per iteration: the median of several repeats."""
    data: Data = task.data
    model = task.build_model(seed=0).train()
    batches = Batches(data, shard(data.examples, 1, 0, seed=0), BATCH_SIZE, seed=0, worker=0)

    def iterate() -> None:
        inputs, labels = next(batches)
        model.zero_grad(set_to_none=False)
        torch.autograd.backward(task.loss(model(inputs), labels))

    once = median(seconds(iterate, 1) for _ in range(WARM_UP))
    times = max(1, round(AT_LEAST_S / once))
    return median(seconds(iterate, times) / times for _ in range(REPEATS))


def seconds(action: Any, times: int) -> float:
    """How long that many calls take."""
    start = perf_counter()
    for _ in range(times):
        action()
    return perf_counter() - start


if __name__ == "__main__":
    main()
