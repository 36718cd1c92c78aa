"""SSP: stale synchronous parallel."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from dssp_bench.core.clocks import Clocks
from dssp_bench.core.messages import WorkerId
from dssp_bench.core.paradigm import HeldGradients, Paradigm


@dataclass(config=ConfigDict(extra="forbid"))
class SSP(Paradigm):
    """Stale synchronous parallel (Ho et al., NIPS 2013): a bounded lead over the slowest worker.

    An iteration starts at a lead of at most `threshold`, so the lead seen at a push is at most `threshold + 1`. Workers
    always pull the newest weights.
    """

    threshold: Annotated[int, Field(ge=0)] = 3  # s in the paper; 0 is BSP's release order
    held_gradients: HeldGradients = "apply"

    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        """Whether the lead is at most the threshold."""
        return clocks.lead(worker) <= self.threshold

    def largest_lead(self, worker: WorkerId, clocks: Clocks) -> int:
        """The threshold, for everyone and always."""
        return self.threshold
