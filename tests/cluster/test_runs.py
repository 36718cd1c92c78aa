"""Whole runs whose workers come in over TCP: to the same weights as on one machine, with and without server shards."""

import multiprocessing
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.core.errors import ConfigurationError, WorkerFailed
from dssp_bench.experiment.cluster import KEY_VARIABLE
from dssp_bench.experiment.elsewhere import work_for
from dssp_bench.experiment.run import RunResult, resume, run
from dssp_bench.records.reader import RunRecords
from tests.experiment.specs import PARADIGMS, spec, troubled
from tests.experiment.watching import Watched, kill, run_processes

pytestmark = pytest.mark.processes
HOST = "127.0.0.1"
ALONE: dict[str, Any] = {"workers": [{"device": "cpu"}]}
THREE: dict[str, Any] = {"workers": [{"device": "cpu", "slowdown": slowdown} for slowdown in (1.0, 1.3, 3.0)]}
PATIENCE_S = 60.0


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
    with suppress(WorkerFailed):  # the run says why
        work_for((HOST, port), bytes.fromhex(key), None, PATIENCE_S)


@contextmanager
def workers(port: int, key: str, count: int) -> Iterator[None]:
    """So many, who wait until there is a run."""
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_worker, args=(port, key), name="elsewhere") for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            process.join(PATIENCE_S)
    finally:
        for process in processes:
            process.kill()
            process.join()


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def clustered(runs_dir: Path, key: str, paradigm: str, shards: int = 1, **changes: Any) -> RunResult:
    port, watched = free_port(), changes.pop("watched", None)
    of = spec(runs_dir, paradigm, "cluster", {"port": port, "shards": shards}, **changes)
    with workers(port, key, len(of.cluster.workers)):
        return run(of, [watched] if watched else [])


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


def test_a_killed_shard_fails_the_run_which_then_goes_on_to_the_same_weights(tmp_path: Path, key: str) -> None:
    changes: dict[str, Any] = {
        "cluster": ALONE, "model": troubled(pause_s=0.01), "stop": {"pushes": 100}, "checkpoint": {"every_s": 0.1}
    }  # fmt: skip
    expected = weights(run(spec(tmp_path, "asp", "local", **changes)))
    watched = Watched(lambda: kill("shard 1"), after_pushes=40)
    result = clustered(tmp_path, key, "asp", shards=2, watched=watched, **changes)
    assert (result.status, result.error) == ("failed", "server shard 1 died")
    port = spec_port(result.folder)
    with workers(port, key, 1):
        resumed = resume(result.folder)
    assert weights(resumed) == expected
    assert resumed.summary is not None
    assert resumed.summary["resumed"][0]["after_pushes"] > 0


def spec_port(folder: Path) -> int:
    return int(RunRecords(folder).config["engine"]["port"])


@pytest.mark.parametrize("wrong", ["", "abc", "zz" * 32, "ab" * 31])
def test_without_a_key_of_256_bits_nobody_is_let_in_and_nothing_is_started(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, wrong)
    with pytest.raises(ConfigurationError, match="hexadecimal") as refused:
        run(spec(tmp_path, "asp", "cluster", cluster=ALONE))
    assert "openssl rand -hex 32" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_without_ray_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="ray is not installed") as refused:
        run(spec(tmp_path, "asp", "cluster", {"launcher": "ray"}, cluster=ALONE))
    assert "pip install 'dssp-bench[cluster]'" in refused.value.hint
    assert list(tmp_path.iterdir()) == []
