"""What the server, a worker and the evaluator do, each in a process of its own.

What they compute comes in as factories, which the experiment hands down: engines know nothing of networks, data sets or
files.
"""

import ctypes
import itertools
import logging
import os
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, Protocol

import torch
from torch import Tensor

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.errors import DsspBenchError, WorkerFailed
from dssp_bench.core.messages import Evaluation, Joined, Left, Nanoseconds, Outcome, WorkerId
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.schedule import LearningRate
from dssp_bench.core.server import ParameterServer, Slot, UpdateRule, digest
from dssp_bench.core.update import SGD
from dssp_bench.engines.checkpoints import CheckpointPlan, Checkpoints, Past, check
from dssp_bench.engines.engine import Limits, OnWorkerLoss
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.local.channel import Channel, FileChannel, Kind, Message, channel_of, those_with_news
from dssp_bench.engines.local.crew import Copier, Crew, StripedUpdate, threads_for
from dssp_bench.engines.local.engine import LocalEngine, Post
from dssp_bench.engines.local.memory import SharedTensors, cuda_handle, open_cuda_handle
from dssp_bench.engines.local.own_time import OwnTime, ServiceTimes
from dssp_bench.engines.local.shards import Shards, parts
from dssp_bench.engines.observer import Membership, Observer, Recorder, Recording, Snapshots
from dssp_bench.engines.options import LocalOptions
from dssp_bench.engines.replay import ReplayEngine
from dssp_bench.engines.serve import serve
from dssp_bench.engines.status import StatusPage
from dssp_bench.worker import Worker

_log = logging.getLogger(__name__)
_EVALUATION_S = 3600.0  # longer than any, the first of which nobody knows
_PARTS = ("weights", "statistics")
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 1 << 29
_MOST_BYTES = 1 << 25  # that an older glibc takes as a threshold


class WorkerFactory(Protocol):
    """Makes a worker in its own process."""

    def __call__(self, worker: WorkerId, device: str, weights: Tensor, slot: Slot, iterations: int) -> Worker:
        """The worker with this number, warmed up, on weights and a slot that live on its device.

        It goes on after so many iterations.
        """


class EvaluatorFactory(Protocol):
    """Makes an evaluation of flat weights [P] and statistics [S] in the evaluator's process."""

    def __call__(self, device: str, weights: Tensor, statistics: Tensor) -> Callable[[], tuple[float, float]]:
        """A function that gives loss and accuracy of whatever the two tensors hold when it is called."""


class Memory(Protocol):
    """Where weights, gradient and statistics of one worker are."""

    def views(self) -> list[Tensor]:
        """The tensors themselves, in this process."""


@dataclass
class WorkerJob:
    """All that a worker's process needs. On the CPU `memory` holds pulled weights, gradient and statistics.

    `place` is the worker's number in the layout, which differs from its own if it takes the place of one that died.
    """

    worker: WorkerId
    place: WorkerId
    channel: Channel
    device: str
    memory: Memory | None
    layout: ClusterLayout
    factory: WorkerFactory
    threads: int
    iterations: int


@dataclass
class EvaluatorJob:
    """All that the evaluator's process needs; `memory` holds weights and statistics of each snapshot."""

    channel: Channel
    device: str
    memory: SharedTensors | None
    factory: EvaluatorFactory
    threads: int


@dataclass
class ServerJob:
    """All that the server's process needs; `initial` holds weights, statistics and the statistics' momentum."""

    device: str
    paradigm: Paradigm
    layout: ClusterLayout
    limits: Limits
    rates: LearningRate
    optimizer: Mapping[str, Any]
    initial: SharedTensors
    workers: dict[WorkerId, tuple[Channel, SharedTensors | None]]
    evaluator: Channel
    snapshots: SharedTensors | None
    snapshot_count: int
    evaluate_every: float
    target_accuracy: float | None
    driver: FileChannel
    status: SharedTensors
    recorder: Callable[[], Recorder]
    options: LocalOptions
    on_worker_loss: OnWorkerLoss
    checkpoints: CheckpointPlan | None
    past: Past | None
    shards: Sequence[tuple[Channel, SharedTensors]] = ()


