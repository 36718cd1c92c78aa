"""The page of numbers that says how a run stands."""

import math

import pytest
import torch

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import SECOND, Event, Joined, Left, Push
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.schedule import LearningRate
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.serve import serve
from dssp_bench.engines.status import Page, State, StatusPage, page_size
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.ssp import SSP
from tests.engines.scripted import ScriptedEngine

RATE = LearningRate(1.0, (), 0.1, "samples", "none", workers=2, batch_size=1, examples=100)


def page_after(paradigm: Paradigm, *events: Event, present: tuple[int, ...] = (0, 1), workers: int = 2) -> Page:
    page = StatusPage(torch.zeros(page_size(workers), dtype=torch.float64))
    page.begin()
    serve(Coordinator(paradigm, present), ScriptedEngine(events), Limits(), RATE, None, [page])
    return page.read()


def test_before_the_start_nothing_has_happened() -> None:
    page = StatusPage(torch.full((page_size(2),), math.pi, dtype=torch.float64))
    page.begin()
    assert page.read()[:4] == (0.0, 0, 0, None)
    assert [tuple(row) for row in page.read().workers] == [(0, 0, None, 0.0, State.STARTING)] * 2


def test_at_the_start_everyone_computes() -> None:
    assert [row.state for row in page_after(BSP()).workers] == [State.COMPUTING] * 2


def test_it_counts_pushes_and_updates_and_knows_the_latest_loss() -> None:
    page = page_after(BSP(), Push(0, SECOND, loss=2.5), Push(1, 2 * SECOND, loss=1.5), Push(0, 3 * SECOND))
    assert page[:4] == (3.0, 3, 1, 1.5)


def test_it_shows_clocks_and_leads_and_who_is_held_and_for_how_long() -> None:
    events = [Push(0, SECOND), Push(0, 2 * SECOND), Push(1, 5 * SECOND), Push(0, 6 * SECOND)]
    fast, slow = page_after(SSP(threshold=0), *events[:1], events[2]).workers
    assert (fast.clock, fast.lead, fast.waited_s, fast.state) == (1, 0, 4.0, State.COMPUTING)
    fast, slow = page_after(SSP(threshold=1), *events).workers
    assert (fast.clock, fast.lead, fast.waited_s, fast.state) == (3, 2, 3.0, State.HELD)
    assert (slow.clock, slow.lead, slow.waited_s, slow.state) == (1, 0, 0.0, State.COMPUTING)


def test_it_shows_the_staleness_of_the_latest_gradient() -> None:
    rows = page_after(ASP(), Push(0, 1), Push(0, 2), Push(1, 3)).workers
    assert [row.staleness for row in rows] == [0, 2]


def test_a_worker_that_left_leads_nobody_and_holds_nobody_back() -> None:
    page = page_after(ASP(), Push(0, 1), Push(0, 2), Push(1, 3), Left(1, 4))
    fast, gone = page.workers
    assert (fast.lead, gone.lead, gone.clock, gone.state) == (0, 0, 1, State.LEFT)


def test_a_worker_that_joins_shows_the_clock_that_it_starts_at() -> None:
    page = page_after(ASP(), Push(0, 1), Push(0, 2), Joined(1, 3), present=(0,))
    assert (page.workers[1].clock, page.workers[1].state) == (2, State.COMPUTING)


@pytest.mark.parametrize("loss", [math.nan, None])
def test_a_loss_that_is_no_number_is_not_shown(loss: float | None) -> None:
    assert page_after(ASP(), Push(0, 1, loss=loss)).loss is None


def test_a_page_is_read_by_others_while_it_is_written() -> None:
    numbers = torch.zeros(page_size(2), dtype=torch.float64)
    writer, reader = StatusPage(numbers), StatusPage(numbers)
    writer.begin()
    serve(Coordinator(ASP(), [0, 1]), ScriptedEngine([Push(1, 7)]), Limits(), RATE, None, [writer])
    assert reader.read().workers[1].clock == 1
