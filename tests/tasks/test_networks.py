from itertools import islice

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.tasks.data.digits import Digits
from dssp_bench.tasks.models.alexnet_small import AlexNetSmall
from dssp_bench.tasks.models.cnn import CNN
from dssp_bench.tasks.models.mlp import MLP
from dssp_bench.tasks.models.resnet import ResNet
from dssp_bench.tasks.models.torchvision_model import TorchvisionModel
from dssp_bench.tasks.sharding import Batches, iterations
from dssp_bench.tasks.task import ModelSource, Task

NETWORKS = [MLP(1), MLP(1, hidden=()), MLP(1, hidden=(8, 4)), CNN(1), AlexNetSmall(1), ResNet(1, depth=8)]


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("source", NETWORKS, ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 11, 9)], ids=str)
def test_every_network_takes_grey_and_colour_and_any_usual_size(
    source: ModelSource, shape: tuple[int, int, int]
) -> None:
    network = source.build(shape, classes=7)
    logits = network(torch.zeros(2, *shape))
    logits.sum().backward()
    assert logits.shape == (2, 7)
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("source", [CNN(1), AlexNetSmall(1), ResNet(1)], ids=str)
def test_images_that_are_too_small_are_refused(source: ModelSource) -> None:
    with pytest.raises(ConfigurationError, match=r"^model: .* needs images of at least .*, not 3x20"):
        source.build((3, 3, 20), classes=10)


def test_without_a_hidden_layer_the_perceptron_is_a_linear_model() -> None:
    assert size(MLP(1, hidden=()).build((1, 8, 8), 10)) == 64 * 10 + 10


def test_the_small_alexnet_has_three_convolutions_and_two_fully_connected_layers() -> None:
    layers = list(AlexNetSmall(1).build((3, 32, 32), 10).modules())
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == 3
    assert sum(isinstance(layer, nn.Linear) for layer in layers) == 2


@pytest.mark.parametrize(("depth", "mxnet"), [(50, 764_474), (110, 1_736_634)])
def test_a_residual_network_has_mxnets_parameters_but_for_the_normalisation_of_the_images(
    depth: int, mxnet: int
) -> None:
    scale_and_shift = 2 * 3  # of mxnet's bn_data, whose scale is fixed; ours has neither
    assert size(ResNet(1, depth=depth).build((3, 32, 32), 100)) == mxnet - scale_and_shift


@pytest.mark.parametrize("depth", [8, 20, 50])
def test_the_depth_of_a_residual_network_counts_its_layers_with_weights(depth: int) -> None:
    layers = ResNet(1, depth=depth).build((3, 32, 32), 10).modules()
    shortcuts = 3  # are not counted
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in layers) - shortcuts == depth


@pytest.mark.parametrize("depth", [2, 18, 51, -4])
def test_a_depth_that_gives_no_whole_blocks_is_refused(depth: int) -> None:
    with pytest.raises(ValidationError, match="depth must be 6 n \\+ 2, such as 20, 32, 50, 56 or 110"):
        ResNet(1, depth=depth)


@pytest.mark.parametrize("source", [MLP, CNN, AlexNetSmall, ResNet, TorchvisionModel])
def test_unknown_options_and_idle_iterations_are_refused(source: type[MLP]) -> None:
    with pytest.raises(ValidationError, match="iteration_s"):
        source(iteration_s=0)
    with pytest.raises(ValidationError, match="hiden"):
        source(iteration_s=1, hiden=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)
def test_a_network_of_torchvision_is_built_by_its_name(shape: tuple[int, int, int]) -> None:
    network = TorchvisionModel(1, name="mobilenet_v3_small").build(shape, classes=7)
    assert network.training
    assert network(torch.zeros(2, *shape)).shape == (2, 7)


def test_googlenet_has_one_output_while_training_too() -> None:
    assert TorchvisionModel(1, name="googlenet").build((3, 32, 32), 7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_trying_a_network_of_torchvision_leaves_no_trace_in_its_statistics() -> None:
    network = TorchvisionModel(1, name="resnet18").build((3, 32, 32), 7)
    statistics = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.num_batches_tracked == 0 for layer in statistics)


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError, match=r"model.name: .*'resnet_18' \(did you mean resnet18\?\)"):
        TorchvisionModel(1, name="resnet_18").build((3, 32, 32), 10)


def test_a_network_of_torchvision_that_cannot_take_the_images_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"^model.name: alexnet cannot take images of 1x8x8"):
        TorchvisionModel(1, name="alexnet").build((1, 8, 8), 10)


def test_the_default_task_is_learned_to_96_percent() -> None:
    task = Task(MLP(1), Digits().load())
    model = task.build_model(seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = Batches(task.data, torch.arange(task.data.examples), 32, seed=0, worker=0)
    for inputs, labels in islice(batches, iterations(15, task.data.examples, 32)):
        optimizer.zero_grad()
        torch.autograd.backward(task.loss(model(inputs), labels))
        optimizer.step()
    assert task.evaluate(model, "cpu")[1] >= 0.96
