"""A run in virtual time, in this process, with or without gradients."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Evaluation, Nanoseconds, Outcome, Push, WorkerId
from dssp_bench.core.server import ParameterServer, Slot, digest
from dssp_bench.core.update import SGD
from dssp_bench.engines.checkpoints import CheckpointPlan, Checkpoints, Past
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.observer import Membership, Observer, Recording, Snapshots
from dssp_bench.engines.options import SimulatedOptions
from dssp_bench.engines.serve import serve
from dssp_bench.engines.simulated import Compute, SimulatedEngine
from dssp_bench.engines.status import StatusPage, page_size
from dssp_bench.engines.termination import stopped_by_interrupt
from dssp_bench.experiment.parts import initial_state, make_evaluation, make_worker
from dssp_bench.experiment.plan import Plan
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.watchers import Watchers
from dssp_bench.records.writer import RecordWriter
from dssp_bench.tasks.task import Data, Task

_PAGES_PER_S = 4.0
_PAGE_SHARE = 20.0


def run_in_virtual_time(
    spec: RunSpec,
    plan: Plan,
    data: Data | None,
    folder: Path,
    watchers: Watchers,
    device: str,
    checkpoints: CheckpointPlan | None = None,
    past: Past | None = None,
) -> dict[str, Any]:
    """Run to the end; returns what only the loop knows. Without data only the timing runs.

    A run that goes on begins once more, without computing, until it has come to where it was left: virtual time is
    the same every time. Ctrl-C ends it at a safe point.
    """
    assert isinstance(spec.engine, SimulatedOptions)
    torch.set_num_threads(spec.engine.threads)
    recorder = RecordWriter(folder, go_on_at=past.positions if past else None)
    membership = Membership()
    coordinator = Coordinator(spec.paradigm, spec.cluster.present)
    observers: list[Observer] = [Recording(recorder), membership]
    if watchers:
        page = StatusPage(torch.zeros(page_size(len(spec.cluster.workers)), dtype=torch.float64))
        page.begin()
        observers += [page, _Ticker(page, watchers)]
    training = _Training(spec, data, device, past) if data else None
    limits = plan.limits
    if training:

        def take(at: Nanoseconds, version: int, samples: int) -> bool:
            if training.reliving:
                return True
            loss, accuracy = training.evaluate()
            evaluation = Evaluation(at, version, samples, samples / plan.rates.examples, loss, accuracy)
            recorder.on_evaluation(evaluation)
            watchers.evaluation(evaluation)
            target = spec.stop.target_accuracy
            if target is not None and accuracy >= target:
                limits.stop_requested = True
            return True

        snapshots = Snapshots(plan.evaluate_every, spec.batch_size, take)
        saver = Checkpoints(
            checkpoints, coordinator, recorder, membership, snapshots, lambda: training.state(coordinator),
            interrupted=lambda: stopped.interrupted,
        )  # fmt: skip
        if past:
            saver.relive(past, recorder.relived, training.arrive)
        observers += [saver, snapshots]
    engine = _engine(spec.cluster, plan, spec.seed, training.compute if training else None)
    try:
        with stopped_by_interrupt(limits) as stopped:
            serve(coordinator, engine, limits, plan.rates, training.server if training else None, observers)
    finally:
        if training:
            saver.wait()  # what it is about to write goes with the streams that are put away next
        recorder.close()
    report = {"membership": membership.events, "interrupted": stopped.interrupted}
    return report | ({"weights_sha256": digest(training.server.weights)} if training else {})


def _engine(layout: ClusterLayout, plan: Plan, seed: int, compute: Compute | None) -> SimulatedEngine:
    return SimulatedEngine(
        layout, plan.iteration, seed, keys=plan.keys, message_bytes=plan.message_bytes, compute=compute
    )


class _Training:
    """Real gradients in virtual time: all workers share one network and the server's own weights.

    A worker's gradient is computed when it is released, on the weights of that moment, which is all that its push will
    bring; so no worker needs a copy of the weights. While a past is lived once more, `compute` says what came out
    then, and the server does nothing: the weights and the gradients under way are those of the checkpoint from the
    beginning.
    """

    def __init__(self, spec: RunSpec, data: Data, device: str, past: Past | None) -> None:
        task = Task(spec.model, data)
        model = task.build_model(spec.seed)
        weights, statistics, momentum = (tensor.to(device) for tensor in initial_state(model))
        count = len(spec.cluster.workers)
        self._slots = {w: Slot(torch.zeros_like(weights), torch.zeros_like(statistics)) for w in range(count)}
        rule = SGD(weights, **spec.optimizer.options)
        self.server = _Server(weights, rule, self._slots, statistics=statistics, momentum=momentum)
        self._under_way: dict[WorkerId, tuple[float, bool]] = {}
        self._relived: dict[WorkerId, Iterator[tuple[float, bool]]] = {}
        if past:
            self._restore(past)
        made = past.iterations if past else {}
        self._workers = [
            make_worker(
                task, model, spec.batch_size, spec.seed, count, w, weights, slot,
                made.get(w, 0) + (w in self._under_way),
            )
            for w, slot in self._slots.items()
        ]  # fmt: skip
        self.evaluate: Callable[[], tuple[float, float]] = make_evaluation(
            task, spec.evaluation.batch_size, device, weights, statistics
        )

    @property
    def reliving(self) -> bool:
        """Whether the past is being lived once more."""
        return self.server.idle

    def compute(self, worker: WorkerId) -> tuple[float, bool]:
        """One iteration of one worker; its loss, and whether the gradient is finite."""
        if self.reliving:
            return next(self._relived[worker], (0.0, True))  # it left before this came to the server
        self._workers[worker].attach()
        loss = float(self._workers[worker].compute_gradient())
        self._under_way[worker] = loss, self._workers[worker].is_finite()
        return self._under_way[worker]

    def state(self, coordinator: Coordinator) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a checkpoint has of it: the server, and the gradients that are under way."""
        view = coordinator.view
        computing = [worker for worker in view.clocks if worker not in view.held]
        tensors = self.server.tensors(view.buffered)
        for worker in computing:
            for part, tensor in self._slots[worker]._asdict().items():
                tensors[f"under_way.{worker}.{part}"] = tensor.to("cpu", copy=True)
        return {"under_way": {str(worker): self._under_way[worker] for worker in computing}}, tensors

    def arrive(self) -> None:
        """The past is over."""
        self.server.idle = False

    def _restore(self, past: Past) -> None:
        tensors = past.tensors()
        self.server.idle = True
        self.server.restore(tensors)
        self._under_way = {int(worker): (loss, finite) for worker, (loss, finite) in past.state["under_way"].items()}
        for worker in self._under_way:
            for part, tensor in self._slots[worker]._asdict().items():
                tensor.copy_(tensors[f"under_way.{worker}.{part}"])
        came_out: dict[WorkerId, list[tuple[float, bool]]] = {worker: [] for worker in self._slots}
        for event in past.events():
            if isinstance(event, Push):
                came_out[event.worker].append((event.loss or 0.0, event.finite))
        for worker, latest in self._under_way.items():
            came_out[worker].append(latest)
        self._relived = {worker: iter(results) for worker, results in came_out.items()}


class _Server(ParameterServer):
    """A parameter server that can be told to do nothing."""

    idle = False

    def carry_out(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        if not self.idle:
            super().carry_out(outcome, learning_rates)


class _Ticker(Observer):
    """Shows the page to the watchers a few times a second of wall time."""

    def __init__(self, page: StatusPage, watchers: Watchers) -> None:
        self._page = page
        self._watchers = watchers
        self._due = 0.0

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Show the page if that is due."""
        if (began := time.monotonic()) >= self._due:
            self._watchers.progress(self._page.read())
            took = time.monotonic() - began  # long, with thousands of workers
            self._due = began + took + max(1 / _PAGES_PER_S, _PAGE_SHARE * took)

    def on_finish(self, at: Nanoseconds) -> None:
        """Show how it ended."""
        self._watchers.progress(self._page.read())
