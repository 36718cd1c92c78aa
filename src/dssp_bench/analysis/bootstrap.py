"""How sure a number is, from the few seeds that it was measured on: the percentile bootstrap."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dssp_bench.analysis.waiting import Floats

RESAMPLES = 10_000
LEVEL = 0.95


def resamples(seeds: Sequence[int]) -> npt.NDArray[np.intp]:
    """Which of these seeds each resample takes, by position: `RESAMPLES` rows of as many as there are.

    Drawn anew for other seeds and the same for the same, so that the luck of a seed cancels between two arms that
    share all of theirs.
    """
    generator = np.random.default_rng([len(seeds), *seeds])
    return generator.integers(0, len(seeds), (RESAMPLES, len(seeds)))


def means(values: Any, rows: npt.NDArray[np.intp]) -> Floats:
    """The mean of each resample of one value per seed; infinite where an infinite one was taken."""
    mean: Floats = np.asarray(values, float)[rows].mean(axis=1)
    return mean


def interval(statistics: Floats) -> tuple[float, float]:
    """The range that holds the middle `LEVEL` of them, rounded outwards to two of them.

    Three seeds make it coarse: it reaches from the worst seed to the best, since each is all of a resample with a
    probability of 1/27, and the true median lies in there in three cases of four, not in 95 of 100. It says whether
    the seeds agree, no more.
    """
    ordered = np.sort(statistics)
    outside = (1 - LEVEL) / 2 * (len(ordered) - 1)
    return float(ordered[int(np.floor(outside))]), float(ordered[int(np.ceil(len(ordered) - 1 - outside))])
