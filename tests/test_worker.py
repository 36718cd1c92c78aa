"""A worker: gradients as autograd computes them, in a slot that somebody else owns, and nothing copied."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from torch import Tensor, nn

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Push
from dssp_bench.core.server import ParameterServer, Slot
from dssp_bench.core.update import SGD
from dssp_bench.paradigms.asp import ASP
from dssp_bench.tasks.models.resnet import ResNet
from dssp_bench.worker import (
    Worker,
    bind_gradients,
    bind_parameters,
    bind_statistics,
    flat_parameters,
    flat_statistics,
    statistics_momentum,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Such small networks only wait for each other on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(seed: int = 0, dropout: float = 0.0, momentum: float | None = 0.3) -> nn.Module:
    """Two normalisation layers, one of them without statistics of its own, and perhaps dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4, momentum=momentum),
        nn.ReLU(),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(4 * 16, 8),
        nn.BatchNorm1d(8, momentum=0.2),
        nn.BatchNorm1d(8, track_running_stats=False),
        nn.Linear(8, 3),
    )


def batches(seed: int = 1, size: int = 8, side: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        labels = torch.randint(0, 3, (size,), generator=generator)
        yield torch.randn(size, 1, side, side, generator=generator) + labels.view(-1, 1, 1, 1), labels


def slot_for(model: nn.Module) -> Slot:
    return Slot(torch.full_like(flat_parameters(model), 9.0), torch.zeros_like(flat_statistics(model)))


def worker(model: nn.Module, slot: Slot, weights: Tensor | None = None, seed: int = 5) -> Worker:
    weights = flat_parameters(model) if weights is None else weights
    return Worker(model, batches(), F.cross_entropy, weights, slot, lambda iteration: seed + iteration)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_the_gradient_and_the_loss_are_autograds_on_the_same_batch() -> None:
    model, reference = network(), network()
    slot = slot_for(model)
    loss = worker(model, slot).compute_gradient()

    inputs, labels = next(batches())
    expected = F.cross_entropy(reference.train()(inputs), labels)
    expected.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.reshape(-1) for p in reference.parameters() if p.grad is not None]
    assert torch.equal(slot.gradient, torch.cat(gradients))
    assert float(loss) == float(expected.detach())


def test_gradients_land_in_the_slot_itself() -> None:
    model = network()
    slot = slot_for(model)
    made = worker(model, slot)
    address = slot.gradient.data_ptr()
    for _ in range(3):
        made.compute_gradient()
    offset = 0
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.data_ptr() == address + 4 * offset
        offset += parameter.numel()
    assert offset == slot.gradient.numel()


def test_a_gradient_does_not_add_to_the_one_before() -> None:
    model, again = network(), network()
    slot, other = slot_for(model), slot_for(again)
    first = worker(model, slot)
    first.compute_gradient()
    first.compute_gradient()
    second = worker(again, other)
    next(second._batches)
    second.compute_gradient()
    assert torch.equal(slot.gradient, other.gradient)


def test_it_computes_on_whatever_the_weights_hold_now() -> None:
    model = network()
    slot, weights = slot_for(model), flat_parameters(model)
    made = worker(model, slot, weights)
    weights.zero_()  # the server writes a new version
    made.compute_gradient()
    assert not any(bool(parameter.any()) for parameter in model.parameters())
    assert slot.gradient.count_nonzero() == 3  # with all weights zero only the last bias has a gradient


def test_warming_up_counts_as_no_iteration_and_takes_no_batch() -> None:
    model, cold = network(dropout=0.5), network(dropout=0.5)
    slot, other = slot_for(model), slot_for(cold)
    warm = worker(model, slot)
    warm.warm_up((torch.zeros(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)))
    assert warm.iterations == 0
    loss = warm.compute_gradient()
    assert torch.equal(loss, worker(cold, other).compute_gradient())
    assert torch.equal(slot.gradient, other.gradient)
    assert torch.equal(slot.statistics, other.statistics)


def test_workers_that_share_a_network_attach_before_each_iteration() -> None:
    model, weights = network(), flat_parameters(network())
    slots = [slot_for(model), slot_for(model)]
    first = Worker(model, batches(1), F.cross_entropy, weights, slots[0], lambda i: i)
    second = Worker(model, batches(2), F.cross_entropy, weights, slots[1], lambda i: i)
    for one in (first, second):
        one.attach()
        one.compute_gradient()
    alone = network()
    slot = slot_for(alone)
    Worker(alone, batches(1), F.cross_entropy, flat_parameters(alone), slot, lambda i: i).compute_gradient()
    assert torch.equal(slots[0].gradient, slot.gradient)
    assert torch.equal(slots[0].statistics, slot.statistics)
    assert not torch.equal(slots[1].gradient, slot.gradient)


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_depends_on_the_number_of_the_iteration_and_nothing_else() -> None:
    model, other = network(dropout=0.5), network(dropout=0.5)
    slot, other_slot = slot_for(model), slot_for(other)
    first, second = worker(model, slot), worker(other, other_slot)
    for _ in range(3):
        torch.rand(17)  # somebody else draws in between
        first.compute_gradient()
        second.compute_gradient()
        assert torch.equal(slot.gradient, other_slot.gradient)


