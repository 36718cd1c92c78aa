"""Real processes on a GPU: the same runs as on the CPU, with weights and slots in the server's device memory."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dssp_bench.experiment.run import RunResult, run
from dssp_bench.records.reader import RunRecords
from tests.experiment.specs import PARADIGMS, RESNET, spec, troubled
from tests.experiment.watching import Watched, descendants, held_resources, kill, run_processes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.processes,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

THREE: dict[str, Any] = {"workers": [{"name": "a"}, {"name": "b", "slowdown": 1.5}, {"name": "c", "slowdown": 3.0}]}
PLACES: dict[str, dict[str, Any]] = {
    "all on the GPU": THREE,
    "server on the CPU": {**THREE, "server": {"device": "cpu"}},
    "server on the GPU, workers on the CPU": {
        "workers": [{**worker, "device": "cpu"} for worker in THREE["workers"]],
        "server": {"device": "cuda:0"},
    },
    "one worker on the CPU": {"workers": [*THREE["workers"][:2], {"name": "c", "device": "cpu"}]},
}


def local(runs_dir: Path, paradigm: str, *watched: Watched, **changes: Any) -> RunResult:
    return run(spec(runs_dir, paradigm, "local", **{"stop": {"epochs": 3}, **changes}), watched)


def check(result: RunResult, runs_dir: Path) -> RunRecords:
    """It ended well, learned, and replays to the same decisions."""
    assert (result.status, result.error) == ("finished", "")
    records = RunRecords.open(result.folder)
    assert records.evaluations["accuracy"].iloc[-1] > 0.9
    again = run(spec(runs_dir, "asp", result.folder.name))
    assert (again.status, again.error) == ("finished", "")
    assert run_processes() == []
    return records


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_each_paradigm_trains_on_one_gpu_and_replays_to_the_same_decisions(paradigm: str, tmp_path: Path) -> None:
    records = check(local(tmp_path, paradigm, cluster=THREE), tmp_path)
    assert records.pushes.groupby("worker").size().tolist() == [30, 30, 30]
    assert records.environment is not None
    assert records.environment["devices"] == {"server": "cuda:0", "workers": ["cuda:0"] * 3}
    assert records.environment["transport"] == ["shared"] * 3


@pytest.mark.parametrize("place", PLACES)
def test_wherever_server_and_workers_are_bsp_learns_the_same(place: str, tmp_path: Path) -> None:
    records = check(local(tmp_path, "bsp", cluster=PLACES[place]), tmp_path)
    virtual = {**THREE, "workers": [{**worker, "device": "cpu"} for worker in THREE["workers"]]}
    expected = RunRecords.open(run(spec(tmp_path, "bsp", cluster=virtual, stop={"epochs": 3})).folder).pushes
    found = records.pushes.sort_values(["clock", "worker"])["loss"].tolist()
    assert found == pytest.approx(expected.sort_values(["clock", "worker"])["loss"].tolist(), rel=0.02, abs=1e-3)


@pytest.mark.parametrize(("server", "device"), [("cuda:0", "cpu"), ("cpu", "cuda:0"), ("cuda:0", "cuda:0")])
def test_the_evaluator_may_compute_elsewhere_than_the_server(server: str, device: str, tmp_path: Path) -> None:
    cluster = {**THREE, "server": {"device": server}}
    evaluation = {"every_epochs": 0.3, "device": device}
    records = check(local(tmp_path, "ssp", cluster=cluster, evaluation=evaluation), tmp_path)
    assert len(records.evaluations) > 2


def test_a_network_with_normalisation_layers_trains_on_the_gpu(tmp_path: Path) -> None:
    result = local(tmp_path, "dssp", cluster=THREE, model=RESNET, stop={"epochs": 10})
    check(result, tmp_path)


def test_virtual_time_trains_on_the_gpu_too(tmp_path: Path) -> None:
    on_gpu = {"workers": [{"device": "cuda:0"}, {"device": "cuda:0", "slowdown": 1.7}]}
    on_cpu = {"workers": [{"device": "cpu"}, {"device": "cpu", "slowdown": 1.7}]}
    gpu, cpu = (run(spec(tmp_path, "dssp", cluster=cluster)) for cluster in (on_gpu, on_cpu))
    losses = [RunRecords.open(result.folder).pushes["loss"].tolist() for result in (gpu, cpu)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02, abs=1e-3)


def test_when_a_worker_on_the_gpu_is_killed_the_others_go_on(tmp_path: Path) -> None:
    watched = Watched(lambda: kill("b"), after_pushes=4)
    result = local(tmp_path, "bsp", watched, cluster=THREE, model=troubled(pause_s=0.01))
    assert result.summary is not None
    assert result.summary["lost_workers"] == [1]
    check(result, tmp_path)


def test_when_the_server_with_its_memory_is_killed_the_run_has_failed(tmp_path: Path) -> None:
    watched = Watched(lambda: kill("server"))
    result = local(tmp_path, "ssp", watched, cluster=THREE, model=troubled(pause_s=0.01))
    assert (result.status, result.error) == ("failed", "the server process was killed by SIGKILL")
    assert run_processes() == []


def test_several_runs_on_the_gpu_leave_nothing_behind(tmp_path: Path) -> None:
    local(tmp_path, "asp", cluster=THREE)
    before = held_resources()
    for _ in range(3):
        assert local(tmp_path, "asp", cluster=THREE).status == "finished"
    assert held_resources() == before
    assert len(descendants(os.getpid())) <= 2  # the process that forks the others, and Python's own
