"""DSSP: dynamic stale synchronous parallel."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from dssp_bench.core.clocks import Clocks
from dssp_bench.core.messages import Decision, Grant, Nanoseconds, Push, WorkerId
from dssp_bench.core.paradigm import HeldGradients, Paradigm, View


@dataclass(config=ConfigDict(extra="forbid"))
class DSSP(Paradigm):
    """Dynamic stale synchronous parallel (Zhao, An, Liu and Chen, ICDCS 2019): the fastest worker's threshold moves.

    Beyond the lower bound the fastest worker asks a controller how many more iterations would end closest to a push of
    the slowest one, and is granted as many. `bounded` never lets an iteration start at a lead above `upper`, which
    Theorem 2 assumes; `literal` follows Algorithm 1 as printed, where grants repeat without bound and the grant's own
    release costs nothing; `single_grant` is bounded and grants again only after a push, or a wait, that found the lead
    back at `lower`.

    An interval lies between a worker's two latest pushes and so contains the time for which the server held it (`raw`,
    as published), unless that is subtracted (`hold_corrected`).
    """

    lower: Annotated[int, Field(ge=0)] = 3  # s_L
    upper: Annotated[int, Field(ge=0)] = 15  # s_U
    variant: Literal["bounded", "literal", "single_grant"] = "bounded"
    interval: Literal["raw", "hold_corrected"] = "raw"
    held_gradients: HeldGradients = "apply"

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.upper < self.lower:
            raise ValueError(f"upper ({self.upper}) must not be below lower ({self.lower})")
        return self

    def reset(self, workers: Iterable[WorkerId]) -> None:
        """Forget all push times and grants."""
        self._pushed_at: dict[WorkerId, Nanoseconds] = {}  # table A, with _interval
        self._interval: dict[WorkerId, Nanoseconds] = {}
        self._extra: dict[WorkerId, int] = {}  # r_p
        self._largest_lead: dict[WorkerId, int] = {}
        self._granted: set[WorkerId] = set()  # who got a grant since its lead was last at most `lower`
        self._grant: Grant | None = None

    def may_proceed(self, worker: WorkerId, clocks: Clocks) -> bool:
        """Whether the lead is at most the lower bound; a held worker gets no grant later."""
        return clocks.lead(worker) <= self.lower

    def largest_lead(self, worker: WorkerId, clocks: Clocks) -> int:
        """The lower bound, or where the iterations that the worker was granted may take it."""
        return self._largest_lead.get(worker, self.lower)

    def on_push(self, push: Push, view: View) -> Decision:
        """As every paradigm, but a grant, if one is made, travels with the decision."""
        self._grant = None
        decision = super().on_push(push, view)
        return decision._replace(grant=self._grant) if self._grant else decision

    def proceeds(self, push: Push, view: View) -> bool:
        """Algorithm 1, lines 3 to 17: use an extra iteration, or be within the lower bound, or ask for a grant."""
        worker, clocks = push.worker, view.clocks
        lead = clocks[worker] - clocks.slowest
        self._enter_in_table_a(push, view)
        self._largest_lead.pop(worker, None)
        if lead <= self.lower:
            self._granted.discard(worker)

        if self._extra.get(worker):
            self._extra[worker] -= 1
        elif lead <= self.lower:
            return True
        elif not self._ask_controller(push, view):
            self._granted.discard(worker)  # it will be released at a lead of `lower`
            return False
        self._largest_lead[worker] = max(self.lower, lead + self._extra[worker])
        return True

    def _enter_in_table_a(self, push: Push, view: View) -> None:
        worker, at = push.worker, push.at
        before = self._pushed_at.get(worker)
        if before is not None:
            held = view.last_hold[worker] if self.interval == "hold_corrected" else 0
            self._interval[worker] = at - before - held
        self._pushed_at[worker] = at

    def _ask_controller(self, push: Push, view: View) -> bool:
        """Grant the fastest worker r* extra iterations, the first of which its own release uses; False if r* is 0."""
        worker, clocks = push.worker, view.clocks
        if clocks[worker] != clocks.fastest or (self.variant == "single_grant" and worker in self._granted):
            return False
        slowest = next(clocks.slowest_workers())  # of several, the one whose last push was handled first
        r_star, wait = self._controller(push, slowest, self._cap(clocks.lead(worker)))
        if r_star == 0:
            return False
        self._extra[worker] = r_star if self.variant == "literal" else r_star - 1
        self._granted.add(worker)
        self._grant = Grant(worker, push.at, clocks.lead(worker), r_star, wait)
        return True

    def _cap(self, lead: int) -> int:
        r_max = self.upper - self.lower
        return r_max if self.variant == "literal" else min(r_max, self.upper - lead + 1)

    def _controller(self, push: Push, slowest: WorkerId, cap: int) -> tuple[int, Nanoseconds]:
        """Algorithm 2: the r in 0..cap whose predicted push lies closest to one of the slowest worker's, and how close.

        Ties go to the smallest r. A worker with fewer than two pushes predicts nothing: r* = 0.
        """
        if push.worker not in self._interval or slowest not in self._interval:
            return 0, 0
        mine, theirs = self._interval[push.worker], self._interval[slowest]
        first, r_max = self._pushed_at[slowest] + theirs, self.upper - self.lower

        def wait_after(r: int) -> Nanoseconds:
            my_push = push.at + r * mine
            k = min(max((my_push - first) // theirs, 0), r_max) if theirs else 0
            return min(abs(first + k * theirs - my_push), abs(first + min(k + 1, r_max) * theirs - my_push))

        r_star = min(range(cap + 1), key=wait_after)
        return r_star, wait_after(r_star)