def test_another_seed_drops_other_units() -> None:
    model, other = network(dropout=0.5), network(dropout=0.5)
    slot, other_slot = slot_for(model), slot_for(other)
    worker(model, slot, seed=1).compute_gradient()
    worker(other, other_slot, seed=2).compute_gradient()
    assert not torch.equal(slot.gradient, other_slot.gradient)


# --- flat vectors -----------------------------------------------------------------------------------------------------


def test_flat_vectors_and_networks_are_two_views_of_the_same_numbers() -> None:
    model, other = network(0), network(1)
    flat, statistics = flat_parameters(other), flat_statistics(other)
    statistics.uniform_()
    gradient = torch.rand_like(flat)
    bind_parameters(model, flat)
    bind_statistics(model, statistics)
    bind_gradients(model, gradient)
    assert torch.equal(flat_parameters(model), flat)
    assert torch.equal(flat_statistics(model), statistics)
    inputs = next(batches())[0]
    bind_statistics(other, statistics.clone())
    assert torch.equal(model.eval()(inputs), other.eval()(inputs))
    flat.zero_()
    assert not flat_parameters(model).any()


def test_a_network_without_normalisation_has_no_statistics() -> None:
    model = nn.Linear(2, 2)
    assert flat_statistics(model).numel() == statistics_momentum(model).numel() == 0
    bind_statistics(model, torch.empty(0))


def test_the_momentum_of_the_statistics_is_each_layers_own() -> None:
    assert statistics_momentum(network()).tolist() == pytest.approx([0.3] * 8 + [0.2] * 16)
    assert statistics_momentum(network(momentum=None))[0] == pytest.approx(0.1)


# --- one worker is ordinary training ----------------------------------------------------------------------------------


def train_through_the_server(model: nn.Module, data: Iterator[tuple[Tensor, Tensor]], steps: int) -> ParameterServer:
    weights, statistics, momentum = flat_parameters(model), flat_statistics(model), statistics_momentum(model)
    slot = Slot(torch.zeros_like(weights), torch.zeros_like(statistics))
    made = Worker(model, data, F.cross_entropy, weights, slot, lambda iteration: iteration)
    rule = SGD(weights, momentum=0.9, weight_decay=1e-3, nesterov=True)
    server = ParameterServer(weights, rule, {0: slot}, statistics=statistics, momentum=momentum)
    coordinator = Coordinator(ASP(), [0])
    coordinator.start()
    for step in range(steps):
        made.compute_gradient()
        server.carry_out(coordinator.handle(Push(0, step)), [0.05])
    return server


@pytest.mark.parametrize("kind", ["small", "resnet20"])
def test_one_worker_and_its_server_train_exactly_as_an_ordinary_loop_does(kind: str) -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        return network(3) if kind == "small" else ResNet(depth=20, iteration_s=1.0).build((1, 8, 8), 3)

    steps, side = (12, 4) if kind == "small" else (4, 8)
    server = train_through_the_server(build(), batches(side=side), steps)

    model, data = build().train(), batches(side=side)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)
    for _ in range(steps):
        inputs, labels = next(data)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(server.weights, flat_parameters(model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(server.statistics, flat_statistics(model), rtol=1e-4, atol=1e-5)
    assert server.statistics.numel() > 0


def test_what_was_trained_through_the_server_evaluates_as_what_an_ordinary_loop_trained() -> None:
    server = train_through_the_server(network(3), batches(), 40)
    model = network(4)
    bind_parameters(model, server.weights)
    bind_statistics(model, server.statistics)
    inputs, labels = next(batches(99, size=200))
    assert (model.eval()(inputs).argmax(1) == labels).float().mean() > 0.7


def test_a_batch_that_is_not_finite_leaves_no_trace_in_the_next_ones_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    weights, statistics = flat_parameters(model), flat_statistics(model)
    good = (torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]))
    bad = (torch.full((4, 1, 2, 2), float("nan")), good[1])
    slot = Slot(torch.zeros_like(weights), torch.zeros_like(statistics))
    worker = Worker(model, iter([bad, good]), nn.functional.cross_entropy, weights, slot, lambda _: 1)
    worker.compute_gradient()
    assert not worker.is_finite()
    worker.compute_gradient()
    assert worker.is_finite()
