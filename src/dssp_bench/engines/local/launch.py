"""The driver's side of a local run: it starts the processes, passes on what they say, and leaves nothing behind."""

import logging
import multiprocessing
import multiprocessing.process
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.messages import WorkerId
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.schedule import LearningRate
from dssp_bench.engines.checkpoints import CheckpointPlan, Past
from dssp_bench.engines.engine import Limits, OnWorkerLoss
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.local.channel import Channel, FileChannel, Kind, Message, channel_pair, file_channel_pair
from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.engines.local.memory import SharedTensors, remove_cuda_names
from dssp_bench.engines.local.processes import (
    EvaluatorFactory,
    EvaluatorJob,
    ServerJob,
    WorkerFactory,
    WorkerJob,
    run_evaluator,
    run_server,
    run_worker,
)
from dssp_bench.engines.observer import Recorder
from dssp_bench.engines.options import LocalOptions
from dssp_bench.engines.status import Page, StatusPage, page_size
from dssp_bench.engines.termination import interrupt_deferred

_log = logging.getLogger(__name__)
_SNAPSHOTS = 4
_PATIENCE_S = 5.0
_UNKNOWN_EXIT = 255  # what multiprocessing says if the process that could tell is gone


@dataclass
class LocalJob:
    """One run on this machine; `initial` is weights [P], statistics [S] and the statistics' momentum [S]."""

    paradigm: Paradigm
    layout: ClusterLayout
    limits: Limits
    rates: LearningRate
    optimizer: dict[str, Any]
    initial: Sequence[torch.Tensor]
    worker: WorkerFactory
    evaluator: EvaluatorFactory
    recorder: Callable[[], Recorder]
    evaluate_every: float
    evaluation_device: str
    target_accuracy: float | None
    options: LocalOptions
    on_worker_loss: OnWorkerLoss = "continue"
    checkpoints: CheckpointPlan | None = None
    past: Past | None = None

    def places(self) -> dict[WorkerId, WorkerId]:
        """The place in the layout of each worker that ever took part."""
        places = {worker: worker for worker in range(len(self.layout.workers))}
        for worker, former in self.past.replaced if self.past else ():
            places[worker] = places[former]
        return places


def devices(layout: ClusterLayout) -> list[str]:
    """Where each worker computes: as the layout says, and by turns on all GPUs (or on the CPU) where it says auto."""
    gpus = torch.cuda.device_count()
    by_turns = [f"cuda:{worker % gpus}" if gpus else "cpu" for worker in range(len(layout.workers))]
    chosen = [worker.device for worker in layout.workers]
    return [turn if device == "auto" else device for device, turn in zip(chosen, by_turns, strict=True)]


def server_device(layout: ClusterLayout) -> str:
    """Where the weights live: as the layout says, or where the first worker computes."""
    device = layout.server.device
    return devices(layout)[0] if device == "auto" else device


def transports(layout: ClusterLayout) -> list[str]:
    """How each worker's gradients reach the server: not copied at all, between GPUs, or staged in the host's memory."""
    server = server_device(layout)
    kinds = []
    for device in devices(layout):
        if device == server:
            kinds.append("shared")
        else:
            kinds.append("peer copy" if device != "cpu" and server != "cpu" else "staged in host memory")
    return kinds


def _let_go(process: BaseProcess) -> None:
    """Neither the run's verdict nor the end of this program waits for a process that the kernel cannot end yet."""
    _log.warning("process %s was killed and has not ended, since a system call of it does not return", process.pid)
    children: Any = multiprocessing.process
    children._children.discard(process)


