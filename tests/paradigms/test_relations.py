"""Paradigms that must agree with each other at the ends of their ranges, on random clusters."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from dssp_bench.core.messages import Nanoseconds, Outcome, WorkerId
from dssp_bench.core.paradigm import HeldGradients, Paradigm
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from tests.scenario import Run, drive

# Each worker's iteration times, over and over; short ones, so that ties are common.
CLUSTERS = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4), min_size=1, max_size=5)
DEATHS = st.dictionaries(st.integers(0, 4), st.integers(0, 120), max_size=2)
HELD_GRADIENTS: st.SearchStrategy[HeldGradients] = st.sampled_from(["apply", "merge_sum", "merge_mean"])
ITERATIONS = 12


def run(paradigm: Paradigm, cluster: list[list[int]], deaths: dict[WorkerId, Nanoseconds]) -> Run:
    compute: list[Callable[[int], Nanoseconds]] = [lambda n, takes=takes: takes[n % len(takes)] for takes in cluster]  # type: ignore[misc]
    deaths = {worker: at for worker, at in deaths.items() if worker < len(cluster)}
    return drive(paradigm, compute, iterations=ITERATIONS, leave_at=deaths)


def without_thresholds(outcomes: list[Outcome]) -> list[Outcome]:
    return [o._replace(push=o.push and o.push._replace(threshold=None)) for o in outcomes]


@given(CLUSTERS, DEATHS, HELD_GRADIENTS)
def test_ssp_0_releases_as_bsp_does(
    cluster: list[list[int]], deaths: dict[WorkerId, Nanoseconds], held_gradients: HeldGradients
) -> None:
    assert run(SSP(0, held_gradients), cluster, deaths).releases == run(BSP(), cluster, deaths).releases


@given(CLUSTERS, DEATHS, st.sampled_from(["merge_mean", "merge_sum"]))
def test_ssp_0_that_merges_is_bsp(cluster: list[list[int]], deaths: dict[WorkerId, Nanoseconds], how: str) -> None:
    ssp, bsp = SSP(0, how), BSP(how)  # type: ignore[arg-type]
    assert run(ssp, cluster, deaths).outcomes == run(bsp, cluster, deaths).outcomes


@given(CLUSTERS, DEATHS, HELD_GRADIENTS)
def test_ssp_without_an_end_is_asp(
    cluster: list[list[int]], deaths: dict[WorkerId, Nanoseconds], held_gradients: HeldGradients
) -> None:
    ssp = run(SSP(10**9, held_gradients), cluster, deaths)
    asp = run(ASP(), cluster, deaths)
    assert ssp.releases == asp.releases
    assert [o.updates for o in ssp.outcomes] == [o.updates for o in asp.outcomes]
    if held_gradients == "apply":
        assert without_thresholds(ssp.outcomes) == asp.outcomes


@given(
    CLUSTERS,
    DEATHS,
    HELD_GRADIENTS,
    st.integers(0, 5),
    st.sampled_from(["bounded", "literal", "single_grant"]),
    st.sampled_from(["raw", "hold_corrected"]),
)
def test_dssp_without_a_range_is_ssp(
    cluster: list[list[int]],
    deaths: dict[WorkerId, Nanoseconds],
    held_gradients: HeldGradients,
    s: int,
    variant: str,
    interval: str,
) -> None:
    dssp = DSSP(s, s, variant, interval, held_gradients)  # type: ignore[arg-type]
    assert run(dssp, cluster, deaths).outcomes == run(SSP(s, held_gradients), cluster, deaths).outcomes


@given(CLUSTERS, DEATHS, st.sampled_from(["bounded", "literal", "single_grant"]), st.integers(0, 9))
def test_dssp_whose_lower_bound_nobody_reaches_is_asp(
    cluster: list[list[int]], deaths: dict[WorkerId, Nanoseconds], variant: str, width: int
) -> None:
    dssp = run(DSSP(ITERATIONS, ITERATIONS + width, variant), cluster, deaths)  # type: ignore[arg-type]
    assert without_thresholds(dssp.outcomes) == run(ASP(), cluster, deaths).outcomes


@given(CLUSTERS, st.integers(0, 4), st.integers(0, 6), st.sampled_from(["raw", "hold_corrected"]))
def test_a_range_holds_nobody_whom_its_lower_bound_would_let_go(
    cluster: list[list[int]], lower: int, width: int, interval: str
) -> None:
    """While both have seen the same pushes, whoever SSP(lower) releases at once, DSSP(lower, upper) releases too."""
    dssp = run(DSSP(lower, lower + width, "bounded", interval), cluster, {})  # type: ignore[arg-type]
    held = [o.push for o in dssp.outcomes if o.push and o.push.held is None]
    assert all(record.lead > lower for record in held)
