"""Runs on a Ray cluster of three nodes, which are made on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest

from dssp_bench.experiment.replay import differences, recorded_spec, replay_records
from dssp_bench.records.reader import RunRecords

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]  # what Ray's own code warns of
FAST, SLOW, OTHER = "fast_machine", "slow_machine", "other_machine"
PLACES = FAST, SLOW, OTHER, FAST
WITHIN_S = 90
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}


class Nodes:
    """A head and two nodes, which differ in what they offer; each of the two may die once."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "resources": {FAST: 2}})
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


class Driver:
    """`dssp-bench run engine=cluster` in a process of its own."""

    started: ClassVar[list["Driver"]] = []

    def __init__(self, nodes: Nodes | None, runs_dir: Path, *overrides: str, **environment: str) -> None:
        command = [sys.executable, "-m", "dssp_bench.cli.main", "run", "engine=cluster", "tracking.mlflow=false"]
        command += ["tracking.figures=false", f"runs_dir={runs_dir}", *overrides]
        command += [f"engine.address={nodes.address}"] if nodes else []
        self._runs_dir = runs_dir
        self._said: list[str] = []
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
        )
        self.started.append(self)

    def wait_for_pushes(self) -> None:
        """Until the workers work."""
        assert self._process.stdout
        for line in self._process.stdout:
            self._said.append(line)
            if "pushes/s" in line:
                return
        pytest.fail("".join(self._said))

    def end(self) -> RunRecords:
        """What the run has left, when it is over."""
        rest, _ = self._process.communicate(timeout=WITHIN_S)
        self.exit_code = self._process.returncode
        self.said = "".join(self._said) + rest
        (folder,) = (path for path in self._runs_dir.iterdir() if (path / "config.yaml").exists())
        return RunRecords(folder)

    def give_up(self) -> None:
        """Where a test has failed, the run need not go on."""
        self._process.terminate()
        self._process.communicate(timeout=WITHIN_S)


@pytest.fixture(autouse=True)
def _no_driver_outlives_its_test() -> Iterator[None]:
    yield
    while Driver.started:
        Driver.started.pop().give_up()


def summary_of(driver: Driver) -> dict[str, Any]:
    summary = driver.end().summary
    assert summary is not None, driver.said
    return summary


def workers_of_ray() -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"ray::_Host.work" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


