"""How many round trips of gradients and weights a second, beside what memory allows and beside other people's software?

    python benchmarks/push_pull.py
    python benchmarks/push_pull.py --sizes 1.7e6 --workers 1,4 --paradigms asp --peers gloo,rpc --repeats 5

Workers compute nothing: their constant gradient lies in their slot. The local engine runs as in `dssp-bench run`, with
status page and records; what is left out is the network, and who watches. `limit` is a process that copies a gradient
in, makes torch's fused update and copies the weights out, and as many of them at once as there are workers; `memcpy` is
the two copies alone. Peers exchange gradients in the way of their own parameter-server examples, asynchronously; those
that are not installed are left out, with the reason. Whatever took part, the weights at the end must be those that so
many updates make.

All contenders of a case take turns, `--repeats` times; the first fifth of a turn is for warming up. Prints one JSON
line per case and contender, medians over the repeats: round trips per second, milliseconds of a round trip as its
worker sees it, CPU milliseconds of all processes per round trip (without Ray's own daemons), how many cores' worth of
time the server took, how many round trips were made in all, and by how much the best repeat exceeds the worst. Then a
table, with ratios to `limit`, `memcpy` and the best peer.

`--check-pulls` makes each worker look at every weight that it pulls: all are equal, unless a pull mixed two versions,
which ends the run with an error.
`--idle` adds workers that are silent, to see what the server costs meanwhile.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import peers
import torch
from _local import Ended, carried_out, without_records
from _report import case as print_case
from _report import header, names, numbers, table
from _round_trips import (
    GRADIENT,
    LEARNING_RATE,
    LOOK_EVERY_S,
    MOMENTUM,
    Case,
    Contender,
    ContenderFailed,
    Measurement,
    Processes,
    Weights,
    measure,
    new_case,
)
from _spec import specification
from numpy.typing import NDArray
from torch import Tensor

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.schedule import LearningRate
from dssp_bench.core.server import Slot
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.local.launch import LocalJob, start_fork_server
from dssp_bench.engines.options import LocalOptions
from dssp_bench.experiment.local import PRELOAD
from dssp_bench.records.writer import RecordWriter
from dssp_bench.worker import Worker


def main() -> None:
    """Measure every case, then show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=[100_000, 1_700_000, 23_500_000], help="float32 parameters")
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4])
    parser.add_argument("--paradigms", type=names, default=["asp", "bsp", "ssp", "dssp"])
    parser.add_argument("--pull", type=names, default=["whole"], help="values of engine.pull")
    parser.add_argument("--peers", type=names, default=list(peers.PEERS), help=f"of {', '.join(peers.PEERS)}; '': none")
    parser.add_argument("--mxnet-python", default="", help="an interpreter with mxnet, which needs a NumPy of its own")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each contender's turn, after its start")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-records", dest="records", action="store_false")
    parser.add_argument("--check-pulls", action="store_true")
    parser.add_argument("--idle", action="store_true")
    arguments = parser.parse_args()
    header(arguments)
    start_fork_server(PRELOAD)
    contenders = chosen(arguments)

    rows = []
    for size in arguments.sizes:
        for workers in arguments.workers:
            rows += measured(contenders, size, workers, arguments)
    table(f"medians of {arguments.repeats} interleaved repeats", rows)
    if any(row["weights"] == "WRONG" for row in rows):
        sys.exit("wrong weights at the end")


def chosen(arguments: argparse.Namespace) -> dict[str, Contender]:
    """The contenders by name, bounds first; says why a peer is left out."""
    contenders: dict[str, Contender] = {"memcpy": peers.memcpy, "limit": peers.limit}
    for paradigm in arguments.paradigms:
        for pull in arguments.pull:
            name = paradigm if pull == "whole" else f"{paradigm} {pull}"
            contenders[name] = Ours(paradigm, pull, arguments.records, arguments.check_pulls)
    if arguments.idle:
        contenders["asp idle"] = Ours("asp", "whole", arguments.records, idle_s=0.85 * arguments.seconds)
    for name in arguments.peers:
        try:
            contenders[name] = peers.PEERS[name](arguments)
        except peers.Missing as missing:
            print_case(contender=name, skipped=str(missing))
    return contenders


