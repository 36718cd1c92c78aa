"""A page of numbers that says how the run stands; the server writes it, whoever watches reads it."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from dssp_bench.core.messages import SECOND, Joined, Left, Outcome, WorkerId
from dssp_bench.engines.observer import Observer


class State(IntEnum):
    """What a worker is doing."""

    STARTING = 0
    COMPUTING = 1
    HELD = 2
    LEFT = 3


class WorkerRow(NamedTuple):
    """One worker on the page."""

    clock: int
    lead: int
    staleness: int | None
    waited_s: float
    state: State


class Page(NamedTuple):
    """The whole page, read at one moment; numbers of one push may be missing in it."""

    elapsed_s: float
    pushes: int
    updates: int
    loss: float | None
    workers: tuple[WorkerRow, ...]


_COMPUTING, _HELD = float(State.COMPUTING), float(State.HELD)
_HEAD = 4  # elapsed, pushes, updates, loss
_COLUMNS = 4  # clock, staleness, waited, state


def page_size(workers: int) -> int:
    """How many float64 numbers a page for so many workers has."""
    return _HEAD + workers * _COLUMNS


class StatusPage(Observer):
    """Keeps a page of float64 numbers (private, or shared between processes) up to date."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self._numbers: NDArray[np.float64] = numbers.numpy()
        page = cast("memoryview[float]", self._numbers.data)  # sets one number faster than the array does
        self._head, self._rows = page[:_HEAD], page[_HEAD:]
        self._row_of: dict[WorkerId, int] = {}  # of those who took another's

    def replace(self, worker: WorkerId, by: WorkerId) -> None:
        """From now on the worker's row is that of another."""
        self._row_of[by] = self._row_of.get(worker, worker)

    def begin(self) -> None:
        """Nothing has happened yet."""
        self._numbers[:] = 0
        self._numbers[_HEAD + 1 :: _COLUMNS] = self._numbers[3] = np.nan

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Enter what one event changed."""
        head, rows = self._head, self._rows
        at, push, updates, released, *_ = outcome
        head[0] = at / SECOND
        if updates:
            head[2] = updates[-1].version
        pusher = None
        if push is not None:
            pusher, clock, staleness, loss = push.worker, push.clock, push.staleness, push.loss
            row = self._row_of.get(pusher, pusher) * _COLUMNS
            head[1] += 1
            rows[row] = clock
            if staleness is not None:
                rows[row + 1] = staleness
            if push.held is None:
                rows[row + 3] = _HELD
            if loss is not None:
                head[3] = loss
        for worker, held, after in released:
            if worker != pusher:  # who goes on at once goes on computing
                row = self._row_of.get(worker, worker) * _COLUMNS
                rows[row] = after.clock
                rows[row + 2] += held / SECOND
                rows[row + 3] = _COMPUTING

    def on_membership(self, event: Left | Joined, pushes: int) -> None:
        """A worker left."""
        if isinstance(event, Left):
            self._rows[self._row_of.get(event.worker, event.worker) * _COLUMNS + 3] = State.LEFT

    def read(self) -> Page:
        """What the page says now."""
        numbers = self._numbers.tolist()
        rows = [numbers[i : i + _COLUMNS] for i in range(_HEAD, len(numbers), _COLUMNS)]
        live = [row[0] for row in rows if State(int(row[3])) in (State.COMPUTING, State.HELD)]
        slowest = min(live, default=0.0)
        return Page(
            numbers[0],
            int(numbers[1]),
            int(numbers[2]),
            _known(numbers[3]),
            tuple(
                WorkerRow(
                    int(clock),
                    int(clock - slowest) if state in (State.COMPUTING, State.HELD) else 0,
                    None if staleness != staleness else int(staleness),
                    waited,
                    State(int(state)),
                )
                for clock, staleness, waited, state in rows
            ),
        )


def _known(number: float) -> float | None:
    return None if number != number else number
