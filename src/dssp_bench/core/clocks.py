"""How often each live worker has pushed, and who is slowest and fastest, at a cost independent of their number."""

from collections.abc import Iterable, Iterator

from dssp_bench.core.errors import ProtocolViolation
from dssp_bench.core.messages import WorkerId


class Clocks(dict[WorkerId, int]):
    """The logical clocks by live worker: a clock counts pushes and is never a time. Only its methods change it.

    Invariant: `_at[c]` holds exactly the workers whose clock is c, in the order in which they came to c, and no level
    is empty. So the slowest clock moves only when its level empties, and the first worker of the lowest level is the
    one whose last push is oldest.
    """

    def __init__(self, workers: Iterable[WorkerId] = ()) -> None:
        super().__init__()
        self._at: dict[int, dict[WorkerId, None]] = {}
        self.slowest = 0
        self.fastest = 0
        for worker in workers:
            self.add(worker)

    def lead(self, worker: WorkerId) -> int:
        """The worker's clock minus the slowest live worker's clock."""
        return self[worker] - self.slowest

    def slowest_workers(self) -> Iterator[WorkerId]:
        """The workers at the slowest clock, the one whose last push is oldest first."""
        return iter(self._at.get(self.slowest, ()))

    def advance(self, worker: WorkerId) -> bool:
        """Count one push; True if the slowest clock moved."""
        clock = self[worker] + 1
        self[worker] = clock
        level = self._at.get(clock)
        if level is None:
            self._at[clock] = {worker: None}
        else:
            level[worker] = None
        if clock > self.fastest:
            self.fastest = clock
        left = self._at[clock - 1]
        del left[worker]
        return not left and self._emptied(clock - 1)

    def add(self, worker: WorkerId) -> None:
        """Let a worker join at the slowest clock, where it is neither ahead nor behind. Raises ProtocolViolation."""
        if worker in self:
            raise ProtocolViolation(f"worker {worker} joined, but it is here already, at clock {self[worker]}")
        self[worker] = self.slowest
        self._at.setdefault(self.slowest, {})[worker] = None

    def remove(self, worker: WorkerId) -> bool:
        """Forget a worker that left; True if the slowest clock moved."""
        clock = self.pop(worker)
        level = self._at[clock]
        del level[worker]
        moved = not level and self._emptied(clock)
        while self.fastest not in self._at and self._at:
            self.fastest -= 1
        return moved

    def _emptied(self, clock: int) -> bool:
        del self._at[clock]
        if clock != self.slowest or not self._at:
            return False
        while self.slowest not in self._at:
            self.slowest += 1
        return True
