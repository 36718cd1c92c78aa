"""A run in virtual time, in this process, with or without gradients."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Evaluation, Nanoseconds, Outcome, WorkerId
from dssp_bench.core.server import ParameterServer, Slot
from dssp_bench.core.update import SGD
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.observer import Membership, Observer, Recording, Snapshots
from dssp_bench.engines.options import SimulatedOptions
from dssp_bench.engines.serve import serve
from dssp_bench.engines.simulated import Compute, SimulatedEngine
from dssp_bench.engines.status import StatusPage, page_size
from dssp_bench.experiment.parts import initial_state, make_evaluation, make_worker
from dssp_bench.experiment.plan import Plan
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.watchers import Watchers
from dssp_bench.records.writer import RecordWriter
from dssp_bench.tasks.task import Data, Task

_PAGES_PER_S = 4.0
_PAGE_SHARE = 20.0


def run_in_virtual_time(
    spec: RunSpec, plan: Plan, data: Data | None, folder: Path, watchers: Watchers, device: str
) -> dict[str, Any]:
    """Run to the end; returns what only the loop knows. Without data only the timing runs."""
    assert isinstance(spec.engine, SimulatedOptions)
    torch.set_num_threads(spec.engine.threads)
    recorder = RecordWriter(folder)
    membership = Membership()
    observers: list[Observer] = [Recording(recorder), membership]
    if watchers:
        page = StatusPage(torch.zeros(page_size(len(spec.cluster.workers)), dtype=torch.float64))
        page.begin()
        observers += [page, _Ticker(page, watchers)]
    training = _Training(spec, data, device) if data else None
    if training:

        def take(at: Nanoseconds, version: int, samples: int) -> bool:
            loss, accuracy = training.evaluate()
            evaluation = Evaluation(at, version, samples, samples / plan.rates.examples, loss, accuracy)
            recorder.on_evaluation(evaluation)
            watchers.evaluation(evaluation)
            target = spec.stop.target_accuracy
            if target is not None and accuracy >= target:
                plan.limits.stop_requested = True
            return True

        observers.append(Snapshots(plan.evaluate_every, spec.batch_size, take))
    engine = _engine(spec.cluster, plan, spec.seed, training.compute if training else None)
    coordinator = Coordinator(spec.paradigm, spec.cluster.present)
    try:
        serve(coordinator, engine, plan.limits, plan.rates, training.server if training else None, observers)
    finally:
        recorder.close()
    return {"membership": membership.events}


def _engine(layout: ClusterLayout, plan: Plan, seed: int, compute: Compute | None) -> SimulatedEngine:
    return SimulatedEngine(
        layout, plan.iteration, seed, keys=plan.keys, message_bytes=plan.message_bytes, compute=compute
    )


class _Training:
    """Real gradients in virtual time: all workers share one network and the server's own weights.

    A worker's gradient is computed when it is released, on the weights of that moment, which is all that its push will
    bring; so no worker needs a copy of the weights.
    """

    def __init__(self, spec: RunSpec, data: Data, device: str) -> None:
        task = Task(spec.model, data)
        model = task.build_model(spec.seed)
        weights, statistics, momentum = (tensor.to(device) for tensor in initial_state(model))
        count = len(spec.cluster.workers)
        slots = {w: Slot(torch.zeros_like(weights), torch.zeros_like(statistics)) for w in range(count)}
        self._workers = [
            make_worker(task, model, spec.batch_size, spec.seed, count, w, weights, slots[w]) for w in range(count)
        ]
        rule = SGD(weights, **spec.optimizer.options)
        self.server = ParameterServer(weights, rule, slots, statistics=statistics, momentum=momentum)
        self.evaluate: Callable[[], tuple[float, float]] = make_evaluation(
            task, spec.evaluation.batch_size, device, weights, statistics
        )

    def compute(self, worker: WorkerId) -> tuple[float, bool]:
        """One iteration of one worker; its loss, and whether the gradient is finite."""
        self._workers[worker].attach()
        loss = float(self._workers[worker].compute_gradient())
        return loss, self._workers[worker].is_finite()


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
