"""How well does the simulator predict real runs, once it is calibrated on one of them?

    python benchmarks/calibration.py --folder /tmp/calibration --rounds 5

Each round makes a local run of every paradigm, one after the other, on four workers with slowdowns 1, 1.2, 1.6 and 3.
The first run of the paradigm that is calibrated on gives the constants; what they predict is compared with the median
time of every paradigm's runs. Prints one JSON line per paradigm: seconds, and the share by which the prediction is off.
A machine that does something else meanwhile makes the real runs longer; `spread` shows how much they differ.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from statistics import median

import torch
from _spec import specification

import dssp_bench
from dssp_bench.experiment.calibrate import calibrate, predict, prediction_spec, timing
from dssp_bench.experiment.run import run
from dssp_bench.records.reader import RunRecords

PARADIGMS = ("bsp", "asp", "ssp", "dssp")


def main() -> None:
    """Make the runs, calibrate, predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs go")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=16)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--calibrate-on", default="bsp", choices=PARADIGMS)
    arguments = parser.parse_args()
    machine = {"machine": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    about = {"torch": torch.__version__, "dssp-bench": dssp_bench.__version__, "date": time.strftime("%Y-%m-%d")}
    print(json.dumps({**machine, **about, **{k: str(v) for k, v in vars(arguments).items()}}), flush=True)

    made: dict[str, list[RunRecords]] = {paradigm: [] for paradigm in PARADIGMS}
    for _ in range(arguments.rounds):
        for paradigm in PARADIGMS:
            made[paradigm].append(record(paradigm, arguments.folder, arguments.model, arguments.epochs))
    calibration = calibrate(made[arguments.calibrate_on][0])
    for paradigm, runs in made.items():
        real = [timing(each.pushes).duration_s for each in runs]
        predicted = timing(predict(calibration, prediction_spec(runs[0]))).duration_s
        line = {
            "paradigm": paradigm,
            "real_s": round(median(real), 3),
            "spread": round(max(real) / min(real) - 1, 3),
            "predicted_s": round(predicted, 3),
            "error": round(predicted / median(real) - 1, 4),
        }
        print(json.dumps(line), flush=True)


def record(paradigm: str, folder: Path, model: str, epochs: float) -> RunRecords:
    """One real run."""
    choices = {"engine": "local", "paradigm": paradigm, "cluster": "hetero4", "model": model}
    spec = specification(folder, choices, {"stop.epochs": epochs, "evaluation.every_epochs": None})
    return RunRecords.open(run(spec).folder)


if __name__ == "__main__":
    main()
