import pytest
import torch

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.tasks import torchvision_import
from dssp_bench.tasks.torchvision_import import import_torchvision


def test_torchvision_can_be_imported_beside_this_torch() -> None:
    assert import_torchvision("models").resnet18
    assert import_torchvision("datasets").CIFAR10


def test_operators_that_load_are_not_declared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    declared: list[str] = []
    monkeypatch.setattr(torchvision_import, "_operators_load", lambda: True)
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append(name))
    torchvision_import._declare_missing_operators.__wrapped__()
    assert not declared
    monkeypatch.setattr(torchvision_import, "_operators_load", lambda: False)
    torchvision_import._declare_missing_operators.__wrapped__()
    assert declared == ["torchvision::nms", "torchvision::qnms"]


def test_a_missing_torchvision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_import, "find_spec", lambda name: None)
    with pytest.raises(DsspBenchError, match="torchvision is not installed"):
        torchvision_import._operators_load()
