"""How close to the device's own limits do round trips and training come, with weights and slots in a GPU's memory?

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only push_pull --sizes 2.35e7 --workers 4 --seconds 3 --repeats 5
    python benchmarks/gpu.py --device cpu --model mlp --pushes 300 --seconds 0.5      # only to try the script

`push_pull`: as many workers as asked for, in processes of their own, with shared CUDA memory as in runs on one GPU. A
worker computes nothing: its constant gradient lies in its slot, so a push moves no byte. The server's fused update
reads gradient, weights and momentum and writes weights and momentum, and a copy for the worker reads and writes the
weights: 7 vectors of float32 for each round trip. `limit` does that in one process, and copies the gradient in before:
9 vectors. `copy` is plain copies within the device, of as many bytes as a round trip of the server moves (3.5 vectors
read and 3.5 written), which are queued, as nobody needs each of them. `of copy` is the share of its bytes per second.

`training`: iterations per second of one worker through the server, with records, beside a bare loop of the same network
in one process. Ratios are of runs that followed each other, and the first of each is not counted.

Everybody takes turns, `--repeats` times; medians. Prints one JSON line per case, then tables with the goals. Wrong
weights at the end make the exit status 1, a machine without a CUDA device 2.
"""

import argparse
import sys
import tempfile
from collections.abc import Generator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _report import case as print_case
from _report import count, header, numbers, positive, table
from _spec import specification
from training import bare_loop

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.experiment import preload, round_trips
from dssp_bench.experiment.contenders import ThroughServer, in_processes, limit, synchronise
from dssp_bench.experiment.round_trips import Case, Contender, Processes, Weights, in_turns, measure, until_time_is_up
from dssp_bench.experiment.run import run
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.paradigms.asp import ASP

PARTS = ("push_pull", "training")
COPY_GOAL, TRAINING_GOAL = 0.6, 0.97

VECTORS = {"server": 7.0, "limit": 9.0, "copy": 7.0}
"""How many vectors of float32 each reads and writes in one round trip."""

_QUEUED = 16  # copies that are started before somebody waits for them


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--sizes", type=numbers, default=[1_700_000, 23_500_000], help="float32 parameters")
    parser.add_argument("--workers", type=count, default=4)
    parser.add_argument("--seconds", type=positive, default=2.0, help="of each contender's turn, after its start")
    parser.add_argument("--model", default="resnet110")
    parser.add_argument("--batch-size", type=count, default=128)
    parser.add_argument("--pushes", type=count, default=300, help="iterations of each training run")
    parser.add_argument("--repeats", type=count, default=3)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("this machine has no CUDA device; --device cpu tries the script without", file=sys.stderr)
        sys.exit(2)
    header(arguments)
    start_fork_server((*preload.PRELOAD, *round_trips.PRELOAD))
    try:
        right = arguments.only == "training" or push_pull(arguments)
        if arguments.only != "push_pull":
            training(arguments)
    except DsspBenchError as error:
        sys.exit(str(error))
    if not right:
        sys.exit("wrong weights at the end")


def reached(share: float | None, goal: float) -> str | None:
    """What the column of goals says."""
    return None if share is None else "reached" if share >= goal else "missed"


# --- round trips ---


def push_pull(arguments: argparse.Namespace) -> bool:
    """The server and its limits at each size; whether all weights were right."""
    rows = [row for size in arguments.sizes for row in measured(size, arguments)]
    title = f"{arguments.workers} workers on {arguments.device}: medians of {arguments.repeats} interleaved repeats"
    table(f"{title}; the goal is that the server reaches {COPY_GOAL:.0%} of copy", rows)
    return all(row["weights"] == "right" for row in rows)


