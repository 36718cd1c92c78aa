"""Threads that share the work on flat tensors; torch lets go of the interpreter while it computes.

A server that updates and copies with one thread reaches what one core gets from memory. Whole versions stay whole: the
server goes on when every part is done.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from dssp_bench.core.messages import WorkerId
from dssp_bench.core.server import UpdateRule
from dssp_bench.core.update import Weighted

_ELEMENTS_EACH = 1 << 19  # with fewer, waking a thread takes longer than what it saves
_MOST = 4
_ALIGNMENT = 16  # elements: parts begin at a cache line, and no part but the last has an odd end


def crew_for(tensor: Tensor) -> "Crew":
    """As many threads as pay for a tensor of this size on this machine; a CUDA device needs no second one."""
    if tensor.is_cuda:
        return Crew(1)
    return Crew(max(1, min(len(os.sched_getaffinity(0)), _MOST, tensor.numel() // _ELEMENTS_EACH)))


class Crew:
    """A few threads, the caller's among them; the others sleep until there is something to do, and never spin."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._work: Callable[[int], None] = _nothing
        self._error: BaseException | None = None
        self._begin = [_taken() for _ in range(1, size)]
        self._end = [_taken() for _ in range(1, size)]
        for number in range(1, size):
            threading.Thread(target=self._serve, args=(number,), daemon=True).start()

    def each(self, work: Callable[[int], None]) -> None:
        """Call `work` with 0 to `size` - 1, each number in its own thread, and wait for all. Raises what one raised."""
        self._work, self._error = work, None
        for lock in self._begin:
            lock.release()
        try:
            work(0)
        finally:
            for lock in self._end:
                lock.acquire()
        if self._error is not None:
            raise self._error

    def parts(self, tensor: Tensor) -> list[Tensor]:
        """Views of a flat tensor, one for each thread."""
        length = -(-tensor.numel() // (self.size * _ALIGNMENT)) * _ALIGNMENT
        return [tensor[number * length : (number + 1) * length] for number in range(self.size)]

    def _serve(self, number: int) -> None:
        begin, end = self._begin[number - 1], self._end[number - 1]
        while begin.acquire():
            try:
                self._work(number)
            except BaseException as error:  # the caller raises it
                self._error = error
            end.release()


def update_by(crew: Crew, weights: Tensor, rule: Callable[[Tensor], UpdateRule]) -> UpdateRule:
    """The rule for all weights, or one for each thread's part of them."""
    return rule(weights) if crew.size == 1 else SharedUpdate(crew, weights, rule)


class SharedUpdate:
    """An update rule whose threads each change their own part of the weights, which no element's result depends on."""

    def __init__(self, crew: Crew, weights: Tensor, rule: Callable[[Tensor], UpdateRule]) -> None:
        self._crew = crew
        self._rules = [rule(part) for part in crew.parts(weights)]

    def apply(self, gradients: Sequence[Weighted], learning_rate: float) -> None:
        """Change the weights in place by one or more flat gradients, each with its weight."""
        parts = [(self._crew.parts(gradient), weight) for gradient, weight in gradients]
        self._crew.each(
            lambda number: self._rules[number].apply([(mine[number], weight) for mine, weight in parts], learning_rate)
        )


class SharedCopies:
    """Copies of one tensor for several workers, each thread its own part of it for all of them."""

    def __init__(self, crew: Crew, source: Tensor, targets: Mapping[WorkerId, Tensor]) -> None:
        self._crew = crew
        self._source = crew.parts(source)
        self._targets = {worker: crew.parts(target) for worker, target in targets.items()}

    def make(self, workers: Sequence[WorkerId]) -> None:
        """Copy for these workers."""
        if self._crew.size == 1:
            self._copy(0, workers)
        else:
            self._crew.each(lambda number: self._copy(number, workers))

    def _copy(self, number: int, workers: Sequence[WorkerId]) -> None:
        for worker in workers:
            self._targets[worker][number].copy_(self._source[number])


def _taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _nothing(_number: int) -> None:
    pass
