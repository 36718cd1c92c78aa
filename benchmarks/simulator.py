"""How fast is virtual time: pushes and events per second of one core, by number of workers and paradigm?

    python benchmarks/simulator.py
    python benchmarks/simulator.py --workers 4,10000 --paradigms dssp --pushes 1e6 --grid --large

Timing only, with coordinator, paradigm and layout as in a run, on one core. An event is a push or a release. Three
cases: `bare`, the loop alone; `records`, with records that are written and finished within the time; `run`, with all
that a run has in its loop, which is records, status page and membership. What a run pays once is not in the rates: a
run that ends after every worker's second push is subtracted, and its seconds are `start_s` (10,000 workers draw their
first random numbers in it). CPU time is given too, since others may use the machine. What a push costs depends on how
fast Python is on a machine, so `of_toy` says what share of a toy's rate it is: a loop over a heap with noise and SSP's
gate, written for nothing else. Prints one JSON line per case, medians of the repeats, then a table.

`--grid` makes the paper's three homogeneous comparisons in virtual time as `dssp-bench reproduce` makes runs (BSP, ASP,
SSP with 13 thresholds and DSSP on three models, 48 runs), on all cores. `--large` makes one run of 10,000 workers and
1,000 iterations each, with records, and says how much memory it took. Both take minutes.
"""

import argparse
import gc
import heapq
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _report import case as print_case
from _report import count, header, names_of, numbers, table
from _spec import specification

from dssp_bench.cli.compose import compose_job
from dssp_bench.cli.run import make_spec
from dssp_bench.core.coordinator import Coordinator
from dssp_bench.engines.observer import Membership, Observer, Recording
from dssp_bench.engines.serve import serve
from dssp_bench.engines.simulated import SimulatedEngine
from dssp_bench.engines.status import StatusPage, page_size
from dssp_bench.experiment.batch import BatchProgress, Item, carry_out
from dssp_bench.experiment.plan import make_plan
from dssp_bench.experiment.run import run
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.studies import STUDIES
from dssp_bench.records.writer import RecordWriter

CASES = ("toy", "bare", "records", "run")
GRID = ("fig3a", "fig3c", "fig3e")
LARGE = {"cluster.count": 10_000, "stop.pushes": 10_000_000}

PARADIGMS = ("bsp", "asp", "ssp", "dssp")


def main() -> None:
    """Measure every case, then show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=numbers, default=[4, 16, 1_000, 10_000])
    parser.add_argument(
        "--paradigms", type=names_of("bsp", "asp", "ssp", "dssp"), default=["bsp", "asp", "ssp", "dssp"]
    )
    parser.add_argument("--cluster", default="paper_homogeneous", help="a file of conf/cluster, repeated as needed")
    parser.add_argument("--pushes", type=count, default=300_000)
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    header(arguments)
    rows = []
    with one_core():
        for workers in arguments.workers:
            for paradigm in arguments.paradigms:
                rows += measured(workers, paradigm, arguments)
    table(f"medians of {arguments.repeats} interleaved repeats, one core", rows)
    if arguments.grid:
        grid()
    if arguments.large:
        large()


@contextmanager
def one_core() -> Iterator[None]:
    """Within it, this process stays on one core."""
    cores = os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


def measured(workers: int, paradigm: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The table's rows of one number of workers and one paradigm, which are printed as JSON on the way."""
    times: dict[str, list[tuple[float, float, float]]] = {case: [] for case in CASES}
    start = 2 * workers
    for _ in range(arguments.repeats):
        for case in CASES:
            with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
                if case == "toy":
                    times[case].append(toy(workers, arguments.pushes))
                    continue
                short = _specification(Path(folder), paradigm, arguments.cluster, workers, start)
                long = _specification(Path(folder), paradigm, arguments.cluster, workers, start + arguments.pushes)
                first, first_cpu, first_events = once(short, case, Path(folder) / "short")
                wall, cpu, events = once(long, case, Path(folder) / "long")
                times[case].append((wall - first, cpu - first_cpu, first))
                events -= first_events
    bare, rows = median(cpu for _, cpu, _ in times["bare"]), []
    toy_cpu = median(cpu for _, cpu, _ in times["toy"])
    for case, columns in times.items():
        wall, cpu, first = (median(column) for column in zip(*columns, strict=True))
        rate = {"pushes_per_s": arguments.pushes / wall, "pushes_per_cpu_s": arguments.pushes / cpu}
        rest = {
            "events_per_s": events / wall, "more_cpu_than_bare": cpu / bare - 1, "of_toy": toy_cpu / cpu,
            "start_s": first,
        }  # fmt: skip
        rows.append({"case": case, "workers": workers, "paradigm": paradigm, **rate, **rest})
        print_case(**rows[-1])
    return rows


