from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from dssp_bench.tasks.task import DataSource, ModelSource

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted([*CONF.glob("model/*.yaml"), *CONF.glob("dataset/*.yaml")])


def target_and_options(file: Path) -> tuple[Any, dict[str, Any]]:
    options = yaml.safe_load(file.read_text())
    module, _, attribute = options.pop("_target_").rpartition(".")
    return getattr(import_module(module), attribute), options


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_yaml_names_all_options_of_its_target_with_their_defaults(file: Path) -> None:
    target, options = target_and_options(file)
    built = target(**options)
    assert isinstance(built, ModelSource if file.parent.name == "model" else DataSource)
    assert set(options) == {field.name for field in fields(target)}
    if file.stem not in ("resnet50", "resnet110"):
        required = {name: options[name] for name in ("iteration_s",) if name in options}
        assert built == target(**required)


def test_the_networks_and_data_sets_that_users_expect_are_there() -> None:
    networks, data_sets = ({file.stem for file in FILES if file.parent.name == group} for group in ("model", "dataset"))
    assert networks >= {"mlp", "cnn", "alexnet_small", "resnet20", "resnet50", "resnet110", "torchvision"}
    assert data_sets >= {"digits", "fashion_mnist", "cifar10", "cifar100", "synthetic"}
