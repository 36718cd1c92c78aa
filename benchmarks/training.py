"""How fast does a network train through the parameter server, beside a bare loop of the same network?

    python benchmarks/training.py --model resnet20 --workers 4 --pushes 2000

Prints one JSON line per case: the bare loop (one process, no server), then every paradigm on as many workers as asked
for, all on the same device. Times exclude start-up. The data are synthetic images of CIFAR's shape, which need no
download.
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from _report import case, count, header, names
from _spec import specification

from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.engines.local.launch import server_device
from dssp_bench.experiment.preload import PRELOAD
from dssp_bench.experiment.run import run
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.tasks.sharding import Batches, shard
from dssp_bench.tasks.task import Task

KEYS = ("pushes_per_s", "duration_s", "startup_s", "final_accuracy", "mean_staleness", "max_lead", "waiting_share")


def bare_loop(spec: RunSpec, iterations: int, warm_up: int = 20) -> dict[str, float]:
    """Iterations per second of an ordinary training loop on the same device, network, data and optimizer.

    All together, and by the median of how long one takes, which does not notice what disturbs a few of them.
    """
    torch.set_num_threads(1)
    device = server_device(spec.cluster)
    data = spec.dataset.load()
    task = Task(spec.model, data)
    model = task.build_model(spec.seed).to(device).train()
    options = spec.optimizer.model_dump(exclude={"learning_rate"})
    optimizer = torch.optim.SGD(model.parameters(), lr=spec.optimizer.learning_rate, fused=True, **options)
    batches = Batches(data, shard(data.examples, 1, 0, spec.seed), spec.batch_size, spec.seed, 0, device)
    ended = []
    for i in range(warm_up + iterations):
        if i == warm_up:
            _synchronise(device)
            ended.append(time.perf_counter())
        inputs, labels = next(batches)
        optimizer.zero_grad()
        loss = task.loss(model(inputs), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        float(loss.detach())  # a harness records every loss, so the loop must wait for it too
        if i >= warm_up:
            ended.append(time.perf_counter())
    _synchronise(device)
    rate = iterations / (time.perf_counter() - ended[0])
    usual = 1 / median(after - before for before, after in pairwise(ended))
    return {"iterations_per_s": rate, "usual_per_s": usual, "accuracy": task.evaluate(model, device)[1]}


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure the bare loop and every paradigm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--workers", type=count, default=4)
    parser.add_argument("--pushes", type=count, default=2000)
    parser.add_argument("--batch-size", type=count, default=128)
    parser.add_argument("--examples", type=count, default=50_000)
    parser.add_argument("--paradigms", default="bsp,asp,ssp,dssp")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    start_fork_server(PRELOAD)
    header(arguments)
    with tempfile.TemporaryDirectory() as folder:
        bare = _specification(arguments, "asp", Path(folder))
        case(case="bare loop", **bare_loop(bare, arguments.pushes // arguments.workers))
        for paradigm in names(arguments.paradigms):
            result = run(_specification(arguments, paradigm, Path(folder)))
            measured = {key: (result.summary or {}).get(key) for key in KEYS}
            environment = json.loads((result.folder / "environment.json").read_text())
            where = {key: environment.get(key) for key in ("transport", "devices")}
            case(case=paradigm, status=result.status, error=result.error, **measured, **where)


def _specification(arguments: argparse.Namespace, paradigm: str, folder: Path) -> RunSpec:
    choices = {"paradigm": paradigm, "cluster": "homogeneous", "model": arguments.model, "dataset": "synthetic"}
    overrides = {
        "cluster.count": arguments.workers,
        "dataset.examples": arguments.examples,
        "batch_size": arguments.batch_size,
        "stop.pushes": arguments.pushes,
        "optimizer.learning_rate": 0.02,
        "evaluation.every_epochs": None,
        "seed": arguments.seed,
    }
    return specification(folder, choices, overrides)


if __name__ == "__main__":
    main()
