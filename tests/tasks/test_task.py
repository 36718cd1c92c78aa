import pytest
import torch
from torch import Tensor, nn

from dssp_bench.tasks.models.mlp import MLP
from dssp_bench.tasks.models.resnet import ResNet
from dssp_bench.tasks.task import Data, Task, Views, augment, look, prepare
from tests.tasks.samples import generator, images, numbered


def data_of(inputs: Tensor, crop_padding: int = 0, mirror: bool = False) -> Data:
    channels = inputs.shape[1]
    labels = torch.arange(len(inputs)) % 2
    statistics = ((0.25,) * channels, (0.5,) * channels)
    return Data(inputs, labels, inputs, labels, 2, *statistics, crop_padding=crop_padding, mirror=mirror)


def test_a_data_set_knows_its_shape_and_size() -> None:
    assert numbered(7).input_shape == (2, 4, 4)
    assert numbered(7).examples == 7


def test_bytes_are_scaled_to_one_before_they_are_normalised() -> None:
    inputs = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert prepare(inputs, data_of(inputs)).flatten().tolist() == pytest.approx([-0.5, 1.5])


def test_floats_are_normalised_as_they_are_and_not_written() -> None:
    inputs = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    assert prepare(inputs, data_of(inputs)).flatten().tolist() == pytest.approx([-0.5, 1.5])
    assert inputs.flatten().tolist() == [0.0, 1.0]


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    inputs = torch.ones(1, 2, 1, 1)
    data = Data(inputs, torch.zeros(1), inputs, torch.zeros(1), 2, mean=(0.0, 1.0), std=(0.5, 1.0))
    assert prepare(inputs, data).flatten().tolist() == [2.0, 0.0]


def test_inputs_prepared_after_an_evaluation_can_be_trained_on() -> None:
    inputs = torch.rand(2, 1, 3, 7)  # of a kind that no other test has prepared
    with torch.inference_mode():
        prepare(inputs, data_of(inputs))
    assert not prepare(inputs, data_of(inputs)).is_inference()


def test_a_view_without_offset_is_the_upper_left_crop_of_the_padded_image() -> None:
    seen = look(images(1, 3, 4, 5), Views(torch.tensor([[0, 0]]), torch.tensor([False])), padding=1)
    assert torch.equal(seen[:, :, 1:, 1:], images(1, 3, 4, 5)[:, :, :-1, :-1])
    assert not seen[:, :, 0].any()
    assert not seen[:, :, :, 0].any()


def test_every_crop_and_mirror_is_what_slicing_and_flipping_give() -> None:
    inputs, padding = images(18, 3, 5, 4), 1
    offsets = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(2))
    seen = look(inputs, Views(offsets[:, :2], offsets[:, 2] == 1), padding)
    padded = nn.functional.pad(inputs, (padding,) * 4)
    for image, (down, right, mirrored) in enumerate(offsets.tolist()):
        crop = padded[image, :, down : down + 5, right : right + 4]
        assert torch.equal(seen[image], crop.flip(2) if mirrored else crop)


def test_augmentation_draws_every_crop_and_both_mirrors() -> None:
    views = Views.draw(500, numbered(crop_padding=1, mirror=True), generator())
    assert {tuple(offset) for offset in views.offsets.tolist()} == {
        (down, right) for down in range(3) for right in range(3)
    }
    assert set(views.mirrored.tolist()) == {True, False}


def test_augmentation_depends_on_its_generator_alone() -> None:
    data = data_of(images(8, 3, 6, 6), crop_padding=2, mirror=True)
    first, again = (augment(data.train_inputs, data, generator(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(data.train_inputs, data, generator(2)))


def test_augmentation_keeps_type_and_shape_and_leaves_the_images_alone() -> None:
    data = data_of(images(8, 3, 6, 6), crop_padding=2, mirror=True)
    seen = augment(data.train_inputs, data, generator())
    assert (seen.dtype, seen.shape) == (torch.uint8, (8, 3, 6, 6))
    assert torch.equal(data.train_inputs, images(8, 3, 6, 6))


def test_a_data_set_that_wants_no_augmentation_gets_none() -> None:
    data = numbered()
    assert augment(data.train_inputs, data, generator()) is data.train_inputs


def test_initial_weights_depend_on_the_seed_alone() -> None:
    task = Task(MLP(iteration_s=1), numbered())
    torch.manual_seed(1)
    first = task.build_model(seed=5).state_dict()
    torch.manual_seed(2)
    again, other = task.build_model(seed=5).state_dict(), task.build_model(seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_building_a_model_does_not_disturb_the_randomness_of_others() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    Task(MLP(iteration_s=1), numbered()).build_model(seed=5)
    assert torch.equal(torch.rand(1), expected)


class Constant(nn.Module):
    """Says class 1 for everything, with certainty p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.logits = torch.tensor([1 - p, p]).log()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits.expand(len(inputs), -1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_evaluation_counts_every_test_example_once_whatever_the_batch(batch_size: int) -> None:
    task = Task(MLP(iteration_s=1), data_of(images(5, 1, 2, 2)))  # labels 0 1 0 1 0
    loss, accuracy = task.evaluate(Constant(0.8), "cpu", batch_size)
    assert accuracy == pytest.approx(2 / 5)
    assert loss == pytest.approx(-torch.tensor([0.2, 0.8, 0.2, 0.8, 0.2]).log().mean().item())


def test_evaluation_uses_the_running_statistics_and_leaves_the_model_as_it_was() -> None:
    task = Task(ResNet(iteration_s=1, depth=8), data_of(images(6, 3, 8, 8)))
    model = task.build_model(0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert task.evaluate(model, "cpu", 6) == pytest.approx(task.evaluate(model, "cpu", 1))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_loss_is_the_mean_cross_entropy() -> None:
    assert Task.loss(torch.zeros(3, 4), torch.tensor([0, 1, 2])).item() == pytest.approx(torch.tensor(4.0).log().item())
