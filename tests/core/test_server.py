"""The data plane: what the coordinator decided, on three weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Applied, Left, MessageId, Outcome, Push, Update, WorkerId
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.server import ParameterServer, Slot, digest
from dssp_bench.core.update import SGD, Weighted, weighted_sum
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.ssp import SSP


@dataclass
class Written:
    """An update rule that writes down what it is asked to do."""

    steps: list[tuple[list[float], float]] = field(default_factory=list)

    def apply(self, gradients: Sequence[Weighted], learning_rate: float) -> None:
        self.steps.append((weighted_sum(gradients).tolist(), learning_rate))

    def state(self) -> list[Tensor]:
        return []


def slot(*gradient: float, statistics: tuple[float, ...] = ()) -> Slot:
    return Slot(torch.tensor(gradient, dtype=torch.float32), torch.tensor(statistics))


def outcome(*updates: dict[tuple[int, int], float], keep: tuple[MessageId, ...] = ()) -> Outcome:
    made = [
        Update(n, 0, tuple(Applied(MessageId(*message), 0, weight) for message, weight in update.items()))
        for n, update in enumerate(updates, start=1)
    ]
    return Outcome(0, updates=tuple(made), keep=keep)


def test_updates_are_carried_out_in_order_each_at_its_own_rate() -> None:
    rule = Written()
    server = ParameterServer(torch.zeros(2), rule, {0: slot(1, 2), 1: slot(3, 4)})
    server.carry_out(outcome({(1, 1): 1.0}, {(0, 1): 1.0}), [0.1, 0.2])
    assert rule.steps == [([3, 4], 0.1), ([1, 2], 0.2)]


def test_gradients_are_added_with_their_weights_and_slots_stay_as_they_are() -> None:
    rule, slots = Written(), {0: slot(1, 2), 1: slot(3, 4), 2: slot(10, 20)}
    server = ParameterServer(torch.zeros(2), rule, slots)
    server.carry_out(outcome({(0, 1): 0.5, (1, 1): 2.0, (2, 1): 1.0}, {(2, 1): 0.1}), [1.0, 1.0])
    assert rule.steps == [([16.5, 29.0], 1.0), ([1.0, 2.0], 1.0)]
    assert [s.gradient.tolist() for s in slots.values()] == [[1, 2], [3, 4], [10, 20]]


def test_a_kept_gradient_outlives_what_its_worker_does_next() -> None:
    rule, slots = Written(), {0: slot(1, 2)}
    server = ParameterServer(torch.zeros(2), rule, slots)
    server.carry_out(outcome(keep=(MessageId(0, 1),)), [])
    slots[0].gradient.fill_(9)
    server.carry_out(outcome({(0, 1): 1.0}, {(0, 2): 1.0}), [1.0, 1.0])
    assert [gradient for gradient, _ in rule.steps] == [[1, 2], [9, 9]]
    slots[0].gradient.fill_(7)
    server.carry_out(outcome({(0, 1): 1.0}), [1.0])
    assert rule.steps[-1][0] == [7, 7]  # the copy is gone once it was applied


def test_running_statistics_move_towards_the_weighted_mean_of_the_batches() -> None:
    slots = {0: slot(0, statistics=(1.0, 8.0)), 1: slot(0, statistics=(3.0, 0.0))}
    server = ParameterServer(
        torch.zeros(1), Written(), slots, statistics=torch.zeros(2), momentum=torch.tensor([0.1, 0.5])
    )
    server.carry_out(outcome({(0, 1): 1.0, (1, 1): 1.0}), [1.0])
    torch.testing.assert_close(server.statistics, torch.tensor([0.2, 2.0]))
    server.carry_out(outcome({(0, 2): 3.0, (1, 2): 1.0}), [1.0])
    torch.testing.assert_close(server.statistics, torch.tensor([0.2 + 0.1 * 1.3, 2.0 + 0.5 * 4.0]))


def test_a_weight_scales_a_gradient_and_not_the_statistics_of_its_batch() -> None:
    slots = {0: slot(1.0, statistics=(4.0,))}
    rule = Written()
    server = ParameterServer(torch.zeros(1), rule, slots, statistics=torch.zeros(1), momentum=torch.tensor([0.5]))
    server.carry_out(outcome({(0, 1): 0.25}), [1.0])
    assert (rule.steps[0][0], server.statistics.tolist()) == ([0.25], [2.0])


def test_there_is_one_rate_for_each_update() -> None:
    server = ParameterServer(torch.zeros(1), Written(), {0: slot(1)})
    with pytest.raises(ValueError, match="shorter"):
        server.carry_out(outcome({(0, 1): 1.0}), [])


def test_a_gradient_comes_to_the_device_of_the_weights() -> None:
    @dataclass
    class Looks:
        device: str = ""

        def apply(self, gradients: Sequence[Weighted], learning_rate: float) -> None:
            self.device = gradients[0][0].device.type

        def state(self) -> list[Tensor]:
            return []

    rule = Looks()
    server = ParameterServer(torch.zeros(2, device="meta"), rule, {0: slot(1, 2)})
    server.carry_out(outcome({(0, 1): 1.0}), [1.0])
    assert rule.device == "meta"


def test_an_update_of_no_weight_leaves_the_statistics_alone() -> None:
    slots = {0: slot(1.0, statistics=(4.0,))}
    server = ParameterServer(torch.zeros(1), Written(), slots, statistics=torch.zeros(1), momentum=torch.tensor([0.5]))
    server.carry_out(outcome({(0, 1): 0.0}), [1.0])
    assert server.statistics.tolist() == [0.0]


# --- with a coordinator, against torch -------------------------------------------------------------------------------

SGD_OPTIONS = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
GRADIENTS = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))


def carry_out(server: ParameterServer, decided: Outcome) -> None:
    server.carry_out(decided, [0.1] * len(decided.updates))


def train(paradigm: Paradigm, workers: int, order: list[WorkerId], leaves: tuple[WorkerId, ...] = ()) -> Tensor:
    """Push GRADIENTS in this order of workers, then let some leave; the weights at the end."""
    weights = torch.tensor([1.0, 2.0, 3.0])
    slots = {worker: slot(0, 0, 0) for worker in range(workers)}
    server = ParameterServer(weights, SGD(weights, **SGD_OPTIONS), slots)  # type: ignore[arg-type]
    coordinator = Coordinator(paradigm, range(workers))
    coordinator.start()
    for at, (worker, gradient) in enumerate(zip(order, GRADIENTS, strict=False)):
        slots[worker].gradient.copy_(gradient)
        carry_out(server, coordinator.handle(Push(worker, at)))
    for worker in leaves:
        carry_out(server, coordinator.handle(Left(worker, 99)))
    return weights


def torch_steps(gradients: list[Tensor]) -> Tensor:
    weights = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = torch.optim.SGD([weights], lr=0.1, **SGD_OPTIONS)  # type: ignore[arg-type]
    for gradient in gradients:
        weights.grad = gradient.clone()
        optimizer.step()
    return weights.detach()


def test_asp_takes_one_step_per_push() -> None:
    torch.testing.assert_close(train(ASP(), 2, [0, 0, 1, 0, 1]), torch_steps(list(GRADIENTS[:5])))


def test_bsp_takes_one_step_per_round_along_the_mean() -> None:
    rounds = [GRADIENTS[:2].mean(0), GRADIENTS[2:4].mean(0)]
    torch.testing.assert_close(train(BSP(), 2, [0, 1, 1, 0]), torch_steps(rounds))


def test_bsp_can_take_one_step_per_round_along_the_sum() -> None:
    torch.testing.assert_close(train(BSP("merge_sum"), 3, [2, 0, 1]), torch_steps([GRADIENTS[:3].sum(0)]))


def test_ssp_can_merge_a_held_gradient_with_the_one_that_releases_it() -> None:
    steps = [GRADIENTS[0], GRADIENTS[1] + GRADIENTS[2]]
    torch.testing.assert_close(train(SSP(1, "merge_sum"), 2, [0, 0, 1]), torch_steps(steps))


def test_a_gradient_of_a_worker_that_left_is_part_of_its_round() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    slots = {worker: slot(0, 0, 0) for worker in range(3)}
    server = ParameterServer(weights, SGD(weights, **SGD_OPTIONS), slots)  # type: ignore[arg-type]
    coordinator = Coordinator(BSP(), range(3))
    coordinator.start()
    events: list[Push | Left] = [Push(0, 1), Left(0, 2), Push(1, 3), Push(2, 4)]
    for event in events:
        if isinstance(event, Push):
            slots[event.worker].gradient.copy_(GRADIENTS[event.worker])
        carry_out(server, coordinator.handle(event))
    torch.testing.assert_close(weights, torch_steps([GRADIENTS[:3].mean(0)]))


def test_when_everyone_has_left_what_waited_is_applied() -> None:
    torch.testing.assert_close(train(BSP(), 2, [1], leaves=(1, 0)), torch_steps([GRADIENTS[0]]))


def test_another_server_goes_on_from_a_servers_tensors_as_if_it_were_the_same() -> None:
    def server() -> ParameterServer:
        weights = torch.tensor([1.0, 2.0])
        slots = {0: slot(0.5, 1.0, statistics=(3.0,)), 1: slot(2.0, -1.0, statistics=(5.0,))}
        rule = SGD(weights, momentum=0.9)
        return ParameterServer(weights, rule, slots, statistics=torch.ones(1), momentum=torch.tensor([0.1]))

    one, other = server(), server()
    one.carry_out(outcome({(0, 1): 1.0}), [0.1])
    one.carry_out(Outcome(0, keep=(MessageId(1, 1),)), [])
    kept, waiting = MessageId(1, 1), MessageId(0, 2)
    other.restore(one.tensors([kept, waiting]))
    assert digest(one.weights) == digest(other.weights) != digest(server().weights)
    for after in (one, other):
        after._slots[1].gradient.fill_(7)  # its worker goes on
        after.carry_out(outcome({(1, 1): 0.5, (0, 2): 0.5}), [0.1])
    assert torch.equal(one.weights, other.weights)
    assert torch.equal(one.statistics, other.statistics)
    assert digest(one.weights) == digest(other.weights)


def test_tensors_are_copies() -> None:
    server = ParameterServer(torch.zeros(2), SGD(torch.zeros(2)), {0: slot(1.0, 1.0)})
    tensors = server.tensors([])
    assert tensors["optimizer"].numel() == 0
    server.weights.fill_(1)
    assert tensors["weights"].tolist() == [0.0, 0.0]


def test_a_gradient_that_is_kept_already_is_not_copied_again() -> None:
    slots = {0: slot(1.0)}
    rule = Written()
    server = ParameterServer(torch.zeros(1), rule, slots)
    server.carry_out(Outcome(0, keep=(MessageId(0, 1),)), [])
    slots[0].gradient.fill_(5)
    server.carry_out(Outcome(0, keep=(MessageId(0, 1),)), [])
    server.carry_out(outcome({(0, 1): 1.0}), [1.0])
    assert rule.steps == [([1.0], 1.0)]