# --- a worker ---


def run_worker(job: WorkerJob) -> None:
    """Be a worker's process: compute a gradient at every GO, until the server says stop or is gone."""
    prepare_process(job.threads)
    with failures_told_to(job.channel):
        work(job)


def work(job: WorkerJob) -> None:
    """Compute a gradient at every GO, until the server says stop or is gone. Raises what the network raises."""
    slot_weights, slot = _open_slot(job)
    weights, local_slot = _on_device(slot_weights, slot, job.device)
    own_time = OwnTime()
    began = own_time.now()  # on a busy machine, processes that start wait for each other more than they compute
    worker = job.factory(job.place, job.device, weights, local_slot, job.iterations)
    may_take_s = (own_time.now() - began) / 1e9 * job.layout.largest_slowdown(job.place)
    job.channel.send(Kind.READY, os.getpid(), may_take_s)
    while (message := job.channel.receive()) and message.kind is Kind.GO:
        began, own_began = time.monotonic_ns(), own_time.now()
        if weights is not slot_weights:
            weights.copy_(slot_weights)
        loss = worker.compute_gradient()
        kind = Kind.PUSH if worker.is_finite() else Kind.NOT_FINITE
        if local_slot is not slot:
            _copy_slot(slot, local_slot)
        loss_value = _synchronised(loss)
        slowdown = job.layout.slowdown(job.place, began - message.number)
        compute = round((own_time.now() - own_began) * slowdown)
        _sleep_until(began + compute)  # what it had to wait for a core is part of its sleep
        if not job.channel.send(kind, compute, loss_value):
            return


def _open_slot(job: WorkerJob) -> tuple[Tensor, Slot]:
    if job.memory:
        weights, gradient, statistics = job.memory.views()
        return weights, Slot(gradient, statistics)
    message = job.channel.receive()
    if message is None or message.kind is not Kind.HANDLE:
        raise SystemExit(0)
    weights, gradient, statistics = open_cuda_handle(message.body)
    return weights, Slot(gradient, statistics)


def _on_device(weights: Tensor, slot: Slot, device: str) -> tuple[Tensor, Slot]:
    """The tensors themselves if they are where the worker computes, else copies that are synchronised by hand."""
    if weights.device == torch.device(device):
        return weights, slot
    return weights.to(device), Slot(slot.gradient.to(device), slot.statistics.to(device))


def _copy_slot(target: Slot, source: Slot) -> None:
    target.gradient.copy_(source.gradient)
    target.statistics.copy_(source.statistics)


def _synchronised(loss: Tensor) -> float:
    """The loss, when everything that was started on its device is complete."""
    if loss.is_cuda:
        torch.cuda.synchronize(loss.device)
    return float(loss)


def _sleep_until(moment: Nanoseconds) -> None:
    if (left := moment - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)


# --- the evaluator ---


def run_evaluator(job: EvaluatorJob) -> None:
    """Evaluate each snapshot that the server announces, and say what came out."""
    prepare_process(job.threads)
    with failures_told_to(job.channel):
        tensors = _snapshot_tensors(job)
        evaluations = [_evaluation(job, *tensors[i : i + 2]) for i in range(0, len(tensors), 2)]
        job.channel.send(Kind.READY)
        while (message := job.channel.receive()) and message.kind is Kind.SNAPSHOT:
            loss, accuracy = evaluations[message.number]()
            if not job.channel.send_json(Kind.EVALUATED, {"loss": loss, "accuracy": accuracy}, message.number):
                return


def _snapshot_tensors(job: EvaluatorJob) -> list[Tensor]:
    if job.memory:
        return job.memory.views()
    message = job.channel.receive()
    if message is None or message.kind is not Kind.HANDLE:
        raise SystemExit(0)
    return open_cuda_handle(message.body)


