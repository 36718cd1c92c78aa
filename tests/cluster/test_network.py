"""Runs across a network: one worker's machine is cut off in the middle, and comes back when that has had its effect.

There is one run for every answer to a worker's loss. They share the network, so that one story tells what becomes of
all three; each has a paradigm of its own.
"""

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.core.errors import RecordsError
from dssp_bench.experiment.replay import differences, recorded_spec, replay_records
from dssp_bench.records.reader import RunRecords
from tests.cluster.network import Network, NotPermittedError

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

_DSSP_BENCH = str(Path(sys.executable).with_name("dssp-bench"))
_PARADIGMS = {"continue": "bsp", "stop": "asp", "restart": "dssp"}
_BEYOND_ANY_LEAD = 20  # a worker so far ahead does not wait for the other: more than DSSP's upper threshold
_LOSS_WITHIN_S = 10.0  # 4.5 where nothing else goes on; without what is tested here it would be 30
_DELAY_S = 0.001
_BYTES_PER_S = 12.5e6
_WEIGHTS = (64 + 1) * 128 + (128 + 1) * 10  # of the default network on the default images
_ROUND_TRIP_S = 2 * (_DELAY_S + 4 * _WEIGHTS / _BYTES_PER_S)
_PATIENCE_S = 150.0  # for what takes a few seconds on a machine with nothing else to do


class ClusterRun:
    """One run on the machine `server` and its workers on others, each started as a user would start it."""

    def __init__(self, network: Network, folder: Path, on_worker_loss: str, port: int) -> None:
        self.on_worker_loss = on_worker_loss
        self._network = network
        self._folder = folder / on_worker_loss
        self._folder.mkdir()
        self._address = f"{network.addresses['server']}:{port}"
        self._environment = {"DSSP_BENCH_KEY": secrets.token_hex(32), "TMPDIR": str(self._folder)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start(
            "server",
            ["run", "engine=cluster", "engine.launcher=join", f"engine.port={port}"],
            [f"engine.host={network.addresses['server']}", f"on_worker_loss={on_worker_loss}"],
            [f"paradigm={_PARADIGMS[on_worker_loss]}", "stop.pushes=1000000", "tracking=none"],
            ["cluster.workers=[{slowdown:50},{slowdown:50}]", f"runs_dir={self._folder / 'runs'}"],
        )
        self.work("first", "--place", "0")
        self.work("second", "--place", "1")

    def work(self, machine: str, *options: str) -> None:
        """Start a worker."""
        self._start(machine, ["worker", "--join", self._address, *options])

    def _start(self, machine: str, *arguments: list[str]) -> None:
        command = [_DSSP_BENCH, *(argument for group in arguments for argument in group)]
        output = self._folder / f"{machine}.txt"
        self._processes[machine] = self._network.start(machine, command, output, self._environment)

    def pushes_of(self, worker: int) -> int:
        """How many pushes of a worker have been recorded until now."""
        try:
            return int((self.records.column("pushes", "worker").to_numpy() == worker).sum())
        except RecordsError:
            return 0  # there are none yet

    def has_ended(self, machine: str) -> bool:
        """Whether the process on this machine is over; the run's own is on `server`."""
        return self._processes[machine].poll() is not None

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._processes["server"].send_signal(signal.SIGINT)

    @property
    def exit_codes(self) -> dict[str, int | None]:
        """How each process has ended, by machine."""
        return {machine: process.poll() for machine, process in self._processes.items()}

    def said(self, machine: str) -> str:
        """All that was printed there."""
        return (self._folder / f"{machine}.txt").read_text()

    @property
    def records(self) -> RunRecords:
        """What there is now."""
        folders = [folder for folder in (self._folder / "runs").glob("*") if folder.is_dir()]
        if not folders:
            raise RecordsError("the run has not begun")
        return RunRecords.open(folders[0])

    @property
    def summary(self) -> dict[str, Any]:
        """What was said at the end."""
        summary = self.records.summary
        assert summary is not None
        return summary

    def arrivals_of(self, worker: int) -> list[float]:
        """When each push of a worker arrived, in seconds since the start of the run."""
        pushes = self.records.pushes
        return [float(at) for at in pushes.loc[pushes["worker"] == worker, "arrived_s"]]

    def __str__(self) -> str:
        """All that was printed anywhere, for whoever wants to know why a test failed."""
        return "\n".join(f"{machine} ({code}):\n{self.said(machine)}" for machine, code in self.exit_codes.items())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ClusterRun]]:
    """The three runs, by what they make of a worker's loss, when all is over."""
    try:
        network = Network(["server", "first", "second", "third"], _DELAY_S, _BYTES_PER_S)
    except NotPermittedError as reason:
        pytest.skip(str(reason))
    with network:
        folder = tmp_path_factory.mktemp("network")
        runs = {answer: ClusterRun(network, folder, answer, 4001 + i) for i, answer in enumerate(_PARADIGMS)}
        try:
            _play(network, **runs)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n" + "\n".join(map(str, runs.values()))) from None
        yield runs