class LocalRun:
    """The processes of one run; a context manager that ends them all, whatever happens."""

    def __init__(self, job: LocalJob) -> None:
        self._job = job
        self._processes: list[BaseProcess] = []
        self._places = job.places()
        self._channel: FileChannel | None = None
        self._page: StatusPage | None = None
        self._last_word = b""
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close(patience_s=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(_PATIENCE_S if kind is None else 0.0)

    def go(self) -> None:
        """Let the run begin as soon as everyone is ready."""
        assert self._channel
        self._channel.send(Kind.GO)

    def stop(self) -> None:
        """Ask the server to end the run at a safe point."""
        assert self._channel
        self._channel.send(Kind.STOP)

    def page(self) -> Page:
        """How the run stands."""
        assert self._page
        return self._page.read()

    def replace(self, former: WorkerId, iterations: int) -> None:
        """Start a worker that takes the place of one that died, and let the server know."""
        assert self._channel
        worker = len(self._places)
        self._places[worker] = self._places[former]
        here, memory, job = self._worker(worker, iterations)
        told = {"former": former, "pid": self._launch_worker(job)}
        files = [here.fileno()] + ([memory.fileno()] if memory else [])
        self._channel.send_files(Kind.REPLACEMENT, told, worker, files)
        here.close()

    def message(self, timeout_s: float) -> Message | None:
        """What the server says within that time; None if it says nothing. Raises EOFError if it is gone.

        Its last word comes in parts, and is given when it is complete.
        """
        assert self._channel
        if not self._selector.select(timeout_s):
            return None
        message = self._channel.receive()
        if message is None:
            raise EOFError
        if message.kind is not Kind.DONE:
            return message
        self._last_word += message.body
        return None if message.number else message._replace(body=self._last_word)

    def close(self, patience_s: float = _PATIENCE_S) -> None:
        """Wait a little for the processes to end by themselves, then end them."""
        if self._channel:
            self._channel.close()
        self._selector.close()
        deadline = time.monotonic() + patience_s
        try:
            for process in self._processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:  # also if somebody has no patience
            with interrupt_deferred():
                self._end_processes()

    def _end_processes(self) -> None:
        for process in self._processes:
            process.kill()
        deadline = time.monotonic() + _PATIENCE_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                _let_go(process)
                continue
            remove_cuda_names(process.pid)
            process.close()
        self._processes = []

    def server_exit(self) -> str:
        """How the server's process ended, in words."""
        server = self._processes[0]
        server.join(_PATIENCE_S)
        code = server.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"the server process was killed by {signal.Signals(-code).name}"
        if code == _UNKNOWN_EXIT:
            return "the process that started the server died, and the server with it"
        return f"the server process ended with exit code {code}"

    # --- starting ---

    def _start(self) -> None:
        job = self._job
        start_fork_server()
        parameters, statistics, momentum = job.initial
        on, where = devices(job.layout), server_device(job.layout)
        sizes = [(parameters.shape, torch.float32), (statistics.shape, torch.float32)]
        status = SharedTensors([((page_size(len(on)),), torch.float64)])
        self._page = StatusPage(status.views()[0])
        self._page.begin()

        made, departed = (job.past.iterations, job.past.departed) if job.past else ({}, set())
        worker_jobs, meetings = [], {}
        for worker in sorted(self._places.keys() - departed):
            here, memory, worker_job = self._worker(worker, made.get(worker, 0))
            meetings[worker] = (here, memory)
            worker_jobs.append(worker_job)
        to_evaluator, evaluator_end = channel_pair()
        handles = where != "cpu" and job.evaluation_device != "cpu"
        snapshots = None if handles else SharedTensors(sizes * _SNAPSHOTS)
        evaluator_job = EvaluatorJob(
            evaluator_end, job.evaluation_device, snapshots, job.evaluator, job.options.threads
        )
        self._channel, driver_end = file_channel_pair()
        self._selector.register(self._channel, selectors.EVENT_READ)
        initial = SharedTensors.copy_of([parameters, statistics, momentum])
        shards = self._shards(initial, snapshots)
        server_job = ServerJob(
            where, job.paradigm, job.layout, job.limits, job.rates, job.optimizer, initial, meetings,
            to_evaluator, snapshots, _SNAPSHOTS, job.evaluate_every, job.target_accuracy,
            driver_end, status, job.recorder, job.options, job.on_worker_loss,
            job.checkpoints, job.past, shards,
        )  # fmt: skip

        self._launch("server", run_server, server_job)
        for worker_job in worker_jobs:
            self._launch_worker(worker_job)
        self._launch("evaluator", run_evaluator, evaluator_job)
        for channel in [here for here, _ in [*meetings.values(), *shards]] + [to_evaluator, evaluator_end, driver_end]:
            channel.close()

    def _worker(self, worker: WorkerId, iterations: int) -> tuple[Channel, SharedTensors | None, WorkerJob]:
        """The server's end of a channel to a worker, the memory they share on the CPU, and the worker's job."""
        job, place = self._job, self._places[worker]
        here, there = channel_pair()
        device = devices(job.layout)[place]
        memory = None
        if self._meets_in_host_memory(device):
            parameters, statistics = self._own_part(job.initial[0]), job.initial[1]
            memory = SharedTensors([(part.shape, torch.float32) for part in (parameters, parameters, statistics)])
        worker_job = WorkerJob(
            worker, place, there, device, memory, job.layout, job.worker, job.options.threads, iterations
        )
        return here, memory, worker_job

    def _own_part(self, weights: Tensor) -> Tensor:
        """The part of the weights that the server has itself."""
        return weights

    def _shards(self, initial: SharedTensors, snapshots: SharedTensors | None) -> list[tuple[Channel, SharedTensors]]:
        """The server's ends of what it has in common with those who have the other parts."""
        return []

    def _meets_in_host_memory(self, device: str) -> bool:
        """Whether server and a worker on this device need it, since not both compute on CUDA."""
        return "cpu" in (device, server_device(self._job.layout))

    def _launch_worker(self, job: WorkerJob) -> int:
        """Start it, and give the number of its process; 0 for one on another machine."""
        pid = self._launch(job.layout.workers[job.place].name, run_worker, job)
        job.channel.close()
        return pid

    def _launch(self, name: str, main: Callable[[Any], None], job: Any) -> int:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=main, args=(job,), name=f"dssp-bench {name}", daemon=True)
        with interrupt_deferred():  # a process that was started but is not in the list would be left behind
            try:
                process.start()
            except (EOFError, BrokenPipeError, ConnectionError) as error:
                raise DsspBenchError("the process that starts all others died; a new run starts it anew") from error
            self._processes.append(process)
        assert process.pid
        return process.pid
