"""Whole runs whose workers come in over TCP: to the same weights as on one machine, with and without server shards."""

import multiprocessing
import random
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dssp_bench.cli.main import app
from dssp_bench.core.errors import ConfigurationError, WorkerFailed
from dssp_bench.experiment.elsewhere import KEY_VARIABLE, work_for
from dssp_bench.experiment.run import RunResult, resume, run
from dssp_bench.experiment.spec import ConfigurationErrors
from dssp_bench.experiment.watcher import RunStatus
from dssp_bench.records.reader import RunRecords
from tests.experiment.specs import PARADIGMS, spec, troubled
from tests.experiment.watching import Watched, kill, run_processes

pytestmark = pytest.mark.processes
HOST = "127.0.0.1"
FAILED, REFUSED = 1, 2
ALONE: dict[str, Any] = {"workers": [{"device": "cpu"}]}
THREE: dict[str, Any] = {"workers": [{"device": "cpu", "slowdown": slowdown} for slowdown in (1.0, 1.3, 3.0)]}
PATIENCE_S = 60.0
WAITING_AT = 30


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    made = secrets.token_hex(32)
    monkeypatch.setenv(KEY_VARIABLE, made)
    return made


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert run_processes() == []


def _worker(port: int, key: str) -> None:
    try:
        work_for((HOST, port), bytes.fromhex(key), None, PATIENCE_S)
    except WorkerFailed as error:
        raise SystemExit(FAILED) from error


@contextmanager
def workers(port: int, key: str, count: int) -> Iterator[list[int | None]]:
    """So many, who wait until there is a run; in the end their exit codes."""
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_worker, args=(port, key), name="elsewhere") for _ in range(count)]
    codes: list[int | None] = []
    for process in processes:
        process.start()
    try:
        yield codes
        for process in processes:
            process.join(PATIENCE_S)
            codes.append(process.exitcode)
    finally:
        for process in processes:
            process.kill()
            process.join()


