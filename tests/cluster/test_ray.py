"""Runs on a Ray cluster of three nodes, which are made on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.experiment.replay import differences, recorded_spec, replay_records
from dssp_bench.records.reader import RunRecords
from tests.cluster.driver import OURS, WITHIN_S, Driver, wait_until_there_are

pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore"),  # what Ray's own code warns of
    pytest.mark.timeout(900),  # longer than all that is waited for, which says more when it does not come
]
FAST, SLOW, OTHER = "fast_machine", "slow_machine", "other_machine"
PLACES = FAST, SLOW, OTHER, FAST
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_log_monitor": False}
HEAD: dict[str, Any] = {"resources": {FAST: 2}, "include_dashboard": False}


class Nodes:
    """A head and two nodes, which differ in what they offer; each of the two may die."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(OURS)
        self._cluster = Cluster(initialize_head=True, head_node_args={**SMALL, **HEAD})
        self._nodes = {name: self._cluster.add_node(**SMALL, resources={name: 2}) for name in (SLOW, OTHER)}
        self.address = str(self._cluster.address)

    def lose(self, name: str) -> None:
        """Have the node die that offers this, with all that is on it."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    made = Nodes()
    yield made
    made.shutdown()


def nodes_of_workers(nodes: Nodes) -> list[str]:
    """The node of each worker of the latest run, as Ray remembers it."""
    program = f"""
import ray
ray.init(address={nodes.address!r}, logging_level="ERROR")
from ray._private.state import actors
hosts = [actor for actor in actors().values() if actor["ActorClassName"] == "_Host"]
for host in hosts:
    if host["JobID"] == max(host["JobID"] for host in hosts):
        print("on", host["Address"]["NodeID"])
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WITHIN_S, check=True)
    return [line.split()[1] for line in told.stdout.splitlines() if line.startswith("on ")]


def on(*resources: str, slowdown: int = 50) -> str:
    """A layout whose workers want these, and sleep most of the time."""
    listed = ", ".join(f"{{slowdown: {slowdown}, resources: {{{name}: 1}}}}" for name in resources)
    return f"cluster.workers=[{listed}]"


@pytest.fixture(scope="module")
def everywhere(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecords, list[str]]:
    """What a run on all nodes has left, and the node of each of its workers."""
    workers = f"cluster.workers=[{','.join(f'{{slowdown: 1.5, resources: {{{name}: 1}}}}' for name in PLACES)}]"
    folder = tmp_path_factory.mktemp("everywhere")
    driver = Driver(nodes.address, folder, "paradigm=dssp", "cluster=hetero4", workers, "engine.shards=2")
    driver.wait_for_pushes()
    records = driver.end()
    assert driver.exit_code == 0, driver.said
    where = nodes_of_workers(nodes)
    wait_until_there_are(0)
    return records, where


def test_workers_are_where_what_they_want_is(everywhere: tuple[RunRecords, list[str]]) -> None:
    _, where = everywhere
    assert len(where) == 4
    assert len(set(where)) == 3, f"workers sat on {where}"


def test_a_run_on_three_nodes_learns_and_leaves_the_same_records_as_any(
    everywhere: tuple[RunRecords, list[str]],
) -> None:
    records, _ = everywhere
    summary = records.summary
    assert summary is not None
    assert (summary["status"], summary["engine"], summary["workers"]) == ("finished", "cluster", 4)
    assert summary["final_accuracy"] >= 0.95
    assert len(records.table("pushes")) == summary["pushes"] == 4 * 337


def test_it_replays_with_the_same_decisions(everywhere: tuple[RunRecords, list[str]], tmp_path: Path) -> None:
    records, _ = everywhere
    replayed = replay_records(records, recorded_spec(records), tmp_path)
    assert differences(records, replayed) == {"pushes": 0, "updates": 0, "grants": 0}


def test_runs_share_a_cluster_and_lose_no_more_than_what_was_on_a_node_that_dies(nodes: Nodes, tmp_path: Path) -> None:
    it_is_lost = tmp_path / "it is lost"
    network = tmp_path / "conf" / "model" / "waiting.yaml"
    network.parent.mkdir(parents=True)
    network.write_text(
        f"_target_: tests.experiment.specs.Troubled\npause_s: 0.05\nwaits_at: 60\nwaits_for: {it_is_lost}\n"
    )
    its_shard = f"+cluster.server.resources={{{OTHER}: 1}}", "engine.shards=2", "stop.pushes=1000000"
    its_worker = f"on_worker_loss=continue engine.lease_s=120 stop.epochs=3 model=waiting -cd {tmp_path}/conf".split()
    one = Driver(nodes.address, tmp_path / "one", on(FAST), *its_shard)
    other = Driver(nodes.address, tmp_path / "other", on(SLOW, OTHER, slowdown=1), *its_worker)
    one.wait_for_pushes()
    other.wait_for_pushes()
    nodes.lose(OTHER)
    one.end()
    summary = one.summary
    assert (summary["status"], summary["error"]) == ("failed", "server shard 1 died")
    assert summary["lost_workers"] == []
    it_is_lost.touch()
    other.end()
    summary = other.summary
    assert (summary["status"], summary["lost_workers"]) == ("finished", [1])
    wait_until_there_are(0)
