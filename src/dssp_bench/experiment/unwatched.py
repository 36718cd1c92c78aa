"""The local engine without what surrounds it in a run: no watchers, and records only if they are wanted."""

import multiprocessing
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.messages import Evaluation, Outcome
from dssp_bench.engines.local.channel import Kind
from dssp_bench.engines.local.launch import LocalJob, LocalRun
from dssp_bench.engines.status import Page


class NoRecords:
    """Takes the place of the records."""

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Forget it."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Forget it."""

    def positions(self) -> None:
        """There are no files."""

    def relived(self) -> None:
        """There was no past."""

    def close(self) -> None:
        """There is nothing to finish."""


def without_records(job: LocalJob) -> LocalJob:
    """The same job, but nothing is written."""
    return replace(job, recorder=NoRecords)


@dataclass(frozen=True)
class Ended:
    """How a job ended: the last evaluation, the status page, and what the server says."""

    evaluation: Evaluation
    page: Page
    report: dict[str, Any]


def carried_out(run: LocalRun, look_every_s: float = 1.0) -> Generator[dict[str, int], None, Ended]:
    """Carry a run out; yields the numbers of its processes by their names again and again. Raises DsspBenchError."""
    with run as local:
        local.go()
        processes = {str(child.name): child.pid or 0 for child in multiprocessing.active_children()}
        evaluation = None
        while True:
            try:
                message = local.message(look_every_s)
            except EOFError:
                raise DsspBenchError(local.server_exit()) from None
            if message is None:
                yield processes
            elif message.kind is Kind.FAILED:
                raise DsspBenchError(message.text())
            elif message.kind is Kind.LOST:
                local.replace(message.number, message.json()["iterations"])
            elif message.kind is Kind.EVALUATED:
                evaluation = Evaluation(*message.json())
            elif message.kind is Kind.DONE:
                if evaluation is None:
                    raise DsspBenchError("the run came to its end, but its evaluator did not")
                return Ended(evaluation, local.page(), message.json())
