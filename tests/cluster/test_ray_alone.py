"""Runs on Ray that are given no cluster; beside each other and beside those of the other tests."""

import os
import signal
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from dssp_bench.experiment.run import run
from tests.cluster.driver import Driver, wait_until_there_are
from tests.experiment.specs import spec

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore"),  # what Ray's own code warns of
    pytest.mark.timeout(1200),  # longer than all that is waited for, which says more when it does not come
]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Driver, Driver]:
    """One that ends by itself, and one of which, after that, one worker is killed and the other hangs."""
    mine = tmp_path_factory.mktemp("two")
    settings = "on_worker_loss=restart", "engine.lease_s=6", "stop.pushes=1000000"
    slow = "cluster.workers=[{slowdown: 50}, {slowdown: 50}]"  # so that they sleep most of the time
    with TemporaryDirectory(dir="/tmp", prefix="ray", ignore_cleanup_errors=True) as folder:
        # Names of sockets are in this one, which must be short.
        alone = {"RAY_TMPDIR": folder, "RAY_ADDRESS": ""}
        short = Driver(None, mine / "short", "cluster.workers=[{}]", "stop.epochs=2", **alone)
        long = Driver(None, mine / "long", slow, *settings, **alone)
        long.wait_for_pushes()
        short.end()
        assert len(list(Path(folder).glob("ray/session_2*"))) == 2, "they share one"
        killed, hanging = wait_until_there_are(2)
        os.kill(killed, signal.SIGKILL)
        os.kill(hanging, signal.SIGSTOP)
        try:
            long.wait_for_pushes(of=2)
            long.wait_for_pushes(of=3)
        finally:
            with suppress(ProcessLookupError):
                os.kill(hanging, signal.SIGCONT)
        long.interrupt()
        long.end()
    wait_until_there_are(0)
    return short, long


def test_two_runs_that_name_no_cluster_have_one_each(two_runs: tuple[Driver, Driver]) -> None:
    short, _ = two_runs
    summary = short.summary
    assert (short.exit_code, summary["status"], summary["lost_workers"]) == (0, "finished", [])


def test_a_worker_that_is_killed_or_hangs_is_started_again(two_runs: tuple[Driver, Driver]) -> None:
    _, long = two_runs
    summary = long.summary
    assert (long.exit_code, summary["status"]) == (130, "killed")
    assert sorted(summary["lost_workers"]) == [0, 1]
    assert summary["replacements"] == {str(2 + i): lost for i, lost in enumerate(summary["lost_workers"])}


def test_an_address_in_the_environment_where_nobody_is_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    result = run(spec(tmp_path, "asp", "cluster", {"launcher": "ray"}, cluster={"workers": [{"device": "cpu"}]}))
    assert (result.status, result.summary and result.summary["status"]) == ("failed", "failed")
    assert result.error.startswith("no Ray cluster at 127.0.0.1:9: Connection refused")
    assert len(result.error.splitlines()) == 1
