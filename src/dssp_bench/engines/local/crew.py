"""Threads that share the work on flat tensors; torch lets go of the interpreter while it computes.

A server that updates and copies with one thread reaches what one core gets from memory. Here each thread owns one
stripe of all tensors and does what is posted in the order in which it was posted. So every pull is one whole version,
although no thread waits for another: the server's own, which has the first stripe, goes on to the next push.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple

from torch import Tensor

from dssp_bench.core.server import UpdateRule
from dssp_bench.core.update import Weighted

_ELEMENTS_EACH = 1 << 19  # with fewer, waking a thread takes longer than what it saves
_MOST = 4
_ALIGNMENT = 16  # elements: stripes begin at a cache line, and none but the last has an odd end


def threads_for(tensor: Tensor) -> int:
    """How many threads pay for a tensor of this size on this machine; 1 means the server's own, as on CUDA."""
    if tensor.is_cuda:
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), _MOST, tensor.numel() // _ELEMENTS_EACH))


class _Task(NamedTuple):
    """What each thread does with its stripe, what the last to finish does then, and who has finished."""

    work: Callable[[int], None]
    then: Callable[[], None]
    finished: "itertools.count[int]"


class Crew:
    """A few threads, the caller's among them; the others sleep until something is posted, and never spin."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._error: BaseException | None = None
        self._queues: list[SimpleQueue[_Task]] = [SimpleQueue() for _ in range(1, size)]
        for number, queue in enumerate(self._queues, start=1):
            threading.Thread(target=self._serve, args=(number, queue), daemon=True).start()

    def post(self, work: Callable[[int], None], then: Callable[[], None]) -> None:
        """Have `work` called with 0 to `size` - 1, each number in its own thread, and `then` by the last to finish.

        Returns when the caller's part, 0, is done. Raises what that or an earlier task raised.
        """
        self.check()
        task = _Task(work, then, itertools.count(1))
        for queue in self._queues:
            queue.put(task)
        self._carry_out(task, 0)
        self.check()

    def drain(self) -> None:
        """Wait until all that was posted is done. Raises what one of the tasks raised."""
        done = threading.Lock()
        done.acquire()
        self.post(_nothing, done.release)
        done.acquire()
        self.check()

    def stripes(self, tensor: Tensor) -> list[Tensor]:
        """Views of a flat tensor, one for each thread."""
        length = -(-tensor.numel() // (self.size * _ALIGNMENT)) * _ALIGNMENT
        return [tensor[number * length : (number + 1) * length] for number in range(self.size)]

    def check(self) -> None:
        """Raise what one of the tasks raised, if one did."""
        if self._error is not None:
            raise self._error

    def _serve(self, number: int, queue: "SimpleQueue[_Task]") -> None:
        while True:
            self._carry_out(queue.get(), number)

    def _carry_out(self, task: _Task, number: int) -> None:
        with self._keeping_error():
            task.work(number)
        if next(task.finished) == self.size:
            with self._keeping_error():
                task.then()

    @contextmanager
    def _keeping_error(self) -> Iterator[None]:
        """An error is raised by the caller's thread, which can tell somebody; until then all goes on."""
        try:
            yield
        except BaseException as error:
            self._error = self._error or error


class StripedUpdate:
    """An update rule whose threads each change their own stripe of the weights.

    The result is the same to the bit, since no element's new value depends on another's.
    """

    def __init__(self, crew: Crew, weights: Tensor, rule: Callable[[Tensor], UpdateRule]) -> None:
        self._crew = crew
        self._rules = [rule(stripe) for stripe in crew.stripes(weights)]

    def apply(self, gradients: Sequence[Weighted], learning_rate: float) -> None:
        """Have the weights changed in place by one or more flat gradients, which nobody may change before that."""
        stripes = [(self._crew.stripes(gradient), weight) for gradient, weight in gradients]

        def work(number: int) -> None:
            self._rules[number].apply([(mine[number], weight) for mine, weight in stripes], learning_rate)

        self._crew.post(work, _nothing)

    def state(self) -> list[Tensor]:
        """What the rules of all stripes remember, one stripe after the other."""
        return [tensor for rule in self._rules for tensor in rule.state()]


class Copier:
    """Makes copies of one tensor, at once or by a crew after all that was posted to it before."""

    def __init__(self, source: Tensor, crew: Crew | None = None) -> None:
        self._source = source
        self._crew = crew
        self._stripes = crew.stripes(source) if crew else []

    def copy(self, targets: Sequence[Tensor], then: Callable[[], None]) -> None:
        """Fill the targets with what the source holds now, and call `then` when that is done."""
        if self._crew is None:
            for target in targets:
                target.copy_(self._source)
            then()
            return
        stripes = [self._crew.stripes(target) for target in targets]

        def work(number: int) -> None:
            for mine in stripes:
                mine[number].copy_(self._stripes[number])

        self._crew.post(work, then)


def _nothing(_number: int = 0) -> None:
    pass
