"""Small experiments, and a network that makes trouble when it is told to."""

import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dssp_bench.experiment.spec import RunSpec, build_spec
from dssp_bench.tasks.task import ModelSource

PARADIGMS: dict[str, dict[str, Any]] = {
    "bsp": {"_target_": "dssp_bench.paradigms.bsp.BSP"},
    "asp": {"_target_": "dssp_bench.paradigms.asp.ASP"},
    "ssp": {"_target_": "dssp_bench.paradigms.ssp.SSP", "threshold": 1},
    "dssp": {"_target_": "dssp_bench.paradigms.dssp.DSSP", "lower": 1, "upper": 5},
}
ENGINES: dict[str, dict[str, Any]] = {
    "simulated": {"_target_": "dssp_bench.engines.options.SimulatedOptions"},
    "timing": {"_target_": "dssp_bench.engines.options.SimulatedOptions", "train": False},
    "local": {"_target_": "dssp_bench.engines.options.LocalOptions", "startup_timeout_s": 60.0},
    "cluster": {
        "_target_": "dssp_bench.engines.options.ClusterOptions",
        "startup_timeout_s": 60.0, "launcher": "join", "host": "127.0.0.1",
    },
}  # fmt: skip
DIGITS = {"_target_": "dssp_bench.tasks.data.digits.Digits"}
SYNTHETIC = {
    "_target_": "dssp_bench.tasks.data.synthetic.Synthetic",
    "shape": [1, 8, 8], "classes": 3, "examples": 240, "test_examples": 60, "noise": 1.0,
}  # fmt: skip
MLP = {"_target_": "dssp_bench.tasks.models.mlp.MLP", "hidden": [16], "iteration_s": 0.001}
RESNET = {"_target_": "dssp_bench.tasks.models.resnet.ResNet", "depth": 20, "iteration_s": 0.001}
HETERO = [{"name": "fast", "device": "cpu"}, {"name": "slow", "device": "cpu", "slowdown": 1.7}]


def spec(
    runs_dir: Path,
    paradigm: str = "dssp",
    engine: str = "simulated",
    options: dict[str, Any] | None = None,
    paradigm_options: dict[str, Any] | None = None,
    **changes: Any,
) -> RunSpec:
    """A small experiment on two unequal workers, one epoch of 15 iterations each; a change replaces a whole group.

    `options` are the engine's; an `engine` that is none is a run to replay.
    """
    config: dict[str, Any] = {
        "paradigm": {**PARADIGMS[paradigm], **(paradigm_options or {})},
        "cluster": {"workers": HETERO},
        "engine": {**ENGINES.get(engine, {**REPLAY, "run": engine}), **(options or {})},
        "model": MLP,
        "dataset": SYNTHETIC,
        "optimizer": {"learning_rate": 0.05},
        "schedule": {},
        "stop": {"epochs": 1},
        "tracking": {"mlflow": False},
        "evaluation": {"every_epochs": None},
        "batch_size": 8,
        "seed": 1,
        "runs_dir": str(runs_dir),
    }
    choices = {"paradigm": paradigm, "engine": engine if engine in ENGINES else "replay", "cluster": "test"}
    return build_spec({**config, **changes}, choices)


REPLAY = {"_target_": "dssp_bench.engines.options.ReplayOptions"}


def troubled(**fields: Any) -> dict[str, Any]:
    """The configuration of a network that makes this trouble."""
    return {"_target_": f"{__name__}.Troubled", **fields}


@dataclass
class Troubled(ModelSource):
    """A small network that takes its time, raises, or dies; only in the processes that a driver starts."""

    iteration_s: float = 0.001
    pause_s: float = 0.0  # of every iteration
    evaluation_pause_s: float = 0.0
    waits_at: int | None = None  # the iteration, from 0, that is not computed before there is `waits_for`
    waits_for: str = ""  # a file
    raises_at: int | None = None  # the iteration, from 0
    evaluation_raises_at: int | None = None
    nan_at: tuple[int, ...] = ()  # iterations whose result, and so loss and gradient, is none
    built: str = ""  # what happens when it is built in another process: raises, dies or sleeps
    cause: str = "the network is in trouble"

    def build(self, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network."""
        if multiprocessing.parent_process() is not None:
            if self.built == "raises":
                raise ArithmeticError(self.cause)
            if self.built == "dies":
                os._exit(7)
            if self.built == "sleeps":
                time.sleep(60)
        return _Network(self, input_shape, classes)


def _wait_for(file: Path) -> None:
    for _ in range(6000):
        if file.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(f"{file} does not come")


class _Network(nn.Module):
    def __init__(self, trouble: Troubled, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.linear = nn.Linear(channels * height * width, classes)
        self.trouble = trouble
        self.calls = 0
        self.evaluations = 0

    def forward(self, inputs: Tensor) -> Tensor:
        trouble = self.trouble
        self.calls += self.training
        self.evaluations += not self.training
        if self.training and trouble.raises_at is not None and self.calls - 2 == trouble.raises_at:  # one to warm up
            raise ArithmeticError(trouble.cause)
        if not self.training and trouble.evaluation_raises_at == self.evaluations - 1:
            raise ArithmeticError(trouble.cause)
        if self.training and self.calls - 2 == trouble.waits_at:
            _wait_for(Path(trouble.waits_for))
        time.sleep(trouble.pause_s if self.training else trouble.evaluation_pause_s)
        result: Tensor = self.linear(inputs.flatten(1))
        return result * math.nan if self.training and self.calls - 2 in trouble.nan_at else result