def measured(
    contenders: dict[str, Contender], size: int, workers: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The table's rows of one case, which are printed as JSON on the way."""
    found: dict[str, list[Measurement]] = {name: [] for name in contenders}
    errors: dict[str, str] = {}
    for _ in range(arguments.repeats):
        for name, contender in contenders.items():
            try:
                with new_case(size, workers, arguments.seconds) as case:
                    found[name].append(measure(contender, case))
            except ContenderFailed as error:
                errors[name] = str(error)
            except DsspBenchError as error:
                sys.exit(f"{name}: {error}")
    rows = [summed_up(size, workers, name, runs) for name, runs in found.items() if runs]
    rates = {row["contender"]: row["per_s"] for row in rows}
    best_peer = max((rates[name] for name in arguments.peers if name in rates), default=None)
    for row in rows:
        row["of limit"] = row["per_s"] / rates["limit"] if "limit" in rates else None
        row["of memcpy"] = row["per_s"] / rates["memcpy"] if "memcpy" in rates else None
        row["of best peer"] = row["per_s"] / best_peer if best_peer else None
        print_case(**{key.replace(" ", "_"): value for key, value in row.items()})
    for name, reason in errors.items():
        print_case(size=size, workers=workers, contender=name, error=reason)
    return rows


def summed_up(size: int, workers: int, name: str, runs: list[Measurement]) -> dict[str, Any]:
    """Medians over the repeats; `spread` is how much more the best of them made than the worst."""
    rates = [run.per_s for run in runs]
    return {
        "contender": name,
        "size": size,
        "workers": workers,
        "per_s": median(rates),
        "p50_ms": _median([run.p50_ms for run in runs]),
        "p99_ms": _median([run.p99_ms for run in runs]),
        "cpu_ms": _median([run.cpu_ms for run in runs]),
        "server_cpu": _median([run.server_cpu for run in runs]),
        "made": sum(run.made for run in runs),
        "spread": max(rates) / min(rates) - 1 if min(rates) else None,
        "weights": "right" if all(run.right for run in runs) else "WRONG",
    }


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


# --- the local engine ---


class Ours:
    """The local engine as a contender; `idle_s` is how long its workers compute, doing nothing."""

    def __init__(self, paradigm: str, pull: str, records: bool, check_pulls: bool = False, idle_s: float = 0.0) -> None:
        self._paradigm = paradigm
        self._pull = pull
        self._records = records
        self._check_pulls = check_pulls
        self._idle_s = idle_s

    def __call__(self, case: Case) -> Generator[Processes, None, list[Weights]]:
        """Run it until the time is over."""
        with tempfile.TemporaryDirectory(prefix="push-pull-") as folder:
            job = self._job(case, Path(folder) / "run")
            running = carried_out(job if self._records else without_records(job), LOOK_EVERY_S)
            ended = yield from _by_role(running)
        final = ended.evaluation
        return [Weights(final.loss, final.accuracy, final.version)]

    def _job(self, case: Case, folder: Path) -> LocalJob:
        choices = {"paradigm": self._paradigm, "cluster": "homogeneous"}
        spec = specification(folder, choices, {"cluster.count": case.workers, "engine.pull": self._pull})
        assert isinstance(spec.engine, LocalOptions)
        nothing = torch.empty(0)
        return LocalJob(
            paradigm=spec.paradigm,
            layout=spec.cluster,
            limits=Limits(until=round(case.seconds * 1e9)),
            rates=LearningRate(LEARNING_RATE, (), 1.0, "samples", "none", case.workers, batch_size=1, examples=1),
            optimizer={"momentum": MOMENTUM},
            initial=[torch.zeros(case.parameters), nothing, nothing],
            worker=IdleWorkers(case, self._check_pulls, self._idle_s),
            evaluator=extremes,
            recorder=partial(RecordWriter, folder),
            evaluate_every=inf,
            evaluation_device="cpu",
            target_accuracy=None,
            options=spec.engine,
        )


def _by_role(running: Generator[dict[str, int], None, Ended]) -> Generator[Processes, None, Ended]:
    while True:
        try:
            processes = {name.removeprefix("dssp-bench "): number for name, number in next(running).items()}
        except StopIteration as end:
            ended: Ended = end.value
            return ended
        workers = [number for name, number in processes.items() if name not in ("server", "evaluator")]
        yield Processes([processes["server"]], workers)


def extremes(device: str, weights: Tensor, statistics: Tensor) -> Callable[[], tuple[float, float]]:
    """In the place of loss and accuracy: the smallest and the largest weight."""
    return lambda: (weights.min().item(), weights.max().item())


@dataclass
class IdleWorkers:
    """Makes workers that have nothing to compute."""

    case: Case
    check: bool
    idle_s: float

    def __call__(self, worker: int, device: str, weights: Tensor, slot: Slot) -> "IdleWorker":
        """The worker with this number; its gradient is in its slot from now on."""
        slot.gradient.fill_(GRADIENT)
        return IdleWorker(self.case.moments(worker), weights, self.check, self.idle_s)


class IdleWorker(Worker):
    """Its gradient is there already; it only notes when it was asked for it."""

    def __init__(self, moments: NDArray[np.int64], weights: Tensor, check: bool, idle_s: float) -> None:
        self._moments = moments
        self._made = 0
        self._no_loss = torch.tensor(0.0)
        self._weights = weights
        self._check = check
        self._idle_s = idle_s

    def compute_gradient(self) -> Tensor:
        """Note the moment."""
        self._moments[self._made] = time.monotonic_ns()
        self._made += 1
        if self._check:
            smallest, largest = torch.aminmax(self._weights)
            if smallest != largest:
                raise ContenderFailed("a pull mixed two versions of the weights")
        if self._idle_s:
            time.sleep(self._idle_s)
        return self._no_loss


if __name__ == "__main__":
    main()