def _evaluation(job: EvaluatorJob, weights: Tensor, statistics: Tensor) -> Callable[[], tuple[float, float]]:
    """What evaluates one snapshot; a snapshot on another device than the evaluator's is copied there each time."""
    if weights.device == torch.device(job.device):
        return job.factory(job.device, weights, statistics)
    here = weights.to(job.device), statistics.to(job.device)
    evaluate = job.factory(job.device, *here)

    def copy_and_evaluate() -> tuple[float, float]:
        for target, source in zip(here, (weights, statistics), strict=True):
            target.copy_(source)
        return evaluate()

    return copy_and_evaluate


# --- the server ---


def run_server(job: ServerJob) -> None:
    """Serve one run, from the workers' first readiness to the last evaluation and the finished records."""
    prepare_process(threads=1)
    logging.getLogger().addHandler(_ToDriver(job.driver))
    with failures_told_to(job.driver):
        _Server(job).run()


class _ToDriver(logging.Handler):
    """Has warnings shown by the driver, which owns the terminal."""

    def __init__(self, driver: Channel) -> None:
        super().__init__(logging.WARNING)
        self._driver = driver

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on; a driver that is too busy to take it does without."""
        if self._driver.has_room():
            self._driver.send_text(Kind.WARNING, record.getMessage())


class _Server:
    """The server's process: the loop's parts, and the conversations with evaluator and driver."""

    def __init__(self, job: ServerJob) -> None:
        self._job = job
        self._recorder = job.recorder()
        self._page = StatusPage(job.status.views()[0])
        self._membership = Membership()
        whole, *rest = job.initial.views()
        self._part = parts(whole.numel(), 1 + len(job.shards))[0]
        weights, self._statistics, momentum = (t.to(job.device, copy=True) for t in (whole[: self._part.stop], *rest))
        self._weights = weights
        self._shards = Shards(job.shards, self._on_message)
        self._places = {worker: worker for worker in range(len(job.layout.workers))}
        self._replaced: dict[WorkerId, WorkerId] = {}
        self._restarts: Counter[WorkerId] = Counter()
        self._awaited: set[WorkerId] = set()  # those for whom somebody will come
        self._lost_here: set[WorkerId] = set()  # those whose memory is still kept
        posts = self._meet_workers()
        self._snapshots = self._meet_evaluator()
        self._free = list(range(job.snapshot_count))
        self._pending: dict[int, tuple[Nanoseconds, int, int]] = {}
        self._parts_to_come: dict[int, itertools.count[int]] = {}
        self._untold: deque[Evaluation] = deque()
        self._times = ServiceTimes()
        threads = threads_for(weights)
        crew = Crew(threads) if threads > 1 else None
        rule = StripedUpdate(crew, weights, self._sgd) if crew else self._sgd(weights)
        self._copier = Copier(weights, crew)
        self._parameters = _TimedServer(
            self._times, self._shards, weights, rule, self._slots, statistics=self._statistics, momentum=momentum
        )
        self._coordinator = Coordinator(job.paradigm, job.layout.present)
        self._interrupted = False
        self._posts = posts
        self._crew = crew
        past = job.past
        computing = self._restore(past) if past else None
        self._engine = LocalEngine(
            posts,
            weights,
            crew=crew,
            times=self._times,
            calendar=_calendar(job.layout, past),
            others={"evaluator": job.evaluator, "driver": job.driver, **self._shards.channels},
            on_message=self._on_message,
            startup_timeout_s=job.options.startup_timeout_s,
            on_loss=self._on_loss,
            shards=self._shards,
            lease_s=job.options.lease_s,
            left_at=past.left_at if past else 0,
            computing=computing,
            missing=past.missing if past and job.on_worker_loss == "restart" else (),
        )

    def run(self) -> None:
        job = self._job
        snapshots = Snapshots(job.evaluate_every, job.rates.batch_size, self._take_snapshot)
        self._checkpoints = checkpoints = Checkpoints(
            job.checkpoints, self._coordinator, self._recorder, self._membership, snapshots, self._state,
            interrupted=lambda: self._interrupted,
        )  # fmt: skip
        if job.past:
            snapshots.restore(job.past.state["snapshots"])
            checkpoints.restore(job.past)
        started = _Started(self._engine, job.driver)
        gone = _Gone(self._coordinator, self._lost_here, self._let_go)
        observers = [Recording(self._recorder), self._page, self._membership, started, checkpoints, snapshots, gone]
        left_at = job.past.left_at if job.past else None
        try:
            duration = serve(
                self._coordinator, self._engine, job.limits, job.rates, self._parameters, observers, left_at
            )
            service_times = self._times.summary(duration - (left_at or 0))
            self._await_evaluations()
            snapshots.on_finish(duration)  # once more, if no copy was free for the last one
            self._await_evaluations()
        finally:
            checkpoints.wait()  # what it is about to write goes with the streams that are put away next
            self._recorder.close()
        report = {
            "membership": self._membership.events,
            "lost_workers": self._lost,
            "replacements": {str(worker): former for worker, former in self._replaced.items()},
            "server": service_times,
            "weights_sha256": digest(self._whole("weights", self._weights)),
        }
        self._shards.stop()
        self._tell_driver(wait=True)
        job.driver.send_json_in_parts(Kind.DONE, report)

    def _sgd(self, weights: Tensor) -> SGD:
        return SGD(weights, **self._job.optimizer)

    # --- checkpoints ---

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a checkpoint has of it: the server, what each worker computes on, and snapshots to be evaluated yet."""
        if self._crew:
            self._crew.drain()
        view = self._coordinator.view
        computing = [worker for worker in view.clocks if worker not in view.held]
        tensors = self._parameters.tensors(view.buffered)
        for worker in computing:
            tensors[f"pulled.{worker}"] = self._posts[worker].weights.to("cpu", copy=True)
        tensors = {name: self._whole(name, tensor) for name, tensor in tensors.items()}
        for number in self._pending:
            for part, tensor in zip(_PARTS, self._snapshots[2 * number : 2 * number + 2], strict=True):
                tensors[f"snapshot.{number}.{part}"] = tensor.to("cpu", copy=True)
        pending = {str(number): snapshot for number, snapshot in self._pending.items()}
        more = {
            "computing": computing,
            "pending": pending,
            "lost": self._lost,
            "replaced": list(self._replaced.items()),
        }
        return more, tensors

    def _restore(self, past: Past) -> dict[WorkerId, Tensor]:
        """Bring everything to where the run was left, by what was recorded and what the checkpoint has.

        Gives the weights that those who were computing had pulled; they are getting ready on theirs now.
        """
        for worker, former in past.replaced:
            self._take_place(worker, former)
        observers = [Recording(self._recorder), self._page]
        serve(self._coordinator, ReplayEngine(past.events()), Limits(), self._job.rates, None, observers)
        check(self._coordinator, past)
        self._recorder.relived()
        self._membership.events += past.state["membership"]
        whole = past.tensors()
        tensors = {name: self._part_of(name, tensor) for name, tensor in whole.items()}
        self._parameters.restore(tensors)
        self._shards.restore()
        for key, (at, version, samples) in past.state["pending"].items():
            number = int(key)
            self._free.remove(number)
            self._pending[number] = at, version, samples
            for part, tensor in zip(_PARTS, self._snapshots[2 * number : 2 * number + 2], strict=True):
                tensor.copy_(whole[f"snapshot.{key}.{part}"])
            self._announce(number)
        return {worker: tensors[f"pulled.{worker}"] for worker in past.state["computing"]}

    def _whole(self, name: str, part: Tensor) -> Tensor:
        """A tensor with the parts that the shards have of it, if it is one of which they have any."""
        if not self._shards or name.endswith("statistics"):
            return part
        return torch.cat([part.to("cpu"), *self._shards.get(name)])

    def _part_of(self, name: str, tensor: Tensor) -> Tensor:
        """The server's own part of a tensor; the shards are given theirs."""
        if not self._shards or name.endswith("statistics") or name.startswith("snapshot."):
            return tensor
        if not tensor.numel():
            return tensor  # there is no momentum
        mine, *theirs = (tensor[part.start : part.stop] for part in parts(tensor.numel(), 1 + len(self._job.shards)))
        self._shards.put(name, theirs)
        return mine

    @property
    def _lost(self) -> list[WorkerId]:
        """Who has died, also before the run was left."""
        before = self._job.past.state["lost"] if self._job.past else []
        return [*before, *self._engine.lost]

    # --- who dies, and who takes whose place ---

    def _on_loss(self, worker: WorkerId) -> bool:
        """After a death the run ends, or goes on; True if a replacement will come."""
        job, place = self._job, self._places[worker]
        self._lost_here.add(worker)
        if job.on_worker_loss == "stop":
            raise WorkerFailed(f"worker {worker} died; on_worker_loss=continue lets the others go on")
        if job.on_worker_loss == "continue":
            _log.warning("worker %d is lost; the others go on", worker)
            return False
        if self._restarts[place] >= job.options.restarts:
            _log.warning("worker %d is lost, and was replaced %d times: no more", worker, self._restarts[place])
            return False
        _log.warning("worker %d is lost; another takes its place", worker)
        return self._ask_for_replacement(worker)

    def _ask_for_replacement(self, worker: WorkerId) -> bool:
        self._awaited.add(worker)
        position = self._checkpoints.position(worker)
        return self._job.driver.send_json(Kind.LOST, {"iterations": position}, worker)

    def _on_return(self, place: WorkerId) -> None:
        """Somebody has come for a place; it is needed if its latest worker was lost and nobody comes in its stead."""
        latest = max(worker for worker, its_place in self._places.items() if its_place == place)
        if latest in self._engine.lost and latest not in self._awaited:
            self._engine.expect()
            self._ask_for_replacement(latest)

    def _on_replacement(self, worker: WorkerId, former: WorkerId, pid: int) -> None:
        channel, *memory = self._job.driver.files
        self._take_place(worker, former)
        self._checkpoints.take_place(worker, former)
        self._engine.admit(worker, self._meet(worker, channel_of(channel), self._memory(memory)), former, pid)

    def _take_place(self, worker: WorkerId, former: WorkerId) -> None:
        self._places[worker] = place = self._places[former]
        self._restarts[place] += 1
        self._replaced[worker] = former
        self._page.replace(former, worker)

    def _memory(self, files: Sequence[int]) -> SharedTensors | None:
        shapes = [(tensor.shape, torch.float32) for tensor in (self._weights, self._weights, self._statistics)]
        return SharedTensors(shapes, files[0]) if files else None

    # --- who is there ---

    def _meet_workers(self) -> dict[WorkerId, Post]:
        self._slots: dict[WorkerId, Slot] = {}
        return {worker: self._meet(worker, *parts) for worker, parts in self._job.workers.items()}

    def _meet(self, worker: WorkerId, channel: Channel, memory: SharedTensors | None) -> Post:
        weights, gradient, statistics = memory.views() if memory else self._hand_over(channel)
        self._slots[worker] = Slot(gradient, statistics)
        self._shards.expect(worker)
        return Post(channel, weights)

    def _let_go(self, worker: WorkerId) -> None:
        """Nobody will look at what is in this worker's memory any more."""
        self._slots.pop(worker, None)
        self._job.workers.pop(worker, None)

    def _hand_over(self, channel: Channel) -> list[Tensor]:
        """Room for one worker in the server's own CUDA memory; the worker gets handles."""
        room = [torch.zeros_like(t) for t in (self._weights, self._weights, self._statistics)]
        channel.send(Kind.HANDLE, body=cuda_handle(room))
        return room

    def _meet_evaluator(self) -> list[Tensor]:
        if self._job.snapshots:
            return self._job.snapshots.views()
        pair = (self._weights, self._statistics)
        room = [torch.zeros_like(t) for _ in range(self._job.snapshot_count) for t in pair]
        self._job.evaluator.send(Kind.HANDLE, body=cuda_handle(room))
        return room

    # --- snapshots ---

    def _take_snapshot(self, at: Nanoseconds, version: int, samples: int) -> bool:
        """Copy the weights for the evaluator; False if all copies are still being evaluated."""
        if not self._free:
            return False
        number = self._free.pop()
        self._pending[number] = (at, version, samples)
        self._snapshots[2 * number + 1].copy_(self._statistics)
        self._parts_to_come[number] = itertools.count(1)
        self._shards.snapshot(number)
        self._copier.copy([self._snapshots[2 * number][: self._part.stop]], lambda: self._copied(number))
        return True

    def _copied(self, number: int) -> None:
        """One part of a snapshot is complete; called by whatever thread copied it."""
        if next(self._parts_to_come[number]) == 1 + len(self._job.shards):
            self._announce(number)

    def _announce(self, number: int) -> None:
        if self._weights.is_cuda:
            torch.cuda.synchronize(self._weights.device)
        self._job.evaluator.send(Kind.SNAPSHOT, number)

    def _await_evaluations(self) -> None:
        """There is time, as the run is over; but not for an evaluator that hangs or died, nor if the user has none."""
        if self._crew:
            self._crew.drain()  # which raises what its last task did
        self._shards.drain()
        evaluator, driver = self._job.evaluator, self._job.driver
        while self._pending:
            speaking = those_with_news((driver, evaluator), _EVALUATION_S)
            if not speaking:
                self._do_without_evaluations("the evaluator has said nothing for an hour")
            elif driver in speaking:
                self._hear_driver_at_the_end(driver.receive())
            elif message := evaluator.receive():
                self._on_message("evaluator", message)
            else:
                self._do_without_evaluations("the evaluator died")

    def _hear_driver_at_the_end(self, message: Message | None) -> None:
        """It may still ask to stop; for a replacement it is too late."""
        if message is None or message.kind is Kind.STOP:
            self._on_message("driver", message)
            self._do_without_evaluations("the run was stopped after its last push")

    def _do_without_evaluations(self, reason: str) -> None:
        _log.warning("%s; %d evaluations are missing", reason, len(self._pending))
        self._pending.clear()
        self._free.clear()  # so there will be no more

    def _on_message(self, name: str, message: Message | None) -> None:
        if name in self._shards.channels:
            self._on_shard(name, message)
        elif name == "driver":
            if message is None:
                os._exit(1)  # the driver is gone, and its run may be gone on with by now
            if message.kind is Kind.STOP:
                self._interrupted = True
                self._engine.interrupt()
            elif message.kind is Kind.REPLACEMENT:
                self._on_replacement(message.number, **message.json())
            elif message.kind is Kind.RETURN:
                self._on_return(message.number)
        elif message is None:
            raise DsspBenchError("the evaluator died")
        elif message.kind is Kind.FAILED:
            raise DsspBenchError(f"the evaluator failed:\n{message.text()}")
        elif message.kind is Kind.EVALUATED:
            self._on_evaluated(message.number, **message.json())

    def _on_shard(self, name: str, message: Message | None) -> None:
        if message is None:
            raise DsspBenchError(f"server {name} died")
        if message.kind is Kind.FAILED:
            raise DsspBenchError(f"server {name} failed:\n{message.text()}")
        if message.kind is Kind.LOST:
            self._engine.hang_up(message.number)
        elif message.kind is Kind.SNAPSHOT:
            self._copied(message.number)

    def _on_evaluated(self, number: int, loss: float, accuracy: float) -> None:
        at, version, samples = self._pending.pop(number)
        self._free.append(number)
        evaluation = Evaluation(at, version, samples, samples / self._job.rates.examples, loss, accuracy)
        self._recorder.on_evaluation(evaluation)
        self._untold.append(evaluation)
        self._tell_driver(wait=False)
        target = self._job.target_accuracy
        if target is not None and accuracy >= target:
            self._engine.interrupt()

    def _tell_driver(self, wait: bool) -> None:
        """Pass on evaluations; a driver that is busy with its watchers hears of them later, and nobody waits for it."""
        while self._untold and (wait or self._job.driver.has_room()):
            self._job.driver.send_json(Kind.EVALUATED, self._untold.popleft())


