"""Layouts: who the workers are, and what is refused in words."""

from typing import Any

import pytest
from pydantic import ValidationError

from dssp_bench.core.messages import SECOND
from dssp_bench.engines.compute_time import PRESETS, Jitter
from dssp_bench.engines.layout import ClusterLayout, Network, Server


def layout(**fields: Any) -> ClusterLayout:
    return ClusterLayout(**{"workers": [{}, {}, {}], **fields})


def names(**fields: Any) -> list[str]:
    return [worker.name for worker in layout(**fields).workers]


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        layout(**fields)
    return str(caught.value)


def test_nobody_asks_for_less_than_nothing_of_a_cluster() -> None:
    assert "greater than or equal to 0" in refusal(workers=[{"resources": {"GPU": -1}}])
    assert "greater than or equal to 0" in refusal(server={"resources": {"GPU": -1}})


# --- names and repetition ---------------------------------------------------------------------------------------------


def test_workers_without_a_name_are_numbered() -> None:
    assert names(workers=[{}, {"name": "slow"}, {}]) == ["worker_0", "slow", "worker_2"]


def test_a_count_repeats_the_list_and_numbers_the_names() -> None:
    assert names(workers=[{"name": "fast"}, {"name": "slow"}], count=5) == [
        "fast",
        "slow",
        "fast_2",
        "slow_2",
        "fast_3",
    ]
    assert names(workers=[{}, {}], count=4) == ["worker_0", "worker_1", "worker_2", "worker_3"]
    assert names(workers=[{"name": "worker_0"}, {"name": "worker_1"}], count=3) == ["worker_0", "worker_1", "worker_2"]


def test_a_count_repeats_everything_that_a_worker_is() -> None:
    repeated = layout(workers=[{"slowdown": 1.0}, {"slowdown": 3.0, "jitter": "stress"}], count=4).workers
    assert [worker.slowdown for worker in repeated] == [1.0, 3.0, 1.0, 3.0]
    assert repeated[3].jitter == PRESETS["stress"]


def test_a_count_may_also_cut_the_list_short() -> None:
    assert names(workers=[{"name": "a"}, {"name": "b"}, {"name": "c"}], count=2) == ["a", "b"]


def test_thousands_of_workers_are_no_trouble_and_all_have_names_of_their_own() -> None:
    many = names(workers=[{"name": "fast"}, {"name": "slow"}], count=10_000)
    assert len(set(many)) == 10_000


# --- jitter -----------------------------------------------------------------------------------------------------------


def test_jitter_is_a_presets_name_or_its_fields_or_nothing() -> None:
    workers = layout(workers=[{"jitter": "shared"}, {"jitter": {"kind": "pareto"}}, {"jitter": None}]).workers
    assert [worker.jitter for worker in workers] == [PRESETS["shared"], Jitter(kind="pareto"), Jitter()]


def test_an_unknown_preset_is_refused_with_those_that_there_are() -> None:
    assert "unknown preset 'wild'; there are dedicated, shared, noisy, stress" in refusal(workers=[{"jitter": "wild"}])


# --- slow phases ------------------------------------------------------------------------------------------------------


def test_a_slow_phase_begins_at_its_moment_and_is_over_at_its_end() -> None:
    cluster = layout(workers=[{"slowdown": 2.0}, {}], events=[{"worker": 0, "at_s": 3, "slowdown": 5, "for_s": 2}])
    moments = [0, 3 * SECOND - 1, 3 * SECOND, 5 * SECOND - 1, 5 * SECOND]
    assert [cluster.slowdown(0, at) for at in moments] == [2, 2, 10, 10, 2]
    assert cluster.slowdown(1, 4 * SECOND) == 1


# --- events -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_joins_is_not_there_from_the_start() -> None:
    assert layout(events=[{"worker": 1, "at_s": 5, "join": True}]).present == [0, 2]


def test_a_worker_may_join_and_leave_later() -> None:
    events = [{"worker": 1, "at_s": 9, "leave": True}, {"worker": 1, "at_s": 5, "join": True}]
    assert layout(events=events).present == [0, 2]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([{"worker": 3, "at_s": 1, "leave": True}], "an event names worker 3, but workers are 0 to 2"),
        ([{"worker": 0, "at_s": 1}], "exactly one of `slowdown: FACTOR`, `leave: true` and `join: true`"),
        ([{"worker": 0, "at_s": 1, "leave": True, "join": True}], "exactly one of"),
        ([{"worker": 0, "at_s": 1, "slowdown": 2, "leave": True}], "exactly one of"),
        ([{"worker": w, "at_s": 1, "join": True} for w in range(3)], "at least one worker must be there"),
        ([{"worker": 0, "at_s": at, "join": True} for at in (1, 2)], "worker 0 can join once and leave once"),
        ([{"worker": 0, "at_s": at, "leave": True} for at in (1, 2)], "worker 0 can join once and leave once"),
        (
            [{"worker": 1, "at_s": 2.5, "leave": True}, {"worker": 1, "at_s": 5, "join": True}],
            "worker 1 leaves at 2.5 s, but joins only at 5 s",
        ),
        ([{"worker": 0, "at_s": -1, "leave": True}], "greater than or equal to 0"),
    ],
)
def test_events_that_cannot_happen_are_refused(events: list[dict[str, Any]], words: str) -> None:
    assert words in refusal(events=events)


@pytest.mark.parametrize(
    "fields",
    [
        {"workers": []}, {"count": 0}, {"iteration_s": 0}, {"keys": 0}, {"workers": [{"slowdown": 0}]},
        {"workers": [{"device": "tpu"}]}, {"workers": [{"speed": 2}]}, {"network": {"latency_s": -1}},
        {"server": {"update_s": float("inf")}},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    assert refusal(**fields)


# --- costs ------------------------------------------------------------------------------------------------------------


def test_a_message_costs_latency_and_keys_and_bytes() -> None:
    network = Network(latency_s=0.001, per_key_s=0.0001, bandwidth_bytes_per_s=1e6)
    assert network.transit(keys=10, size=5000) == round(0.007 * SECOND)
    assert Network().transit(1000, 1_000_000) == 0


def test_the_server_costs_a_fixed_part_and_a_part_per_key() -> None:
    server = Server(receive_s=1, update_per_key_s=0.5, reply_s=0.25, reply_per_key_s=0.25)
    assert server.costs(keys=4) == (SECOND, 2 * SECOND, round(1.25 * SECOND))


def test_where_the_server_computes_is_not_a_cost() -> None:
    assert not layout(server={"device": "cpu"}).has_costs
    assert layout(server={"reply_s": 0.1}).has_costs
    assert layout(network={"latency_s": 0.1}).has_costs
