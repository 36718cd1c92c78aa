"""Threads that share the work on flat tensors: every stripe is done once and in order, to the bits of one thread."""

import threading
from collections.abc import Callable

import pytest
import torch

from dssp_bench.core.update import SGD
from dssp_bench.engines.local.crew import Copier, Crew, StripedUpdate, threads_for


def nothing() -> None:
    pass


def post_and_drain(crew: Crew, work: Callable[[int], None], then: Callable[[], None]) -> None:
    crew.post(work, then)
    crew.drain()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_number_is_called_in_a_thread_of_its_own_and_in_the_order_of_posting(size: int) -> None:
    crew = Crew(size)
    seen: dict[int, list[int]] = {number: [] for number in range(size)}
    threads: dict[int, set[int]] = {number: set() for number in range(size)}

    def work(number: int, task: int) -> None:
        seen[number].append(task)
        threads[number].add(threading.get_ident())

    for task in range(50):
        crew.post(lambda number, task=task: work(number, task), nothing)  # type: ignore[misc]
    crew.drain()
    assert seen == {number: list(range(50)) for number in range(size)}
    assert all(len(own) == 1 for own in threads.values())
    assert len(set.union(*threads.values())) == size


def test_what_comes_then_waits_for_the_slowest_and_comes_once() -> None:
    crew, slow, calls = Crew(3), threading.Event(), list[str]()

    def work(number: int) -> None:
        if number == 1:
            slow.wait()
        calls.append("work")

    crew.post(work, lambda: calls.append("then"))
    assert "then" not in calls
    slow.set()
    crew.drain()
    assert calls == ["work", "work", "work", "then"]


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_thread_raises_the_caller_raises_and_nobody_waits_for_ever(number: int) -> None:
    def fail(mine: int) -> None:
        if mine == number:
            raise ValueError("no such luck")

    crew, then = Crew(2), threading.Event()
    with pytest.raises(ValueError, match="no such luck"):
        post_and_drain(crew, fail, then.set)
    assert then.wait(60)
    with pytest.raises(ValueError, match="no such luck"):
        crew.post(lambda _: None, nothing)


@pytest.mark.parametrize("size", [1, 2])
def test_an_error_of_what_comes_then_is_raised_too(size: int) -> None:
    def fail() -> None:
        raise OSError("no such socket")

    with pytest.raises(OSError, match="no such socket"):
        post_and_drain(Crew(size), lambda _: None, fail)


@pytest.mark.parametrize("elements", [1, 15, 16, 100, 1001])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_stripes_are_the_tensor(size: int, elements: int) -> None:
    tensor = torch.arange(elements)
    stripes = Crew(size).stripes(tensor)
    assert len(stripes) == size
    assert torch.equal(torch.cat(stripes), tensor)
    stripes[0].zero_()
    assert not tensor[0]


def test_a_striped_update_gives_the_very_bits_of_one_thread() -> None:
    torch.manual_seed(1)
    alone = torch.randn(100_003)
    shared, crew = alone.clone(), Crew(3)
    options = {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}
    one = SGD(alone, **options)  # type: ignore[arg-type]
    several = StripedUpdate(crew, shared, lambda stripe: SGD(stripe, **options))  # type: ignore[arg-type]
    for rate in (0.1, 0.1, 0.01):
        for gradients in ([(torch.randn(100_003), 1.0)], [(torch.randn(100_003), 0.5), (torch.randn(100_003), 0.25)]):
            one.apply(gradients, rate)
            several.apply(gradients, rate)
    crew.drain()
    assert torch.equal(alone, shared)


def test_every_copy_is_of_one_version_however_far_the_threads_are_apart() -> None:
    weights, crew, seen = torch.zeros(400), Crew(4), list[list[float]]()
    ones, targets = torch.ones(400), [torch.zeros(400) for _ in range(100)]
    rule = StripedUpdate(crew, weights, SGD)
    copier = Copier(weights, crew)
    hold = threading.Event()

    def wait(number: int) -> None:
        if number == 3:
            hold.wait()

    crew.post(wait, nothing)
    for target in targets:
        rule.apply([(ones, 1.0)], 1.0)
        copier.copy([target], lambda target=target: seen.append(target.unique().tolist()))  # type: ignore[misc]
    assert seen == [], "the last thread has not begun"
    hold.set()
    crew.drain()
    assert seen == [[-float(version)] for version in range(1, 101)]


@pytest.mark.parametrize("size", [0, 2])
def test_copies_are_made_for_those_named_and_for_nobody_else(size: int) -> None:
    source = torch.randn(50)
    targets = [torch.zeros(50) for _ in range(3)]
    copied = threading.Event()
    Copier(source, Crew(size) if size else None).copy([targets[0], targets[2]], copied.set)
    assert copied.wait(60)
    assert torch.equal(targets[0], source)
    assert torch.equal(targets[2], source)
    assert not targets[1].any()


def test_a_small_network_needs_no_second_thread() -> None:
    assert threads_for(torch.zeros(1000)) == 1