def nodes_of_workers(nodes: Nodes) -> list[str]:
    """The node of each worker, as Ray has it."""
    program = f"""
import ray
ray.init(address={nodes.address!r}, logging_level="ERROR")
from ray._private.state import actors
for actor in actors().values():
    if actor["State"] == "ALIVE" and actor["ActorClassName"] == "_Host":
        print("on", actor["Address"]["NodeID"])
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WITHIN_S, check=True)
    return [line.split()[1] for line in told.stdout.splitlines() if line.startswith("on ")]


def wait_until_nobody_works() -> None:
    end = time.monotonic() + WITHIN_S
    while workers_of_ray():
        assert time.monotonic() < end, "workers are left"
        time.sleep(0.1)


def on(*resources: str, slowdown: int = 50) -> str:
    """A layout whose workers want these, and sleep most of the time."""
    listed = ", ".join(f"{{slowdown: {slowdown}, resources: {{{name}: 1}}}}" for name in resources)
    return f"cluster.workers=[{listed}]"


def test_a_run_on_three_nodes_leaves_the_same_records_as_any_and_replays(nodes: Nodes, tmp_path: Path) -> None:
    everywhere = f"cluster.workers=[{','.join(f'{{slowdown: 1.5, resources: {{{name}: 1}}}}' for name in PLACES)}]"
    driver = Driver(nodes, tmp_path, "paradigm=dssp", "cluster=hetero4", everywhere, "engine.shards=2")
    driver.wait_for_pushes()
    where = nodes_of_workers(nodes)
    records = driver.end()
    assert driver.exit_code == 0
    assert len(where) == 4, "not all workers are there"
    assert len(set(where)) == 3, f"workers sat on {where}"
    summary = records.summary
    assert summary is not None, driver.said
    assert (summary["status"], summary["engine"], summary["workers"]) == ("finished", "cluster", 4)
    assert summary["final_accuracy"] >= 0.95
    assert len(records.table("pushes")) == summary["pushes"] == 4 * 337
    wait_until_nobody_works()
    replayed = replay_records(records, recorded_spec(records), tmp_path)
    assert differences(records, replayed) == {"pushes": 0, "updates": 0, "grants": 0}


def test_two_runs_that_name_no_cluster_have_one_each(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with TemporaryDirectory(dir="/tmp", prefix="ray") as folder:  # the names of sockets are in it, and must be short
        drivers = [
            Driver(None, tmp_path / name, "cluster=hetero", f"stop.epochs={epochs}", RAY_TMPDIR=folder, RAY_ADDRESS="")
            for name, epochs in (("short", 2), ("long", 10))
        ]
        assert all((summary := summary_of(driver))["lost_workers"] == [] for driver in drivers), summary
    wait_until_nobody_works()


def test_an_address_in_the_environment_where_nobody_is_is_refused_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    driver = Driver(None, tmp_path, RAY_ADDRESS="127.0.0.1:9")
    summary = summary_of(driver)
    assert summary["status"] == "failed"
    assert "no Ray cluster at 127.0.0.1:9: Connection refused" in summary["error"]
    assert "Traceback" not in driver.said


def test_runs_share_a_cluster(nodes: Nodes, tmp_path: Path) -> None:
    drivers = [Driver(nodes, tmp_path / name, "cluster=hetero", "stop.epochs=5") for name in ("one", "other")]
    summaries = [summary_of(driver) for driver in drivers]
    assert [(summary["status"], summary["lost_workers"]) for summary in summaries] == [("finished", [])] * 2
    wait_until_nobody_works()


def test_a_killed_worker_is_started_again_where_it_may_be(nodes: Nodes, tmp_path: Path) -> None:
    driver = Driver(nodes, tmp_path, on(FAST, FAST), "on_worker_loss=restart", "stop.epochs=6")
    driver.wait_for_pushes()
    os.kill(min(workers_of_ray()), signal.SIGKILL)
    summary = summary_of(driver)
    assert summary["status"] == "finished"
    (lost,) = summary["lost_workers"]
    assert summary["replacements"] == {"2": lost}
    wait_until_nobody_works()


def test_a_shard_whose_node_dies_fails_the_run(nodes: Nodes, tmp_path: Path) -> None:
    driver = Driver(nodes, tmp_path, on(FAST, FAST), f"+cluster.server.resources={{{OTHER}: 1}}", "engine.shards=2")
    driver.wait_for_pushes()
    nodes.lose(OTHER)
    summary = summary_of(driver)
    assert (summary["status"], summary["error"]) == ("failed", "server shard 1 died")
    wait_until_nobody_works()


def test_when_a_node_dies_its_workers_are_lost_and_the_others_go_on(nodes: Nodes, tmp_path: Path) -> None:
    driver = Driver(nodes, tmp_path, on(FAST, SLOW, FAST, SLOW), "on_worker_loss=continue", "stop.epochs=8")
    driver.wait_for_pushes()
    nodes.lose(SLOW)
    summary = summary_of(driver)
    assert summary["status"] == "finished"
    assert sorted(summary["lost_workers"]) == [1, 3]
    wait_until_nobody_works()


def test_a_worker_that_hangs_is_given_up_and_ended(nodes: Nodes, tmp_path: Path) -> None:
    settings = "on_worker_loss=continue", "engine.lease_s=1", "stop.epochs=4"
    driver = Driver(nodes, tmp_path, on(FAST, FAST, slowdown=20), *settings)
    driver.wait_for_pushes()
    os.kill(min(workers_of_ray()), signal.SIGSTOP)
    summary = summary_of(driver)
    assert (summary["status"], len(summary["lost_workers"])) == ("finished", 1)
    wait_until_nobody_works()