class _TimedServer(ParameterServer):
    """A parameter server that tells how long its updates take, and lets its shards make theirs."""

    def __init__(
        self,
        times: ServiceTimes,
        shards: Shards,
        weights: Tensor,
        rule: UpdateRule,
        slots: dict[WorkerId, Slot],
        **rest: Tensor,
    ) -> None:
        super().__init__(weights, rule, slots, **rest)
        self._times = times
        self._shards = shards

    def carry_out(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        self._times.lap("receive")
        if self._shards:
            self._shards.update(outcome, learning_rates)
        super().carry_out(outcome, learning_rates)
        self._times.lap("update", len(outcome.updates))


class _Gone(Observer):
    """Lets the memory of those who died go, as soon as no gradient of theirs waits for an update."""

    def __init__(self, coordinator: Coordinator, lost: set[WorkerId], let_go: Callable[[WorkerId], object]) -> None:
        self._coordinator = coordinator
        self._lost = lost
        self._let_go = let_go

    def on_rest(self, at: Nanoseconds) -> None:
        """Between two events nothing but what is buffered refers to a gradient."""
        if self._lost:
            waiting = {message.worker for message in self._coordinator.view.buffered}
            for worker in self._lost - waiting:
                self._lost.remove(worker)
                self._let_go(worker)


class _Started(Observer):
    """Tells the driver when the run's time began."""

    def __init__(self, engine: LocalEngine, driver: Channel) -> None:
        self._engine = engine
        self._driver = driver
        self._told = False

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """The first outcome is the start; afterwards there is nothing to tell."""
        if not self._told:
            self._told = self._driver.send(Kind.STARTED, self._engine.began_at)


def _calendar(layout: ClusterLayout, past: Past | None) -> list[Joined | Left]:
    """Who joins and who leaves when, except those who have joined; of those who have left nobody asks."""
    joins = [Joined(event.worker, round(event.at_s * 1e9)) for event in layout.events if event.join]
    leaves = [Left(event.worker, round(event.at_s * 1e9)) for event in layout.events if event.leave]
    if past:
        there = {int(worker) for worker in past.state["clocks"]}
        for worker, former in past.replaced:
            joins = [event._replace(worker=worker) if event.worker == former else event for event in joins]
            leaves = [event._replace(worker=worker) if event.worker == former else event for event in leaves]
            joins += [] if any(event.worker == worker for event in joins) else [Joined(worker, past.left_at)]
        joins = [event for event in joins if event.worker not in there]
    return [*joins, *leaves]


# --- every process ---


def prepare_process(threads: int) -> None:
    """Die with the parent, leave Ctrl-C to the driver, and compute with no more threads than asked for."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent or parent == 1:
            os._exit(1)  # it has died already, so no signal will come
        _let_the_fork_server_go()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tune_process(threads)


def tune_process(threads: int) -> None:
    """Compute with so many threads, and without what the system does to save power or memory."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_TIMERSLACK, 1)  # a slowdown's sleep ends on time, not up to 50 us later
        _keep_freed_memory(libc)
    torch.set_num_threads(threads)


def _let_the_fork_server_go() -> None:
    """It ends when nobody is left who could ask it for a process; that shall be the driver alone, and we end with it.

    Else it would outlive a killed driver for as long as one of its children lives, a suspended one for ever.
    """
    server: Any = forkserver._forkserver
    if getattr(server, "_forkserver_alive_fd", None) is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def _keep_freed_memory(libc: ctypes.CDLL) -> None:
    """What an iteration frees stays with the process for the next one; else the system clears every page again."""
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) or libc.mallopt(_M_MMAP_THRESHOLD, _MOST_BYTES)


class failures_told_to:  # noqa: N801  (reads as a statement)
    """Sends the traceback of an exception to the peer, and then ends the process quietly."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, SystemExit):
            return
        text = str(error) if isinstance(error, DsspBenchError) else "".join(traceback.format_exception(error))
        self._channel.send_text(Kind.FAILED, text)
        os._exit(1)
