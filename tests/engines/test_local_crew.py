"""Threads that share the work on flat tensors: every part is done once, the sum is what one thread makes of it."""

import threading

import pytest
import torch

from dssp_bench.core.update import SGD
from dssp_bench.engines.local.crew import Crew, SharedCopies, SharedUpdate, crew_for


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_number_is_called_once_in_a_thread_of_its_own(size: int) -> None:
    crew, seen = Crew(size), dict[int, int]()
    for _ in range(3):
        seen.clear()
        crew.each(lambda number: seen.update({number: threading.get_ident()}))
        assert sorted(seen) == list(range(size))
        assert len(set(seen.values())) == size
        assert seen[0] == threading.get_ident()


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_thread_raises_the_caller_raises_and_the_crew_goes_on(number: int) -> None:
    def fail(mine: int) -> None:
        if mine == number:
            raise ValueError("no such luck")

    crew = Crew(2)
    with pytest.raises(ValueError, match="no such luck"):
        crew.each(fail)
    done: list[int] = []
    crew.each(done.append)
    assert sorted(done) == [0, 1]


@pytest.mark.parametrize("elements", [1, 15, 16, 100, 1001])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_parts_are_the_tensor(size: int, elements: int) -> None:
    tensor = torch.arange(elements)
    parts = Crew(size).parts(tensor)
    assert len(parts) == size
    assert torch.equal(torch.cat(parts), tensor)
    parts[0].zero_()
    assert not tensor[0]


def test_a_shared_update_gives_the_very_bits_of_one_thread() -> None:
    torch.manual_seed(1)
    alone = torch.randn(100_003)
    shared = alone.clone()
    options = {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}
    one = SGD(alone, **options)  # type: ignore[arg-type]
    several = SharedUpdate(Crew(3), shared, lambda part: SGD(part, **options))  # type: ignore[arg-type]
    for rate in (0.1, 0.1, 0.01):
        for gradients in ([(torch.randn(100_003), 1.0)], [(torch.randn(100_003), 0.5), (torch.randn(100_003), 0.25)]):
            one.apply(gradients, rate)
            several.apply(gradients, rate)
    assert torch.equal(alone, shared)


def test_copies_are_made_for_those_named_and_for_nobody_else() -> None:
    source = torch.randn(50)
    targets = {worker: torch.zeros(50) for worker in range(3)}
    copies = SharedCopies(Crew(2), source, targets)
    copies.make([0, 2])
    assert torch.equal(targets[0], source)
    assert torch.equal(targets[2], source)
    assert not targets[1].any()


def test_a_small_network_needs_no_second_thread() -> None:
    assert crew_for(torch.zeros(1000)).size == 1
