"""How long does `dssp-bench compare` take on many runs, with its figures and without, beside reading their tables?

    python benchmarks/compare.py --folder /tmp/fifty --runs 50 --pushes 10000

The runs are made first, in virtual time with gradients, on a small network (minutes; those of an earlier call with the
same folder are taken again): BSP, ASP, DSSP and SSP with different thresholds, with five seeds each. Prints one JSON
line per case: medians of a few repeats, each a process of its own, in seconds by the wall and of the CPU (the latter
hardly suffers from what else the machine does), and how many times as much CPU time as reading takes.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from _report import case, count, header
from _spec import specification

from dssp_bench.experiment.batch import BatchProgress, Item, carry_out, finished_runs

SEEDS = 5
REPEATS = 3
READING = """
import sys
from pathlib import Path
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.schema import TABLES
for file in Path(sys.argv[1]).glob("*/summary.json"):
    records = RunRecords.open(file.parent)
    records.summary, records.config, [records.table(name) for name in TABLES]
"""


def main() -> None:
    """Make the runs, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are, or are to be made")
    parser.add_argument("--runs", type=count, default=50)
    parser.add_argument("--pushes", type=count, default=10_000)
    arguments = parser.parse_args()
    header(arguments)
    make(list(items(arguments.folder, arguments.runs, arguments.pushes)), arguments.folder)
    command = [sys.executable, "-m", "dssp_bench.cli.main", "compare", "--runs-dir", str(arguments.folder)]
    cases = {
        "reading the tables": [sys.executable, "-c", READING, str(arguments.folder)],
        "tables only": [*command, "--no-figures"],
        "tables and figures": command,
    }
    reading = 0.0
    for name, line in cases.items():
        wall, cpu = seconds(line)
        reading = reading or cpu
        case(case=name, seconds=wall, cpu_seconds=cpu, times_reading=cpu / reading)


def items(folder: Path, runs: int, pushes: int) -> Iterator[Item]:
    """The runs to make."""
    paradigms: list[tuple[str, dict[str, Any]]] = [("bsp", {}), ("asp", {}), ("dssp", {})]
    paradigms += [("ssp", {"paradigm.threshold": threshold}) for threshold in range(3, 3 + runs)]
    for number in range(runs):
        paradigm, options = paradigms[number // SEEDS]
        overrides = {"seed": 1 + number % SEEDS, "stop.pushes": pushes, "model.hidden": [8], **options}
        label = f"{paradigm} {number}"
        yield Item(label, specification(folder, {"engine": "simulated", "paradigm": paradigm}, overrides))


def make(wanted: list[Item], folder: Path) -> None:
    """Make the runs that are not there yet."""
    there = finished_runs(folder)
    errors = carry_out([item for item in wanted if item.fingerprint not in there], BatchProgress())
    if errors:
        sys.exit(f"runs failed: {errors}")


def seconds(command: list[str]) -> tuple[float, float]:
    """How long the command takes by the wall, and how much of the CPU: medians of a few times."""
    walls, cpus = [], []
    for _ in range(REPEATS):
        began, used = time.perf_counter(), children_cpu_s()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - began)
        cpus.append(children_cpu_s() - used)
    return median(walls), median(cpus)


def children_cpu_s() -> float:
    """The CPU time of all processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
