"""How many updates the server makes per iteration of the slowest worker, and what that number depends on.

It decides when a learning rate drops whose schedule counts updates, and it is what the paper's Fig. 4 gives away about
how its runs were synchronised. Here it is computed in virtual time for one setting after the other, without records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Outcome
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.engines.compute_time import PRESETS, Jitter
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.observer import Observer
from dssp_bench.engines.serve import serve
from dssp_bench.engines.simulated import SimulatedEngine
from dssp_bench.experiment.plan import make_plan
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP

PUSHES = 5_000
PUBLISHED_RATIO = 1.57
RATIOS = (1.3, 1.4, 1.5, 1.57, 1.7, 2.0, 2.3)
NOISE = {"none": Jitter(), "2 %, independent": PRESETS["dedicated"]}
MORE_NOISE = {
    "5 %, independent": Jitter(kind="lognormal", sigma=0.05),
    "6 %, correlated, slow states": PRESETS["shared"],
}
CASES: dict[str, Paradigm] = {
    "SSP 3": SSP(threshold=3, held_gradients="merge_sum"),
    "DSSP bounded": DSSP(lower=3, upper=15, held_gradients="merge_sum"),
    "DSSP single_grant": DSSP(lower=3, upper=15, variant="single_grant", held_gradients="merge_sum"),
    "DSSP literal": DSSP(lower=3, upper=15, variant="literal", held_gradients="merge_sum"),
    "ASP": ASP(),
}


@dataclass(frozen=True)
class Row:
    """One setting of the two workers, and the updates per iteration of the slow one, by case."""

    ratio: float
    jitter: str
    updates: dict[str, float]


def sensitivity(spec: RunSpec) -> Iterator[Row]:
    """The table for a run on two workers: ratios of their speeds, each with two kinds of noise, then more noise."""
    for ratio in RATIOS:
        for name, jitter in NOISE.items():
            yield _row(spec, ratio, name, jitter)
    for name, jitter in MORE_NOISE.items():
        yield _row(spec, PUBLISHED_RATIO, name, jitter)


def _row(spec: RunSpec, ratio: float, name: str, jitter: Jitter) -> Row:
    cluster = two_workers(spec.cluster, ratio, jitter)
    changed = [replace(spec, cluster=cluster, paradigm=paradigm) for paradigm in CASES.values()]
    return Row(ratio, name, dict(zip(CASES, map(updates_per_slow_iteration, changed), strict=True)))


def two_workers(layout: ClusterLayout, ratio: float, jitter: Jitter) -> ClusterLayout:
    """The layout's first two workers, the second so many times slower, both with this noise."""
    slowdowns = zip(layout.workers[:2], (1.0, ratio), strict=True)
    workers = tuple(worker.model_copy(update={"slowdown": slow, "jitter": jitter}) for worker, slow in slowdowns)
    return layout.model_copy(update={"workers": workers, "events": ()})


def updates_per_slow_iteration(spec: RunSpec, pushes: int = PUSHES) -> float:
    """Server updates divided by the pushes of the slowest worker, over so many pushes in virtual time."""
    plan = make_plan(spec, spec.dataset.facts())
    engine = SimulatedEngine(spec.cluster, plan.iteration, spec.seed, keys=plan.keys, message_bytes=plan.message_bytes)
    counted = _Counted()
    serve(Coordinator(spec.paradigm, spec.cluster.present), engine, Limits(pushes=pushes), plan.rates, None, [counted])
    return counted.updates / min(counted.clocks.values())


class _Counted(Observer):
    def __init__(self) -> None:
        self.updates = 0
        self.clocks: dict[int, int] = {}

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        self.updates += len(outcome.updates)
        if outcome.push:
            self.clocks[outcome.push.worker] = outcome.push.clock
