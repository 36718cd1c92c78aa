"""Contenders for round trips: the local engine, and the bounds that memory sets.

The engine runs as in `dssp-bench run`, with status page and records; its workers compute nothing, as their constant
gradient lies in their slot. `limit` is a process that copies a gradient in, makes torch's fused update and copies the
weights out, and as many of them side by side as there are workers; `memcpy` is the two copies alone. The engine can
exceed `limit`: it copies nothing on a push, so it moves 7 vectors where `limit` moves 9, and with more than one thread.
"""

import multiprocessing
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dssp_bench.core.errors import WorkerFailed
from dssp_bench.core.messages import WorkerId
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.schedule import LearningRate
from dssp_bench.core.server import Slot
from dssp_bench.engines.cluster.client import Assignment, join
from dssp_bench.engines.cluster.launch import ClusterRun, Door, Nobody
from dssp_bench.engines.cluster.wire import KEY_BYTES
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.layout import ClusterLayout, WorkerLayout
from dssp_bench.engines.local.launch import LocalJob, LocalRun
from dssp_bench.engines.local.processes import prepare_process
from dssp_bench.engines.options import LocalOptions
from dssp_bench.experiment.round_trips import (
    GRADIENT,
    LEARNING_RATE,
    LOOK_EVERY_S,
    MOMENTUM,
    Case,
    ContenderFailed,
    Processes,
    Weights,
    until_time_is_up,
)
from dssp_bench.experiment.unwatched import Ended, carried_out, without_records
from dssp_bench.records.writer import RecordWriter
from dssp_bench.worker import Worker

_ENDS_WITHIN_S = 60.0
_LOOPBACK = "127.0.0.1"


# --- the bounds ---


def limit(case: Case) -> Generator[Processes, None, list[Weights]]:
    """Copy in, update, copy out inside one process, and so many such processes side by side."""
    return in_processes(partial(_alone, update=True), case, servers=0)


def memcpy(case: Case) -> Generator[Processes, None, list[Weights]]:
    """The two copies alone."""
    return in_processes(partial(_alone, update=False), case, servers=0)


def _alone(case: Case, worker: int, together: Any, *, update: bool) -> Weights:
    weights, slot, pulled = (torch.zeros(case.parameters, device=case.device) for _ in range(3))
    gradient = torch.full_like(weights, GRADIENT)
    change = update_of(weights)

    def round_trip() -> None:
        slot.copy_(gradient)
        if update:
            change(slot)
        pulled.copy_(weights)
        synchronise(case.device)

    together.wait()
    made = until_time_is_up(case, worker, round_trip)
    return extremes_after(made if update else 0, weights)


def update_of(weights: Tensor) -> Callable[[Tensor], None]:
    """The fastest update that torch has: its fused kernel on one flat tensor, without an optimizer around it."""
    momentum, first = torch.zeros_like(weights), True

    def update(gradient: Tensor) -> None:
        nonlocal first
        torch._fused_sgd_(
            [weights], [gradient], [momentum], lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.0, dampening=0.0,
            nesterov=False, maximize=False, is_first_step=first,
        )  # fmt: skip
        first = False

    return update


def synchronise(device: str) -> None:
    """Wait until all that was started on a CUDA device is done; a CPU is never behind."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def extremes_after(updates: int, weights: Tensor) -> Weights:
    """What is to be told of the weights at the end."""
    return Weights(weights.min().item(), weights.max().item(), updates)


# --- contenders that are functions, each in a process of its own ---


def in_processes(
    main: Callable[[Case, int, Any], Weights | None], case: Case, *, servers: int
) -> Generator[Processes, None, list[Weights]]:
    """Let so many servers and the workers do `main`, with the case, a number from 0 (servers first) and a barrier.

    Those that return weights say how it ended. Raises ContenderFailed.
    """
    context = multiprocessing.get_context("forkserver")
    count = servers + case.workers
    together = context.Barrier(count)
    results, theirs = context.Pipe(duplex=False)
    processes = [context.Process(target=_process, args=(main, case, i, together, theirs)) for i in range(count)]
    found: list[Weights] = []
    try:
        for process in processes:
            process.start()
        theirs.close()
        numbers = [process.pid or 0 for process in processes]
        while len(found) < (servers or count):
            if results.poll(LOOK_EVERY_S):
                found.append(_told(results))
            yield Processes(numbers[:servers], numbers[servers:])
        for process in processes:
            process.join(_ENDS_WITHIN_S)
    finally:
        for process in processes:
            if process.pid:
                process.kill()
                process.join()
    return found


def _process(main: Callable[[Case, int, Any], Weights | None], case: Case, number: int, together: Any, to: Any) -> None:
    prepare_process(threads=1)
    try:
        told: Weights | str | None = main(case, number, together)
    except Exception as error:
        together.abort()  # or the others would wait for this one
        name = "" if isinstance(error, ContenderFailed) else f"{type(error).__name__}: "
        told = f"{name}{error}"
    if told:
        with suppress(BrokenPipeError):  # whoever asked is gone
            to.send(told)


def _told(results: Connection) -> Weights:
    try:
        told = results.recv()
    except EOFError:
        raise ContenderFailed("its processes died") from None
    if isinstance(told, str):
        raise ContenderFailed(told)
    return Weights(*told)


# --- the local engine ---


@dataclass(frozen=True)
class ThroughServer:
    """The local engine; `check_pulls` makes each worker look at all that it pulls, `idle_s` makes it wait that long."""

    paradigm: Paradigm
    options: LocalOptions = field(default_factory=LocalOptions)
    records: bool = True
    check_pulls: bool = False
    idle_s: float = 0.0

    def __call__(self, case: Case) -> Generator[Processes, None, list[Weights]]:
        """Run it until the time is over. Raises DsspBenchError."""
        with tempfile.TemporaryDirectory(prefix="round-trips-") as folder:
            job = self._job(case, Path(folder) / "run")
            run = self._run(case, job if self.records else without_records(job))
            ended = yield from _by_role(carried_out(run, LOOK_EVERY_S), self.helpers)
        final = ended.evaluation
        return [Weights(final.loss, final.accuracy, final.version)]

    @property
    def helpers(self) -> list[int]:
        """Processes that serve, besides the server's."""
        return []

    def _run(self, case: Case, job: LocalJob) -> LocalRun:
        return LocalRun(job)

    def _idle_workers(self, case: Case) -> "IdleWorkers":
        return IdleWorkers(case, self.check_pulls, self.idle_s)

    def _job(self, case: Case, folder: Path) -> LocalJob:
        nothing = torch.empty(0)
        return LocalJob(
            paradigm=self.paradigm,
            layout=ClusterLayout(workers=(WorkerLayout(device=case.device),), count=case.workers),
            limits=Limits(until=round(case.seconds * 1e9)),
            rates=LearningRate(LEARNING_RATE, (), 1.0, "samples", "none", case.workers, batch_size=1, examples=1),
            optimizer={"momentum": MOMENTUM},
            initial=[torch.zeros(case.parameters), nothing, nothing],
            worker=self._idle_workers(case),
            evaluator=extremes,
            recorder=partial(RecordWriter, folder),
            evaluate_every=inf,
            evaluation_device="cpu",
            target_accuracy=None,
            options=self.options,
        )


