"""What a run with workers elsewhere decides and refuses before anything is started."""

from pathlib import Path
from typing import Any

import pytest

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.experiment import cluster as module
from dssp_bench.experiment.cluster import check_cluster, device_here
from dssp_bench.experiment.elsewhere import KEY_VARIABLE
from dssp_bench.experiment.run import run
from tests.experiment.specs import spec


def layout(*devices: str, server: str = "auto") -> ClusterLayout:
    return ClusterLayout.model_validate(
        {"workers": [{"device": device} for device in devices], "server": {"device": server}}
    )


def have(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)


def test_the_server_does_not_look_for_a_workers_gpu_on_its_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, gpus=0)
    assert device_here(layout("cuda:3", "auto")) == "cpu"
    have(monkeypatch, gpus=1)
    assert device_here(layout("cpu", "cuda:3")) == "cuda:0"
    assert device_here(layout("auto")) == "cuda:0"
    assert device_here(layout("cpu", "cpu")) == "cpu"
    assert device_here(layout("cuda:3", server="cpu")) == "cpu"


def test_a_run_without_a_gpu_waits_for_workers_that_have_one_and_says_who_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, gpus=0)
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    result = run(
        spec(tmp_path, "asp", "cluster", {"startup_timeout_s": 1.0}, cluster={"workers": [{"device": "cuda:3"}]})
    )
    assert "not ready after 1 s: worker 0" in str(result.error)


def refused(tmp_path: Path, **options: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        check_cluster(spec(tmp_path, "asp", "cluster", options, cluster={"workers": [{}]}))
    return caught.value


def test_shards_of_weights_on_a_gpu_are_refused_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, gpus=1)
    error = refused(tmp_path, shards=2)
    assert (error.key, error.hint) == ("engine.shards", "cluster.server.device=cpu")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_address_is_none_that_ray_could_hand_to_workers(host: str, tmp_path: Path) -> None:
    assert refused(tmp_path, launcher="ray", host=host).key == "engine.host"


def test_a_machine_without_a_network_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    monkeypatch.setattr(module, "own_address", lambda: "127.0.0.1")
    run(spec(tmp_path, "asp", "cluster", {"startup_timeout_s": 0.5, "host": "auto"}, cluster={"workers": [{}]}))
    assert "workers can come from this machine only" in caplog.text
