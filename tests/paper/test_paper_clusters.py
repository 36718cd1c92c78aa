"""The layouts of the paper's two clusters, in virtual time and without gradients, against what its figures show.

Runs are shorter than the paper's: times grow with the number of epochs, and a rate drop stays at its part of the run.
Held gradients are merged by sum, as the figures tell, where nothing else is said.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import mean

import pytest

from dssp_bench.cli.compose import compose_job
from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import SECOND, Nanoseconds, Outcome
from dssp_bench.core.paradigm import HeldGradients, Paradigm
from dssp_bench.core.schedule import LearningRate
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.layout import ClusterLayout, WorkerLayout
from dssp_bench.engines.observer import Observer
from dssp_bench.engines.serve import serve
from dssp_bench.engines.simulated import SimulatedEngine
from dssp_bench.experiment.spec import build_spec
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.reference.published import BATCH_SIZE, EPOCHS, EXAMPLES, PublishedRun, published_runs
from dssp_bench.tasks.sharding import iterations

HOMOGENEOUS = {
    "fig3a": "paper_homogeneous_alexnet",
    "fig3c": "paper_homogeneous_resnet50",
    "fig3e": "paper_homogeneous",
}
CLUSTERS = {**HOMOGENEOUS, "fig4": "paper_hetero"}
DROPS = {"fig3a": (300.0,), "fig3c": (200.0, 250.0), "fig3e": (200.0, 250.0), "fig4": (200.0, 250.0)}
FEW_THRESHOLDS = (3, 9, 15)  # of the paper's 3 to 15

EQUAL = [run for run in published_runs() if run.figure in HOMOGENEOUS]
PAIR = [run for run in published_runs("fig4") if run.paradigm != "asp"]


def name_of(run: PublishedRun) -> str:
    return "-".join(str(part) for part in (run.figure, run.paradigm, run.threshold) if part is not None)


def paradigm(name: str, threshold: int | None, held: HeldGradients) -> Paradigm:
    made: dict[str, Paradigm] = {"bsp": BSP(), "asp": ASP(), "dssp": DSSP(3, 15, held_gradients=held)}
    return made.get(name) or SSP(threshold or 3, held)


@cache
def layout(*overrides: str) -> ClusterLayout:
    job = compose_job(overrides)
    return build_spec(job.config, job.choices).cluster


class Watch(Observer):
    """Counts pushes, also of workers that are done, and sees when the learning rate first falls."""

    def __init__(self) -> None:
        self.pushes: Counter[int] = Counter()
        self.drop: Nanoseconds | None = None

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        if outcome.push:
            self.pushes[outcome.push.worker] += 1
        if self.drop is None and learning_rates and learning_rates[-1] < 1.0:
            self.drop = outcome.at


@dataclass
class Timing:
    """Seconds in all, updates per iteration of the slowest worker, and the part of the run before the first drop."""

    seconds: float
    updates: float
    drop: float


def drive(
    cluster: ClusterLayout, paradigm: Paradigm, limits: Limits, milestones: tuple[float, ...] = (), seed: int = 1
) -> Timing:
    workers, watch = len(cluster.workers), Watch()
    rates = LearningRate(1.0, milestones, 0.1, "updates", "none", workers, BATCH_SIZE, EXAMPLES)
    iteration = round((cluster.iteration_s or 0) * SECOND)
    engine = SimulatedEngine(cluster, iteration, seed, keys=cluster.keys or 0)
    coordinator = Coordinator(paradigm, range(workers))
    end = serve(coordinator, engine, limits, rates, None, [watch])
    updates = coordinator.view.version / min(watch.pushes.values())
    return Timing(end / SECOND, updates, (end if watch.drop is None else watch.drop) / end)


@cache
def shortened(
    figure: str, name: str, threshold: int | None = None, held: HeldGradients = "merge_sum", epochs: int = 20
) -> Timing:
    """A run of a figure, of fewer epochs, but in seconds of all 300; `ssp_average` is over a few thresholds."""
    if name == "ssp_average":
        runs = [shortened(figure, "ssp", s, held, epochs) for s in FEW_THRESHOLDS]
        return Timing(*(mean(values) for values in zip(*((r.seconds, r.updates, r.drop) for r in runs), strict=True)))
    cluster, shorter = layout(f"cluster={CLUSTERS[figure]}"), EPOCHS / epochs
    limits = Limits(iterations=iterations(epochs, EXAMPLES // len(cluster.workers), BATCH_SIZE))
    milestones = tuple(epoch / shorter for epoch in DROPS[figure])
    run = drive(cluster, paradigm(name, threshold, held), limits, milestones)
    return Timing(run.seconds * shorter, run.updates, run.drop)


def repeated(run: PublishedRun) -> Timing:
    return shortened(run.figure, run.paradigm, run.threshold)


# --- four equal workers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", EQUAL, ids=name_of)
def test_four_equal_workers_end_when_the_papers_do(run: PublishedRun) -> None:
    assert repeated(run).seconds == pytest.approx(run.end_s, rel=0.06)


@pytest.mark.parametrize("figure", ["fig3c", "fig3e"])
def test_resnets_end_in_the_papers_order(figure: str) -> None:
    ends = [shortened(figure, name).seconds for name in ("bsp", "ssp_average", "dssp", "asp")]
    assert all(earlier < later for earlier, later in pairwise(ends))


def test_alexnet_ends_last_under_bsp_and_alike_under_all_others() -> None:
    bsp, *others = (shortened("fig3a", name).seconds for name in ("bsp", "asp", "ssp_average", "dssp"))
    assert max(others) < 1.03 * min(others)
    assert bsp > 1.1 * max(others)


@pytest.mark.parametrize("run", [run for run in EQUAL if run.updates_per_iteration is not None], ids=name_of)
def test_equal_workers_update_as_often_as_the_papers_rate_drops_imply(run: PublishedRun) -> None:
    assert repeated(run).updates == pytest.approx(run.updates_per_iteration, rel=0.07)


@pytest.mark.parametrize("run", [run for run in EQUAL if run.rate_drop_s is not None], ids=name_of)
def test_the_learning_rate_of_equal_workers_drops_at_the_papers_part_of_the_run(run: PublishedRun) -> None:
    assert run.rate_drop_s is not None
    assert repeated(run).drop == pytest.approx(run.rate_drop_s / run.end_s, abs=0.03)


def test_a_milestone_at_the_last_epoch_is_at_the_end_of_bsp_and_at_a_quarter_of_asp() -> None:
    assert shortened("fig3a", "bsp").drop > 0.99
    assert shortened("fig3a", "asp").drop == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("name", ["ssp", "dssp"])
@pytest.mark.parametrize("figure", HOMOGENEOUS)
def test_without_merging_holding_workers_saves_nothing(figure: str, name: str) -> None:
    """Every push costs the server an update then, as under ASP."""
    applied, free = (shortened(figure, n, held="apply", epochs=6) for n in (name, "asp"))
    assert applied.updates == free.updates == 4
    assert 0.99 * free.seconds < applied.seconds < 1.06 * free.seconds


def test_without_jitter_equal_workers_never_hold_each_other() -> None:
    exact, limits = layout("cluster=paper_homogeneous", "cluster.workers.0.jitter=null"), Limits(pushes=2000)
    free = drive(exact, ASP(), limits)
    assert free == drive(exact, SSP(1, "merge_sum"), limits) == drive(exact, DSSP(1, 3), limits)


def test_the_three_models_share_one_cluster() -> None:
    """The workers, and what a byte and a tensor cost, are the same for all."""
    resnet110, *others = (layout(f"cluster={cluster}") for cluster in HOMOGENEOUS.values())
    for other in others:
        assert other.workers == resnet110.workers
        assert other.server.update_per_key_s == resnet110.server.update_per_key_s
        assert cost_per_byte(other) == pytest.approx(cost_per_byte(resnet110), rel=0.002)


def cost_per_byte(cluster: ClusterLayout) -> float:
    assert cluster.message_bytes
    return cluster.server.receive_s / cluster.message_bytes


# --- a fast and a slow worker -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", PAIR, ids=name_of)
def test_the_pair_ends_with_its_slow_worker_whatever_the_paradigm(run: PublishedRun) -> None:
    assert repeated(run).seconds == pytest.approx(run.end_s, rel=0.03)
    assert repeated(run).seconds == pytest.approx(shortened("fig4", "bsp").seconds, rel=0.001)


def test_the_pair_does_not_end_as_early_under_asp_as_the_papers_does() -> None:
    papers = next(run for run in published_runs("fig4") if run.paradigm == "asp")
    assert shortened("fig4", "asp").seconds > 1.2 * papers.end_s


@pytest.mark.parametrize("run", PAIR, ids=name_of)
def test_the_pair_updates_as_often_as_the_papers_rate_drops_imply(run: PublishedRun) -> None:
    assert repeated(run).updates == pytest.approx(run.updates_per_iteration, rel=0.06)


def test_under_asp_the_pair_updates_for_both_while_both_compute() -> None:
    run = drive(layout("cluster=paper_hetero"), ASP(), Limits(pushes=5000))
    assert run.updates == pytest.approx(2.57, abs=0.01)


def test_dssp_drops_the_learning_rate_of_the_pair_after_half_as_much_of_the_run() -> None:
    assert shortened("fig4", "dssp").drop == pytest.approx(0.335, abs=0.03)
    assert shortened("fig4", "bsp").drop == pytest.approx(0.666, abs=0.03)


@pytest.mark.parametrize(("ratio", "constant"), [(1.57, 1.93), (1.5, 1.0), (1.6, 1.0)])
def test_with_constant_times_dssps_updates_depend_on_the_ratio_and_with_a_little_noise_they_do_not(
    ratio: float, constant: float
) -> None:
    def updates(jitter: str | None) -> float:
        workers = (WorkerLayout(jitter=jitter), WorkerLayout(jitter=jitter, slowdown=ratio))
        pair = layout("cluster=paper_hetero").model_copy(update={"workers": workers})
        return drive(pair, DSSP(held_gradients="merge_sum"), Limits(pushes=5000)).updates

    assert updates(None) == pytest.approx(constant, abs=0.03)
    assert updates("dedicated") == pytest.approx(1.93, abs=0.03)
