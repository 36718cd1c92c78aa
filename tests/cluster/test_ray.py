"""Runs on a Ray cluster of three nodes, which are made on this machine."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest

from dssp_bench.core.errors import RecordsError
from dssp_bench.experiment.replay import differences, recorded_spec, replay_records
from dssp_bench.records.reader import RunRecords
from tests.experiment.watching import environment as surroundings

pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore"),  # what Ray's own code warns of
    pytest.mark.timeout(900),  # longer than all that is waited for, which says more when it does not come
]
OURS = {"DSSP_BENCH_TESTS": secrets.token_hex(8)}
"""In the environment of all that these tests start, so that they are not taken in by others."""
FAST, SLOW, OTHER = "fast_machine", "slow_machine", "other_machine"
PLACES = FAST, SLOW, OTHER, FAST
WITHIN_S = 150
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}


class Nodes:
    """A head and two nodes, which differ in what they offer; each of the two may die."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(OURS)
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
        self.said = ""
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**surroundings(), **OURS, **environment},
        )
        self.started.append(self)

    def wait_for_pushes(self, of: int = 0) -> None:
        """Until this worker works."""
        self._wait_until(lambda: self._pushes_of(of) > 0, f"worker {of} does not work")

    def _wait_until(self, happened: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        ended = False
        while not happened():
            if time.monotonic() > deadline or ended:
                self.give_up()
                pytest.fail(f"{complaint}: {self.said}")
            ended = self._process.poll() is not None  # and then it is looked at once more
            time.sleep(0.1)

    def _pushes_of(self, worker: int) -> int:
        try:
            return int((RunRecords.open(self._folder).column("pushes", "worker").to_numpy() == worker).sum())
        except RecordsError:
            return 0  # there are none yet

    @property
    def _folder(self) -> Path:
        folders = [path for path in self._runs_dir.glob("*") if (path / "config.yaml").exists()]
        if not folders:
            raise RecordsError("the run has not begun")
        return folders[0]

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> RunRecords:
        """What the run has left, when it is over."""
        try:
            self.said, _ = self._process.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            self.give_up()
            pytest.fail(f"the run does not end: {self.said}")
        self.exit_code = self._process.returncode
        return RunRecords(self._folder)

    def give_up(self) -> None:
        """Where a test has failed, the run need not go on."""
        self._process.terminate()
        said, _ = self._process.communicate(timeout=WITHIN_S)
        self.said = self.said or said


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
                ours = OURS["DSSP_BENCH_TESTS"].encode() in (process / "environ").read_bytes()
                found += [int(process.name)] * ours
        except OSError:
            continue  # it has ended meanwhile
    return found


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
    records = driver.end()
    assert driver.exit_code == 0
    where = nodes_of_workers(nodes)
    assert len(where) == 4
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


def test_runs_share_a_cluster_and_lose_no_more_than_what_was_on_a_node_that_dies(nodes: Nodes, tmp_path: Path) -> None:
    it_is_lost = tmp_path / "it is lost"
    network = tmp_path / "conf" / "model" / "waiting.yaml"
    network.parent.mkdir(parents=True)
    network.write_text(
        f"_target_: tests.experiment.specs.Troubled\npause_s: 0.05\nwaits_at: 60\nwaits_for: {it_is_lost}\n"
    )
    its_shard = f"+cluster.server.resources={{{OTHER}: 1}}", "engine.shards=2", "stop.pushes=1000000"
    its_worker = f"on_worker_loss=continue engine.lease_s=120 stop.epochs=3 model=waiting -cd {tmp_path}/conf".split()
    one = Driver(nodes, tmp_path / "one", on(FAST, FAST), *its_shard)
    other = Driver(nodes, tmp_path / "other", on(SLOW, OTHER, slowdown=1), *its_worker)
    one.wait_for_pushes()
    other.wait_for_pushes()
    nodes.lose(OTHER)
    summary = summary_of(one)
    assert (summary["status"], summary["error"]) == ("failed", "server shard 1 died")
    assert summary["lost_workers"] == []
    it_is_lost.touch()
    summary = summary_of(other)
    assert (summary["status"], summary["lost_workers"]) == ("finished", [1])
    wait_until_nobody_works()


def test_a_worker_that_is_killed_or_hangs_is_started_again_where_it_may_be(nodes: Nodes, tmp_path: Path) -> None:
    settings = "on_worker_loss=restart", "engine.lease_s=6", "stop.pushes=1000000"
    driver = Driver(nodes, tmp_path, on(FAST, FAST), *settings)
    driver.wait_for_pushes()
    one, other = workers_of_ray()
    os.kill(one, signal.SIGKILL)
    driver.wait_for_pushes(of=2)
    os.kill(other, signal.SIGSTOP)
    driver.wait_for_pushes(of=3)
    driver.interrupt()
    summary = summary_of(driver)
    assert (driver.exit_code, summary["status"]) == (130, "killed")
    assert sorted(summary["lost_workers"]) == [0, 1]
    assert summary["replacements"] == {str(2 + i): lost for i, lost in enumerate(summary["lost_workers"])}
    wait_until_nobody_works()