@dataclass(frozen=True)
class OverNetwork(ThroughServer):
    """The cluster engine: workers are processes of this machine, and come in over TCP as if they were elsewhere."""

    shards: int = 1

    @property
    def helpers(self) -> list[int]:
        """The driver, where the couriers are."""
        return [os.getpid()]

    def _run(self, case: Case, job: LocalJob) -> LocalRun:
        door = Door(_LOOPBACK, 0, secrets.token_bytes(KEY_BYTES), {}, reconnect_s=2.0, shards=self.shards)
        assignment = Assignment(self._idle_workers(case), job.layout, case.device, threads=1)
        return ClusterRun(job, door, lambda port, _dead: _Neighbours((_LOOPBACK, port), door.key, assignment))


class _Neighbours(Nobody):
    """Starts workers as processes of this machine."""

    def __init__(self, address: tuple[str, int], key: bytes, assignment: Assignment) -> None:
        self._arguments = address, key, assignment
        self._processes: list[BaseProcess] = []

    def start(self, places: Sequence[WorkerId]) -> None:
        """One process for each."""
        context = multiprocessing.get_context("forkserver")
        for place in places:
            process = context.Process(target=_neighbour, args=(place, *self._arguments), name=f"neighbour {place}")
            process.start()
            self._processes.append(process)

    def close(self) -> None:
        """They go when the run is over; those that do not are ended."""
        for process in self._processes:
            process.join(_ENDS_WITHIN_S / 10)
            process.kill()
            process.join()


def _neighbour(place: WorkerId, address: tuple[str, int], key: bytes, assignment: Assignment) -> None:
    prepare_process(threads=1)
    with suppress(WorkerFailed):  # the run says why
        join(address, key, place, lambda _welcome: assignment, _ENDS_WITHIN_S)


def _by_role(
    running: Generator[dict[str, int], None, Ended], helpers: Sequence[int]
) -> Generator[Processes, None, Ended]:
    with closing(running):
        while True:
            try:
                processes = {name.removeprefix("dssp-bench "): number for name, number in next(running).items()}
            except StopIteration as end:
                ended: Ended = end.value
                return ended
            serving = [number for name, number in processes.items() if name.startswith(("server", "shard"))]
            workers = [number for name, number in processes.items() if name.startswith(("worker", "neighbour"))]
            yield Processes([*serving, *helpers], workers)


def extremes(device: str, weights: Tensor, statistics: Tensor) -> Callable[[], tuple[float, float]]:
    """In the place of loss and accuracy: the smallest and the largest weight."""
    return lambda: (weights.min().item(), weights.max().item())


@dataclass(frozen=True)
class IdleWorkers:
    """Makes workers that have nothing to compute."""

    case: Case
    check_pulls: bool
    idle_s: float

    def __call__(self, worker: int, device: str, weights: Tensor, slot: Slot, iterations: int) -> "IdleWorker":
        """The worker with this number; its gradient is in its slot from now on."""
        slot.gradient.fill_(GRADIENT)
        synchronise(device)
        return IdleWorker(self.case.moments(worker), weights, self.check_pulls, self.idle_s)


class IdleWorker(Worker):
    """Its gradient is there already; it only notes when it was asked for it."""

    def __init__(self, moments: NDArray[np.int64], weights: Tensor, check_pulls: bool, idle_s: float) -> None:
        self._moments = moments
        self._made = 0
        self._no_loss = torch.tensor(0.0)
        self._weights = weights
        self._check_pulls = check_pulls
        self._idle_s = idle_s

    def is_finite(self) -> bool:
        """The constant gradient is."""
        return True

    def compute_gradient(self) -> Tensor:
        """Note the moment."""
        self._moments[self._made] = time.monotonic_ns()
        self._made += 1
        if self._check_pulls:
            smallest, largest = torch.aminmax(self._weights)
            if smallest != largest:
                raise ContenderFailed("a pull mixed two versions of the weights")
        if self._idle_s:
            time.sleep(self._idle_s)
        return self._no_loss
