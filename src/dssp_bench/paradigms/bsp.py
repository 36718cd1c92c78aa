"""BSP: bulk synchronous parallel."""

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from dssp_bench.core.clocks import Clocks
from dssp_bench.core.messages import WorkerId
from dssp_bench.core.paradigm import Paradigm


@dataclass(config=ConfigDict(extra="forbid"))
class BSP(Paradigm):
    """Bulk synchronous parallel (Valiant, CACM 1990): when every live worker has pushed, one update, and all go on.

    A round is the special case of a lead of at most 0 in which every gradient waits for the one that completes the
    round. So no gradient is ever stale.
    """

    held_gradients: Literal["merge_mean", "merge_sum"] = "merge_mean"

    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        """Only when nobody is behind: the barrier."""
        return clocks.lead(worker) <= 0

    def largest_lead(self, worker: WorkerId, clocks: Clocks) -> int:
        """No lead at all."""
        return 0
