"""What follows from a specification and a data set: how long a run is, how fast it learns, what its messages cost."""

from dataclasses import dataclass
from math import inf

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.messages import SECOND, Nanoseconds
from dssp_bench.core.schedule import LearningRate
from dssp_bench.engines.engine import Limits
from dssp_bench.experiment.parts import parameter_count
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.tasks.sharding import iterations
from dssp_bench.tasks.task import DataFacts


@dataclass(frozen=True)
class Plan:
    """A run in numbers; `total_pushes` is None where only time or accuracy ends it."""

    limits: Limits
    rates: LearningRate
    iteration: Nanoseconds
    keys: int
    message_bytes: int
    evaluate_every: float
    total_pushes: int | None


def make_plan(spec: RunSpec, facts: DataFacts) -> Plan:
    """The numbers of this run on data with these facts. Raises ConfigurationError."""
    workers = len(spec.cluster.workers)
    share = None
    if spec.stop.epochs is not None or spec.trains:
        _check_shards(facts.examples // workers, spec.batch_size)
    if spec.stop.epochs is not None:
        share = iterations(spec.stop.epochs, facts.examples // workers, spec.batch_size)
    limits = Limits(
        iterations=share,
        pushes=spec.stop.pushes,
        updates=spec.stop.updates,
        until=None if spec.stop.seconds is None else round(spec.stop.seconds * SECOND),
        on_nan=spec.on_nan,
    )
    rates = LearningRate(
        base=spec.optimizer.learning_rate,
        milestones=tuple(spec.schedule.milestones),
        gamma=spec.schedule.gamma,
        clock=spec.schedule.clock,
        scale=spec.schedule.scale,
        workers=workers,
        batch_size=spec.batch_size,
        examples=facts.examples,
    )
    keys, size = message_size(spec, facts)
    every = spec.evaluation.every_epochs
    totals = [total for total in (spec.stop.pushes, share and share * workers) if total]
    return Plan(
        limits=limits,
        rates=rates,
        iteration=round((spec.cluster.iteration_s or spec.model.iteration_s) * SECOND),
        keys=keys,
        message_bytes=size,
        evaluate_every=inf if every is None else every * facts.examples,
        total_pushes=min(totals) if totals else None,
    )


def _check_shards(smallest: int, batch_size: int) -> None:
    if batch_size > smallest:
        raise ConfigurationError(
            "batch_size",
            f"{batch_size} is more than the {smallest} training examples of each worker",
            "take a smaller batch, fewer workers or more data",
        )


def message_size(spec: RunSpec, facts: DataFacts) -> tuple[int, int]:
    """Keys and bytes of one push or pull: as the layout says, else the network's own, if they cost anything."""
    layout = spec.cluster
    if layout.keys is not None and layout.message_bytes is not None:
        return layout.keys, layout.message_bytes
    if not layout.has_costs:
        return layout.keys or 1, layout.message_bytes or 0
    keys, size = parameter_count(spec.model, facts.input_shape, facts.classes)
    return layout.keys or keys, layout.message_bytes or size
