"""ASP: asynchronous parallel."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from dssp_bench.core.clocks import Clocks
from dssp_bench.core.messages import WorkerId
from dssp_bench.core.paradigm import Paradigm


@dataclass(config=ConfigDict(extra="forbid"))
class ASP(Paradigm):
    """Asynchronous parallel (Dean et al., NIPS 2012): gradients are applied on arrival and nobody ever waits."""

    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        """Always."""
        return True