def free_port(in_a_row: int = 1) -> int:
    """The first of so many that are free, and that the system gives nobody who does not ask for them."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), ExitStack() as opened:
            for number in range(in_a_row):
                opened.enter_context(socket.create_server((HOST, port + number)))
            return port


def clustered(runs_dir: Path, key: str, paradigm: str, shards: int = 1, **changes: Any) -> RunResult:
    port, watched = free_port(shards), changes.pop("watched", None)
    of = spec(runs_dir, paradigm, "cluster", {"port": port, "shards": shards}, **changes)
    with workers(port, key, len(of.cluster.workers)) as codes:
        result = run(of, [watched] if watched else [])
    assert result.status == "failed" or codes == [0] * len(of.cluster.workers)
    return result


def weights(result: RunResult) -> str:
    assert (result.status, result.error) == ("finished", "")
    assert result.summary is not None
    return str(result.summary["weights_sha256"])


def test_a_worker_elsewhere_learns_exactly_what_one_here_learns(tmp_path: Path, key: str) -> None:
    here = weights(run(spec(tmp_path, "asp", "local", cluster=ALONE)))
    assert weights(clustered(tmp_path, key, "asp", cluster=ALONE)) == here
    assert weights(clustered(tmp_path, key, "asp", shards=3, cluster=ALONE)) == here


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_with_shards_every_paradigm_ends_with_everyones_share_and_replays(
    paradigm: str, tmp_path: Path, key: str
) -> None:
    result = clustered(tmp_path, key, paradigm, shards=2, cluster=THREE, stop={"epochs": 3})
    assert weights(result)
    records = RunRecords.open(result.folder)
    assert sorted(records.pushes["worker"].value_counts().to_dict().items()) == [(0, 30), (1, 30), (2, 30)]
    accuracies = records.evaluations["accuracy"]
    assert accuracies.iloc[-1] > 0.9 > accuracies.iloc[0]
    again = run(spec(tmp_path, paradigm, str(result.folder)))
    assert (again.status, again.error) == ("finished", "")


@pytest.mark.parametrize(("paradigm", "cluster"), [("asp", ALONE), ("bsp", THREE)])
def test_a_killed_shard_fails_the_run_which_then_goes_on(
    paradigm: str, cluster: dict[str, Any], tmp_path: Path, key: str
) -> None:
    count = len(cluster["workers"])
    changes: dict[str, Any] = {
        "cluster": cluster, "model": troubled(pause_s=0.01), "stop": {"pushes": 50 * count},
        "checkpoint": {"every_s": 0.1},
    }  # fmt: skip
    watched = Watched(lambda: kill("shard 1"), after_pushes=20 * count)
    result = clustered(tmp_path, key, paradigm, shards=2, watched=watched, **changes)
    assert (result.status, result.error) == ("failed", "server shard 1 died")
    with workers(int(RunRecords(result.folder).config["engine"]["port"]), key, count):
        resumed = resume(result.folder)
    assert resumed.summary is not None
    assert resumed.summary["resumed"][0]["after_pushes"] > 0
    pushes = RunRecords.open(result.folder).pushes
    assert len(pushes) == 50 * count
    if paradigm == "bsp":
        assert (pushes["worker"].value_counts() == 50).all()
    if count == 1:  # the order in which several push is never the same, and so not the last bit of a sum
        assert weights(resumed) == weights(run(spec(tmp_path, paradigm, "local", **changes)))
    again = run(spec(tmp_path, paradigm, str(result.folder)))
    assert (again.status, again.error) == ("finished", "")


class Replacing(Watched):
    """Kills a worker; when the one that comes in its place has pushed, the others may go on to the end."""

    def __init__(self, one: BaseProcess, other: BaseProcess, replaced: Path) -> None:
        super().__init__(self._replace, after_pushes=30)
        self._one, self._other = one, other
        self._replaced = replaced

    def _replace(self) -> None:
        self._one.kill()
        self._other.start()

    def progress(self, status: RunStatus) -> None:
        super().progress(status)
        if any(worker.clock > WAITING_AT for worker in status.workers):
            self._replaced.touch()


def test_with_shards_a_worker_that_died_is_replaced_by_the_next_that_comes(tmp_path: Path, key: str) -> None:
    context = multiprocessing.get_context("forkserver")
    port = free_port(3)
    crew = [context.Process(target=_worker, args=(port, key), name="elsewhere") for _ in range(4)]
    replaced = tmp_path / "replaced"
    for process in crew[:3]:
        process.start()
    try:
        of = spec(
            tmp_path, "ssp", "cluster", {"port": port, "shards": 3, "reconnect_s": 0.2}, cluster=THREE,
            model=troubled(pause_s=0.01, waits_at=WAITING_AT, waits_for=str(replaced)), stop={"pushes": 150},
            on_worker_loss="restart",
        )  # fmt: skip
        result = run(of, [Replacing(crew[0], crew[3], replaced)])
    finally:
        for process in (each for each in crew if each.pid):
            process.join(PATIENCE_S)
            process.kill()
            process.join()
    assert weights(result)
    assert result.summary is not None
    (lost,) = result.summary["lost_workers"]
    assert result.summary["replacements"] == {"3": lost}
    pushes = RunRecords.open(result.folder).pushes["worker"].value_counts()
    assert pushes[3] > 0
    assert pushes.sum() == 150


def test_each_shard_needs_the_port_that_follows(tmp_path: Path, key: str) -> None:
    port = free_port(2)
    with socket.create_server((HOST, port + 1)), pytest.raises(ConfigurationError, match=f"{port + 1} cannot be"):
        run(spec(tmp_path, "asp", "cluster", {"port": port, "shards": 2}, cluster=ALONE))
    with pytest.raises(ConfigurationErrors, match="65535 is the last there is"):
        spec(tmp_path, "asp", "cluster", {"port": 65_535, "shards": 2})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["", "abc", "zz" * 32, "ab" * 31])
def test_without_a_key_of_256_bits_nobody_is_let_in_and_nothing_is_started(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, wrong)
    with pytest.raises(ConfigurationError, match="hexadecimal") as refused:
        run(spec(tmp_path, "asp", "cluster", cluster=ALONE))
    assert "openssl rand -hex 32" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("logging_as_before")
def test_without_ray_the_command_says_what_to_install_and_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not there
    monkeypatch.delitem(sys.modules, "dssp_bench.engines.cluster.on_ray", raising=False)
    told = CliRunner().invoke(app, ["run", "engine=cluster", "tracking=none", f"runs_dir={tmp_path}"])
    assert told.exit_code == REFUSED
    assert "engine.launcher: ray is not installed" in told.stderr
    assert "pip install 'dssp-bench[cluster]'" in told.stderr
    assert "Traceback" not in told.output
    assert list(tmp_path.iterdir()) == []
