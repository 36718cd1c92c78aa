"""A run in real processes, seen from the driver."""

import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.messages import SECOND, Evaluation
from dssp_bench.engines.checkpoints import CheckpointPlan, Past
from dssp_bench.engines.local.channel import Kind, Message
from dssp_bench.engines.local.launch import LocalJob, LocalRun
from dssp_bench.engines.options import LocalOptions
from dssp_bench.experiment.parts import EvaluatorMaker, SharedData, WorkerMaker, initial_state
from dssp_bench.experiment.plan import Plan
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.experiment.watchers import Watchers
from dssp_bench.records.writer import RecordWriter
from dssp_bench.tasks.task import Data, Task

_PAGES_PER_S = 4.0
_RECORDS_EVERY_S = 5.0
_log = logging.getLogger(__name__)
_RECORDS_SHARE = 50.0  # a long run's records take long to read, and the workers need the cores


def run_locally(
    spec: RunSpec,
    plan: Plan,
    data: Data,
    folder: Path,
    watchers: Watchers,
    info: RunInfo,
    device: str,
    checkpoints: CheckpointPlan | None = None,
    past: Past | None = None,
) -> dict[str, Any]:
    """Run to the end; returns what only the server knows. Ctrl-C ends it at a safe point. Raises DsspBenchError."""
    job = replace(local_job(spec, plan, data, folder, device), checkpoints=checkpoints, past=past)
    if past:
        job.recorder = partial(RecordWriter, folder, go_on_at=past.positions)
    with LocalRun(job) as local:
        watchers.start(info)  # while the processes start
        local.go()
        return Conversation(local, watchers, folder).to_the_end()


def local_job(spec: RunSpec, plan: Plan, data: Data, folder: Path, device: str) -> LocalJob:
    """The run as the local engine takes it: records go to the folder, evaluations are made on the device."""
    assert isinstance(spec.engine, LocalOptions)
    shared = SharedData(data)
    return LocalJob(
        paradigm=spec.paradigm,
        layout=spec.cluster,
        limits=plan.limits,
        rates=plan.rates,
        optimizer=spec.optimizer.options,
        initial=initial_state(Task(spec.model, data).build_model(spec.seed)),
        worker=WorkerMaker(spec.model, shared, spec.batch_size, spec.seed, len(spec.cluster.workers)),
        evaluator=EvaluatorMaker(spec.model, shared, spec.evaluation.batch_size),
        recorder=partial(RecordWriter, folder),
        evaluate_every=plan.evaluate_every,
        evaluation_device=device,
        target_accuracy=spec.stop.target_accuracy,
        options=spec.engine,
        on_worker_loss=spec.on_worker_loss,
    )


class Conversation:
    """What the driver hears from the server, and passes on to the watchers."""

    def __init__(self, local: LocalRun, watchers: Watchers, folder: Path) -> None:
        self._local = local
        self._watchers = watchers
        self._folder = folder
        self._started_at: int | None = None
        self._interrupted = False

    def to_the_end(self) -> dict[str, Any]:
        records_due = time.monotonic() + _RECORDS_EVERY_S
        while True:
            try:
                message = self._local.message(1 / _PAGES_PER_S)
                if message is not None and message.kind is Kind.DONE:
                    return self._report(message)
                self._watchers.progress(self._local.page())  # first, so that news meet a page that knows of them
                self._heard(message)
                if (began := time.monotonic()) >= records_due:
                    self._watchers.records(self._folder)
                    took = time.monotonic() - began
                    records_due = time.monotonic() + max(_RECORDS_EVERY_S, _RECORDS_SHARE * took)
            except KeyboardInterrupt:
                if self._interrupted or self._started_at is None:
                    raise  # the second time, or before there was anything to lose, nothing is waited for
                self._interrupted = True
                self._local.stop()
            except (DsspBenchError, EOFError) as error:
                if self._interrupted:
                    raise KeyboardInterrupt from error
                if isinstance(error, EOFError):
                    raise DsspBenchError(self._local.server_exit()) from None
                raise

    def _report(self, message: Message) -> dict[str, Any]:
        report: dict[str, Any] = message.json()
        return {**report, "started_at": self._started_at, "interrupted": self._interrupted}

    def _heard(self, message: Message | None) -> None:
        if message is None:
            return
        if message.kind is Kind.STARTED:
            self._started_at = message.number
        elif message.kind is Kind.EVALUATED:
            self._watchers.evaluation(Evaluation(*message.json()))
        elif message.kind is Kind.LOST:
            self._local.replace(message.number, message.json()["iterations"])
        elif message.kind is Kind.WARNING:
            _log.warning("%s", message.text())
        elif message.kind is Kind.FAILED:
            raise DsspBenchError(message.text())


def startup_seconds(began: float, report: dict[str, Any]) -> float:
    """Seconds from a moment of the monotonic clock to the run's start."""
    started_at = report.get("started_at")
    return 0.0 if started_at is None else max(0.0, started_at / SECOND - began)