class _Gate:
    """Who may go on under SSP(3), and nothing else."""

    def __init__(self, workers: int) -> None:
        self.clocks = [0] * workers
        self.at = {0: workers}  # how many workers are at each clock
        self.slowest = 0
        self.held: dict[int, list[int]] = {}  # by the clock that frees them

    def push(self, worker: int) -> list[int]:
        clock = self.clocks[worker] = self.clocks[worker] + 1
        self.at[clock - 1] -= 1
        self.at[clock] = self.at.get(clock, 0) + 1
        free = [worker]
        if clock - self.slowest > 3:
            self.held.setdefault(clock - 3, []).append(worker)
            free = []
        while not self.at[self.slowest]:
            del self.at[self.slowest]
            self.slowest += 1
            free += self.held.pop(self.slowest, ())
        return free


def toy(workers: int, pushes: int) -> tuple[float, float, float]:
    """Seconds by the wall and of the CPU for so many pushes in the smallest loop that simulates them, and for none."""
    noise = torch.distributions.LogNormal(0.0, 0.02).sample((1 << 16,)).tolist()
    gate, heap = _Gate(workers), [(noise[worker % len(noise)], worker) for worker in range(workers)]
    heapq.heapify(heap)
    began, used = time.perf_counter(), time.process_time()
    for number in range(pushes):
        now, worker = heapq.heappop(heap)
        for free in gate.push(worker):
            heapq.heappush(heap, (now + noise[(number + free) & 0xFFFF], free))
    return time.perf_counter() - began, time.process_time() - used, 0.0


def once(spec: RunSpec, case: str, folder: Path) -> tuple[float, float, int]:
    """Seconds by the wall and of the CPU, and the number of events."""
    plan = make_plan(spec, spec.dataset.facts())
    engine = SimulatedEngine(spec.cluster, plan.iteration, spec.seed, keys=plan.keys, message_bytes=plan.message_bytes)
    coordinator = Coordinator(spec.paradigm, spec.cluster.present)
    gc.collect()
    began, used = time.perf_counter(), time.process_time()
    observers, close = _observers(case, len(spec.cluster.workers), folder)
    serve(coordinator, engine, plan.limits, plan.rates, None, observers)
    close()
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    releases = len(spec.cluster.workers) + coordinator.pushes - len(coordinator.view.held)
    return wall, cpu, coordinator.pushes + releases


def _observers(case: str, workers: int, folder: Path) -> tuple[list[Observer], Callable[[], None]]:
    """What watches the loop, and what is to be done at the end."""
    if case == "bare":
        return [], lambda: None
    recorder = RecordWriter(folder)
    if case == "records":
        return [Recording(recorder)], recorder.close
    page = StatusPage(torch.zeros(page_size(workers), dtype=torch.float64))
    page.begin()
    return [Recording(recorder), page, Membership()], recorder.close


def _specification(folder: Path, paradigm: str, cluster: str, workers: int, pushes: int) -> RunSpec:
    choices = {"engine": "simulated", "paradigm": paradigm, "cluster": cluster}
    overrides = {"engine.train": False, "cluster.count": workers, "stop.pushes": pushes, "tracking.figures": False}
    return specification(folder, choices, overrides)


# --- whole runs ---


def grid() -> None:
    """The paper's grid, by the wall."""
    with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
        items = [item for name in GRID for item in grid_items(name, Path(folder))]
        began = time.perf_counter()
        errors = carry_out(items, BatchProgress())
        wall = time.perf_counter() - began
    cores = len(os.sched_getaffinity(0))
    pushes = sum(make_plan(item.spec, item.spec.dataset.facts()).total_pushes or 0 for item in items)
    rates = {"seconds": wall, "pushes_per_s": pushes / wall}
    print_case(case="grid", runs=len(items), pushes=pushes, cores=cores, **rates, errors=errors)


def grid_items(name: str, folder: Path) -> Iterator[Item]:
    """The runs of one of the paper's figures with all its thresholds, one seed each."""
    study = STUDIES[name]
    for arm in study.arms("full"):
        if ("schedule.clock", "updates") in arm.values:
            values = [f"{key}={value}" for key, value in arm.values]
            wanted = [*study.overrides("timing"), f"paradigm={arm.paradigm}", *values, "tracking=none"]
            yield Item(f"{name}: {arm.label}", make_spec(compose_job([*wanted, f"runs_dir={folder}"])))


def large() -> None:
    """One large run, in a process of its own, whose memory is then known."""
    with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_large, args=(Path(folder), theirs))
        process.start()
        theirs.close()
        print_case(case="large", **ours.recv())
        process.join()


def _large(folder: Path, to: Any) -> None:
    began = time.perf_counter()
    choices = {"engine": "simulated", "paradigm": "dssp", "cluster": "paper_homogeneous"}
    spec = specification(folder, choices, {"engine.train": False, "tracking.figures": False, **LARGE})
    result = run(spec)
    wall = time.perf_counter() - began
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    to.send({
        "workers": LARGE["cluster.count"], "pushes": (result.summary or {}).get("pushes"), "status": result.status,
        "seconds": wall, "peak_gb": int(peak[1]) / 1e6 if peak else None,
    })  # fmt: skip


if __name__ == "__main__":
    main()