def _play(network: Network, **runs: ClusterRun) -> None:
    going_on, stopped, restarted = runs["continue"], runs["stop"], runs["restart"]
    for run in runs.values():
        _wait_until(run, lambda run: run.pushes_of(0) and run.pushes_of(1), "it did not begin")
    network.cut("second")
    for run in (going_on, restarted):
        _wait_until(run, _is_one_workers, "the first worker did not go on")
    _wait_until(stopped, lambda run: run.has_ended("server"), "it did not stop")
    restarted.work("third")
    _wait_until(restarted, lambda run: run.pushes_of(2), "nobody could take the lost worker's place")
    network.mend("second")
    _wait_until(going_on, lambda run: run.pushes_of(2), "the lost worker did not come back")
    for run in (stopped, restarted):
        _wait_until(run, lambda run: run.has_ended("second"), "the lost worker did not go")
    for run in (going_on, restarted):
        run.interrupt()
    for run in runs.values():
        _wait_until(run, lambda run: None not in run.exit_codes.values(), "a process did not end")


def _is_one_workers(run: ClusterRun) -> bool:
    return run.pushes_of(0) - run.pushes_of(1) > _BEYOND_ANY_LEAD


def _wait_until(run: ClusterRun, happened: Callable[[ClusterRun], object], complaint: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not happened(run):
        assert time.monotonic() < deadline, f"on_worker_loss={run.on_worker_loss}: {complaint}"
        time.sleep(0.1)


# --- what became of them ---


@pytest.mark.parametrize("answer", _PARADIGMS)
def test_every_message_crosses_the_network(runs: dict[str, ClusterRun], answer: str) -> None:
    pushes = runs[answer].records.pushes
    for worker in (0, 1):
        mine = pushes[pushes["worker"] == worker]
        under_way = mine["arrived_s"].diff() - mine["held_s"].shift() - mine["compute_s"]
        assert under_way.min() >= _ROUND_TRIP_S


def test_a_worker_that_is_cut_off_leaves_the_others_to_go_on_and_comes_back_as_a_new_one(
    runs: dict[str, ClusterRun],
) -> None:
    run = runs["continue"]
    left, joined = run.summary["membership"]

    assert (left["event"], left["worker"]) == ("left", 1)
    assert (joined["event"], joined["worker"]) == ("joined", 2)
    assert left["at_s"] - run.arrivals_of(1)[-1] <= _LOSS_WITHIN_S
    assert any(left["at_s"] < at < joined["at_s"] for at in run.arrivals_of(0))
    assert run.summary["lost_workers"] == [1]
    assert run.summary["replacements"] == {"2": 1}
    assert run.exit_codes == {"server": 130, "first": 0, "second": 0}
    assert "coming back as a new one" in run.said("second")


def test_a_worker_that_is_cut_off_ends_the_run_if_that_is_wanted(runs: dict[str, ClusterRun]) -> None:
    run = runs["stop"]

    assert run.summary["status"] == "failed"
    assert "worker 1" in run.summary["error"]
    assert run.summary["error"] in run.said("server")
    assert run.arrivals_of(0)[-1] - run.arrivals_of(1)[-1] <= _LOSS_WITHIN_S
    assert run.exit_codes == {"server": 1, "first": 0, "second": 1}
    assert "the run is over" in run.said("second")


def test_the_place_of_a_worker_that_is_cut_off_is_anybodys_if_it_is_to_be_replaced(
    runs: dict[str, ClusterRun],
) -> None:
    run = runs["restart"]
    left, joined = run.summary["membership"]

    assert (left["event"], left["worker"]) == ("left", 1)
    assert (joined["event"], joined["worker"]) == ("joined", 2)
    assert left["at_s"] - run.arrivals_of(1)[-1] <= _LOSS_WITHIN_S
    assert any(left["at_s"] < at < joined["at_s"] for at in run.arrivals_of(0))
    assert run.summary["lost_workers"] == [1]
    assert run.summary["replacements"] == {"2": 1}
    assert run.exit_codes == {"server": 130, "first": 0, "second": 1, "third": 0}
    assert "place 1 is taken" in run.said("second")


@pytest.mark.parametrize("answer", ["continue", "restart"])
def test_what_was_decided_meanwhile_is_decided_again_in_a_replay(
    runs: dict[str, ClusterRun], answer: str, tmp_path: Path
) -> None:
    records = runs[answer].records
    replayed = replay_records(records, recorded_spec(records), tmp_path)
    assert differences(records, replayed) == {"pushes": 0, "updates": 0, "grants": 0}
