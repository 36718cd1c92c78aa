"""What follows from a specification: how long a run is, how fast it learns, what its messages cost."""

from math import inf
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.core.messages import SECOND
from dssp_bench.experiment.plan import Plan, make_plan
from dssp_bench.tasks.task import DataFacts
from tests.experiment.specs import MLP, RESNET, spec

FACTS = DataFacts(240, (1, 8, 8), 3)


def plan(**changes: Any) -> Plan:
    return make_plan(spec(Path("unused"), **changes), FACTS)


@pytest.mark.parametrize(
    ("epochs", "batch_size", "iterations"), [(1, 8, 15), (2, 8, 30), (1, 7, 18), (0.5, 8, 8), (0.001, 8, 1)]
)
def test_a_workers_share_is_so_many_passes_over_its_own_shard(epochs: float, batch_size: int, iterations: int) -> None:
    found = plan(stop={"epochs": epochs}, batch_size=batch_size)
    assert found.limits.iterations == iterations
    assert found.total_pushes == 2 * iterations


def test_the_first_of_several_ends_says_how_many_pushes_there_will_be() -> None:
    assert plan(stop={"epochs": 1, "pushes": 20}).total_pushes == 20
    assert plan(stop={"epochs": 1, "pushes": 99}).total_pushes == 30
    assert plan(stop={"seconds": 3}).total_pushes is None
    assert plan(stop={"updates": 3}).total_pushes is None


def test_limits_are_taken_over_and_seconds_become_nanoseconds() -> None:
    limits = plan(stop={"pushes": 7, "updates": 5, "seconds": 0.25}).limits
    assert (limits.iterations, limits.pushes, limits.updates, limits.until) == (None, 7, 5, SECOND // 4)


def test_evaluations_are_due_after_so_many_samples_or_never() -> None:
    assert plan(evaluation={"every_epochs": 0.5}).evaluate_every == 120
    assert plan(evaluation={"every_epochs": None}).evaluate_every == inf


def test_the_layouts_iteration_time_counts_more_than_the_networks() -> None:
    assert plan().iteration == SECOND // 1000
    assert plan(cluster={"workers": [{}], "iteration_s": 0.5}).iteration == SECOND // 2


def test_the_learning_rate_knows_both_clocks() -> None:
    rates = plan(schedule={"milestones": [1], "clock": "updates", "scale": "linear_workers"}).rates
    assert (rates.workers, rates.batch_size, rates.examples, rates.updates_per_epoch) == (2, 8, 240, 15)


def test_messages_are_as_large_as_the_network_where_they_cost_anything() -> None:
    costly = {"workers": [{}], "network": {"latency_s": 0.1}}
    found = plan(cluster=costly, model=MLP)
    assert (found.keys, found.message_bytes) == (4, 4 * (64 * 16 + 16 + 16 * 3 + 3))
    assert plan(cluster=costly, model=RESNET).keys > 50
    assert (plan(model=RESNET).keys, plan(model=RESNET).message_bytes) == (1, 0)


def test_a_layout_may_say_how_large_messages_are() -> None:
    costly = {"workers": [{}], "network": {"latency_s": 0.1}, "keys": 334}
    assert (plan(cluster=costly).keys, plan(cluster=costly).message_bytes) == (334, 4 * (64 * 16 + 16 + 16 * 3 + 3))
    found = plan(cluster={**costly, "message_bytes": 10})
    assert (found.keys, found.message_bytes) == (334, 10)
