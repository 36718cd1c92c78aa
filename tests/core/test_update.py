"""Our SGD on flat weights against torch's on the same vector."""

import pytest
import torch

from dssp_bench.core.update import SGD

OPTIONS = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_those_of_torch_with_a_rate_that_changes(options: dict[str, float]) -> None:
    weights = torch.tensor([1.0, -2.0, 3.0])
    theirs = torch.nn.Parameter(weights.clone())
    ours, reference = SGD(weights, **options), torch.optim.SGD([theirs], lr=1.0, **options)  # type: ignore[arg-type]
    for step, rate in enumerate([0.1, 0.1, 0.01, 0.5]):
        gradient = torch.tensor([0.5, float(step), -1.0])
        ours.apply([(gradient, 1.0)], rate)
        theirs.grad = gradient.clone()
        reference.param_groups[0]["lr"] = rate
        reference.step()
        torch.testing.assert_close(weights, theirs.detach())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_gradient_is_read_and_never_written_or_kept(options: dict[str, float]) -> None:
    def weights_after_two_steps(overwrite: bool) -> torch.Tensor:
        weights, gradient = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -0.5])
        rule = SGD(weights, **options)  # type: ignore[arg-type]
        rule.apply([(gradient, 1.0)], 0.1)
        assert gradient.tolist() == [0.5, -0.5]
        if overwrite:
            gradient.fill_(1e9)
        rule.apply([(torch.tensor([1.0, 1.0]), 1.0)], 0.1)
        return weights

    assert torch.equal(weights_after_two_steps(False), weights_after_two_steps(True))


def test_the_weights_change_in_place() -> None:
    flat = torch.zeros(4)
    SGD(flat[1:3]).apply([(torch.ones(2), 1.0)], 0.5)
    assert flat.tolist() == [0.0, -0.5, -0.5, 0.0]


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match="Nesterov"):
        SGD(torch.zeros(1), nesterov=True)


def test_several_gradients_are_one_step_along_their_weighted_sum() -> None:
    one, several = torch.zeros(3), torch.zeros(3)
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 4.0, -1.0])
    alone, together = SGD(one, momentum=0.9), SGD(several, momentum=0.9)
    for weight in (0.5, 0.25):
        alone.apply([(weight * first + 2 * second, 1.0)], 0.1)
        together.apply([(first, weight), (second, 2.0)], 0.1)
    torch.testing.assert_close(several, one)
    assert first.tolist() == [1.0, 2.0, 3.0]
    alone.apply([(first, 0.5)], 0.1)
    together.apply([(0.5 * first, 1.0)], 0.1)
    torch.testing.assert_close(several, one)
