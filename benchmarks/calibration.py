"""How well does the simulator predict real runs, once it is calibrated on one of them?

    python benchmarks/calibration.py --folder /tmp/calibration --rounds 5

Each round makes a local run of every paradigm, one after the other, on four workers with slowdowns 1, 1.2, 1.6 and 3
(runs that an earlier call left in the folder are taken again). All workers together make a number of pushes, so that
the paradigms end at different times; with `--epochs` each makes its share, and the slowest one sets everyone's end. In
every round the run of one paradigm gives the constants, and what they predict is compared with the runs of the same
round, as a machine that others use is not as fast an hour later. Prints a JSON line per paradigm: the median of its
runs in seconds and how far they lie apart (`spread`), the median, lowest and highest share by which predictions are
off, and the shares of time for which workers were held.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _report import count, positive
from _spec import specification

import dssp_bench
from dssp_bench.experiment.calibrate import Timing, calibrate, predict, prediction_spec, timing
from dssp_bench.experiment.run import run
from dssp_bench.records.reader import RunRecords

PARADIGMS = ("bsp", "asp", "ssp", "dssp")


def main() -> None:
    """Make the runs, calibrate, predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs go")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--pushes", type=count, default=1200, help="of all workers together")
    parser.add_argument("--epochs", type=positive, help="of each worker, instead of pushes")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--calibrate-on", default="bsp", choices=PARADIGMS)
    arguments = parser.parse_args()
    machine = {"machine": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    about = {"torch": torch.__version__, "dssp-bench": dssp_bench.__version__, "date": time.strftime("%Y-%m-%d")}
    print(json.dumps({**machine, **about, **{k: str(v) for k, v in vars(arguments).items()}}), flush=True)

    stop = {"stop.epochs": arguments.epochs, "stop.pushes": None if arguments.epochs else arguments.pushes}
    made = {paradigm: recorded(paradigm, arguments.folder) for paradigm in PARADIGMS}
    for number in range(arguments.rounds):
        for paradigm, runs in made.items():
            if len(runs) <= number:
                runs.append(record(paradigm, arguments.folder, arguments.model, stop))
    calibrations = [calibrate(each) for each in made[arguments.calibrate_on]]
    for paradigm, runs in made.items():
        pairs = [
            (timing(each.pushes), timing(predict(calibration, prediction_spec(each))))
            for each, calibration in zip(runs, calibrations, strict=True)
        ]
        print(json.dumps({"paradigm": paradigm} | compared(pairs)), flush=True)


def recorded(paradigm: str, folder: Path) -> list[RunRecords]:
    """The runs that are there."""
    return [RunRecords.open(path) for path in sorted(folder.glob(f"*-{paradigm}-*"))]


def record(paradigm: str, folder: Path, model: str, stop: dict[str, Any]) -> RunRecords:
    """One real run."""
    choices = {"engine": "local", "paradigm": paradigm, "cluster": "hetero4", "model": model}
    return RunRecords.open(run(specification(folder, choices, {**stop, "evaluation.every_epochs": None})).folder)


def compared(pairs: list[tuple[Timing, Timing]]) -> dict[str, Any]:
    """How long real runs took, and how far each prediction is from its own."""
    seconds = [real.duration_s for real, _ in pairs]
    errors = [predicted.duration_s / real.duration_s - 1 for real, predicted in pairs]
    return {
        "real_s": round(median(seconds), 3),
        "spread": round(max(seconds) / min(seconds) - 1, 3),
        "error": round(median(errors), 4),
        "errors": [round(min(errors), 4), round(max(errors), 4)],
        "waiting": waiting([real for real, _ in pairs]),
        "predicted_waiting": waiting([predicted for _, predicted in pairs]),
    }


def waiting(timings: list[Timing]) -> list[float]:
    """Each worker's median share of time for which it was held."""
    return [round(median(each.waiting[worker] for each in timings), 3) for worker in timings[0].waiting]


if __name__ == "__main__":
    main()
