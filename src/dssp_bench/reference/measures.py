"""What is measured of a run, and how two values of it are compared."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

MeasureName = Literal[
    "duration",
    "time_to_target",
    "final_accuracy",
    "tail_accuracy",
    "best_accuracy",
    "throughput",
    "rate_drop_fraction",
    "updates_per_iteration",
]

TAIL = 0.03
"""The last part of a run's time, over which `tail_accuracy` is the median."""

_Number = TypeVar("_Number", float, npt.NDArray[np.float64])


class Bounds(NamedTuple):
    """A number, or what is known of it: it lies between `low` and `high`, which may be infinite.

    Formats like a float where it is known, as `1.90`, and otherwise as `1.85 to 2.01` or `at least 1.90`.
    """

    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Self:
        """A number that is known."""
        return cls(value, value)

    def __format__(self, spec: str) -> str:
        if self.high == math.inf:
            return f"at least {self.low:{spec}}"
        if self.low == self.high:
            return f"{self.low:{spec}}"
        return f"{self.low:{spec}} to {self.high:{spec}}"


@dataclass(frozen=True)
class Measure:
    """A unit, and what the effect of left against right is.

    - `time`: right over left, so how many times as fast, or as early, the left is
    - `rate`: left over right
    - `accuracy`: left minus right

    Effects up to `resolution` come from where a run begins and ends, and count as none.
    """

    kind: Literal["time", "rate", "accuracy"]
    unit: str
    effect_unit: str
    resolution: float

    def effect(self, left: _Number, right: _Number) -> _Number:
        """The effect for known values, or for arrays of them; those of ratios are positive."""
        if self.kind == "accuracy":
            return left - right
        return right / left if self.kind == "time" else left / right

    def effects(self, left: tuple[_Number, _Number], right: tuple[_Number, _Number]) -> tuple[_Number, _Number]:
        """The smallest and the largest effect, for values that lie between a low and a high one."""
        (left_low, left_high), (right_low, right_high) = left, right
        if self.kind == "time":
            return self.effect(left_high, right_low), self.effect(left_low, right_high)
        return self.effect(left_low, right_high), self.effect(left_high, right_low)

    def scaled(self, effect: float) -> float:
        """The effect on a scale on which none is 0, and left and right swapped is its negative."""
        if self.kind == "accuracy":
            return effect
        return math.log(effect) if effect > 0 else -math.inf

    def unscaled(self, value: float) -> float:
        """The effect that `scaled` makes this of."""
        return value if self.kind == "accuracy" else math.exp(value)


MEASURES: dict[MeasureName, Measure] = {
    "duration": Measure("time", "s", "times as fast", 1.001),
    "time_to_target": Measure("time", "s", "times as fast", 1),
    "final_accuracy": Measure("accuracy", "accuracy", "accuracy", 0),
    "tail_accuracy": Measure("accuracy", "accuracy", "accuracy", 0),
    "best_accuracy": Measure("accuracy", "accuracy", "accuracy", 0),
    "throughput": Measure("rate", "pushes/s", "times as many", 1.001),
    "rate_drop_fraction": Measure("time", "of the run", "times as early", 1.001),
    "updates_per_iteration": Measure("rate", "updates", "times as many", 1.001),
}
