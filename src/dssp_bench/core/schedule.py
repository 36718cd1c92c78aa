"""The learning rate of an update, counted on either of the two clocks that such comparisons mix up.

A milestone counted in server updates comes N times earlier for a paradigm that updates once per push than for one that
updates once per round of N workers; counted in samples it comes at the same epoch for every paradigm.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

ScheduleClock = Literal["samples", "updates"]
ScheduleScale = Literal["none", "linear_workers", "inverse_staleness"]


@dataclass(frozen=True)
class LearningRate:
    """A base rate that is multiplied by `gamma` at every milestone (in epochs) passed.

    `clock` says what an epoch is made of: `samples`, or `updates` with `floor(examples / batch_size / workers)` updates
    to the epoch, as MXNet's example scripts count. `scale` is none, times the number of workers, or divided by the
    update's largest staleness (where that is above 1).
    """

    base: float
    milestones: tuple[float, ...]
    gamma: float
    clock: ScheduleClock
    scale: ScheduleScale
    workers: int
    batch_size: int
    examples: int

    @cached_property
    def updates_per_epoch(self) -> int:
        """The length of an epoch on the clock of updates; at least 1."""
        return max(1, self.examples // self.batch_size // self.workers)

    def epoch(self, version: int, pushes: int) -> float:
        """How many epochs are over after so many updates and pushes."""
        if self.clock == "updates":
            return version / self.updates_per_epoch
        return pushes * self.batch_size / self.examples

    def at(self, version: int, pushes: int, staleness: int = 0) -> float:
        """The rate for the update that comes after `version` updates and with push number `pushes`."""
        rate = self.base
        if self.milestones:
            epoch = self.epoch(version, pushes - 1)
            for milestone in self.milestones:
                if epoch >= milestone:
                    rate *= self.gamma
        if self.scale == "linear_workers":
            rate *= self.workers
        elif self.scale == "inverse_staleness":
            rate /= max(1, staleness)
        return rate
