"""How long the server held each worker."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]


class WorkerLife(NamedTuple):
    """One worker's pushes, holds and presence; times in seconds on the engine's clock, arrays parallel by push."""

    worker: int
    began_s: float
    ended_s: float
    arrived_s: Floats
    held_s: Floats

    @property
    def lived_s(self) -> float:
        """From the start of its first iteration to its last push or release."""
        return self.ended_s - self.began_s

    @property
    def waiting_share(self) -> float:
        """The part of its life for which the server held it, between 0 and 1."""
        return float(self.held_s.sum()) / self.lived_s if self.lived_s > 0 else 0.0

    def held_until(self, moments: Floats) -> Floats:
        """How long the server had held it in all by each of these moments, in seconds."""
        pushes = np.searchsorted(self.arrived_s, moments, side="right")
        total = np.concatenate([[0.0], np.cumsum(self.held_s)])[pushes]
        released = np.concatenate([[0.0], self.arrived_s + self.held_s])[pushes]
        return np.asarray(total - np.maximum(0.0, released - moments), float)

    def share_until(self, moments: Floats) -> Floats:
        """The part of its life until each moment for which the server had held it."""
        lived = np.clip(moments, self.began_s, self.ended_s) - self.began_s
        return np.divide(self.held_until(moments), lived, out=np.zeros_like(lived), where=lived > 0)


def lives(pushes: pd.DataFrame) -> dict[int, WorkerLife]:
    """Each worker's life, by worker.

    A hold that no release ended is not counted: the records do not say whether the worker was still there. A worker
    whose first clock is 1 was there from the start; one that joined began when its first iteration did.
    """
    return lives_of(lambda name: pushes[name].to_numpy())


def lives_of(column: Callable[[str], npt.NDArray[Any]]) -> dict[int, WorkerLife]:
    """The same, from columns that are asked for one after the other, so that few are in memory at a time."""
    worker = column("worker")
    by_worker = np.argsort(worker, kind="stable")
    workers, counts = np.unique(worker, return_counts=True)
    ends = np.cumsum(counts)
    first = by_worker[ends - counts]
    del worker
    clock, compute = column("clock")[first], column("compute_s")[first]
    arrived = column("arrived_s")[by_worker]
    held = np.nan_to_num(column("held_s")[by_worker], copy=False)
    return {
        w: _life(w, c == 1, t, arrived[end - n : end], held[end - n : end])
        for w, n, end, c, t in zip(*(a.tolist() for a in (workers, counts, ends, clock, compute)), strict=True)
    }


def _life(worker: int, from_the_start: bool, compute: float, arrived: Floats, held: Floats) -> WorkerLife:
    began = 0.0 if from_the_start else max(0.0, arrived[0] - compute)
    return WorkerLife(worker, float(began), float(arrived[-1] + held[-1]), arrived, held)
