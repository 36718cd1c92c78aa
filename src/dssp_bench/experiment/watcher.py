"""Who may watch a run. Watching never changes it: a watcher that fails is reported once and left out from then on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dssp_bench.core.messages import Evaluation
from dssp_bench.records.reader import RunRecords

Status = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before it starts; `choices` names the configuration of each group (`paradigm: dssp`).

    `address` is where workers come in, if somebody else is to start them.
    """

    name: str
    folder: Path
    runs_dir: Path
    config: dict[str, Any]
    choices: dict[str, str]
    environment: dict[str, Any]
    worker_names: tuple[str, ...]
    seed: int
    total_pushes: int | None
    tags: dict[str, str] = field(default_factory=dict)
    address: str = ""


class WorkerStatus(NamedTuple):
    """One worker as the live table shows it; `waited_s` is engine time during which the server held it."""

    name: str
    clock: int
    lead: int
    staleness: int | None
    waited_s: float
    state: Literal["starting", "computing", "held", "left"]


class RunStatus(NamedTuple):
    """The state of a run, a few times a second; times are seconds on the engine's clock."""

    elapsed_s: float
    pushes: int
    updates: int
    loss: float | None
    workers: tuple[WorkerStatus, ...]


class Watcher:
    """Watches a run from the driver process; does nothing unless a method is overridden."""

    def start(self, run: RunInfo) -> None:
        """The folder exists and the workers are being started."""

    def progress(self, status: RunStatus) -> None:
        """Called a few times a second while the run goes on."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """A snapshot of the weights was evaluated on the full test set."""

    def records(self, records: RunRecords) -> None:
        """Called every few seconds with what is on disk so far."""

    def finish(self, status: Status, records: RunRecords | None, summary: dict[str, Any] | None, error: str) -> None:
        """The run is over, and its records are complete; `error` says in a sentence why it failed, if it did."""