def measured(size: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The table's rows of one size, which are printed as JSON on the way."""
    contenders: dict[str, tuple[Contender, int]] = {
        "copy": (copy, 1), "limit": (limit, 1), "server": (ThroughServer(ASP()), arguments.workers)
    }  # fmt: skip
    turns = {
        name: partial(measure, contender, size, workers, arguments.seconds, arguments.device)
        for name, (contender, workers) in contenders.items()
    }
    found, failed = in_turns(turns, arguments.repeats)
    for error in failed.values():
        raise error
    gb_per_s = {name: medians.per_s * VECTORS[name] * 4 * size / 1e9 for name, medians in found.items()}
    rows = []
    for name, medians in found.items():
        values = asdict(medians)
        weights = "right" if values.pop("right") else "WRONG"
        share = gb_per_s[name] / gb_per_s["copy"] if gb_per_s["copy"] else None
        goal = reached(share, COPY_GOAL) if name == "server" else None
        row = {"contender": name, "size": size, "workers": contenders[name][1], **values, "GB/s": gb_per_s[name]}
        rows.append({**row, "of copy": share, "goal": goal, "weights": weights})
        print_case(**{key.replace(" ", "_").replace("/", "_per_"): value for key, value in rows[-1].items()})
    return rows


def copy(case: Case) -> Generator[Processes, None, list[Weights]]:
    """Copies within the device, each of half the bytes that a round trip of the server moves: one reads and writes."""
    return in_processes(_copy, case, servers=0)


def _copy(case: Case, worker: int, together: Any) -> Weights:
    source = torch.zeros(round(VECTORS["copy"] / 2 * case.parameters), device=case.device)
    target, made = torch.zeros_like(source), 0

    def round_trip() -> None:
        nonlocal made
        target.copy_(source)
        made += 1
        if made % _QUEUED == 0:
            synchronise(case.device)

    together.wait()
    until_time_is_up(case, worker, round_trip)
    return Weights(target.min().item(), target.max().item(), 0)


# --- training ---


def training(arguments: argparse.Namespace) -> None:
    """A bare loop, and one worker through the server."""
    rates: dict[str, list[float]] = {"bare loop": [], "server": []}
    for repeat in range(arguments.repeats + 1):
        with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
            spec = _specification(arguments, Path(folder))
            found = {"bare loop": bare_loop(spec, arguments.pushes)["iterations_per_s"], "server": through_server(spec)}
        for way, rate in found.items() if repeat else ():
            rates[way].append(rate)
    share = median(mine / bare for mine, bare in zip(rates["server"], rates["bare loop"], strict=True))
    rows = []
    for way, mine in rates.items():
        goal = reached(share, TRAINING_GOAL) if way == "server" else None
        row = {"way": way, "iterations_per_s": median(mine), "ms": 1000 / median(mine)}
        row |= {"spread": max(mine) / min(mine) - 1, "of bare loop": share if goal else 1.0, "goal": goal}
        print_case(model=arguments.model, **{key.replace(" ", "_"): value for key, value in row.items()})
        rows.append(row)
    title = f"{arguments.model}, batches of {arguments.batch_size}, one worker: medians of {arguments.repeats}"
    table(f"{title}; the goal is {TRAINING_GOAL:.0%} of the bare loop", rows)


def through_server(spec: RunSpec) -> float:
    """Iterations per second of a run, without its start. Raises DsspBenchError."""
    result = run(spec)
    if result.status != "finished":
        raise DsspBenchError(f"a run {result.status}: {result.error}")
    return float((result.summary or {})["pushes_per_s"])


def _specification(arguments: argparse.Namespace, folder: Path) -> RunSpec:
    choices = {"paradigm": "asp", "cluster": "homogeneous", "model": arguments.model, "dataset": "synthetic"}
    overrides = {
        "cluster.count": 1,
        "cluster.workers": [{"device": arguments.device}],
        "batch_size": arguments.batch_size,
        "stop.pushes": arguments.pushes,
        "evaluation.every_epochs": None,
        "dataset.test_examples": 100,  # what the two evaluations take is no overhead of the server
    }
    return specification(folder, choices, overrides)


if __name__ == "__main__":
    main()
