"""What every paradigm in `conf/paradigm/` must keep; a new one is found here by its YAML alone."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import Nanoseconds, WorkerId
from dssp_bench.core.paradigm import Paradigm
from tests.scenario import Promise, Run, drive

FOLDER = Path(__file__).parents[2] / "conf" / "paradigm"
CONFIGS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
"""Every paradigm's configuration, by its name on the command line."""

EVERY_PARADIGM = Promise(slowest_goes=True, nothing_waits_for_the_dead=True)

CLUSTERS: dict[str, Sequence[Callable[[int], Nanoseconds] | Nanoseconds]] = {
    "alone": [10],
    "equal": [10, 10, 10, 10],
    "one slow": [10, 10, 10, 57],
    "all different": [10, 13, 17, 29, 31],
    "uneven": [lambda n: 7 + n * n % 11, lambda n: 9 + n * 3 % 5, lambda n: 5 + 40 * (n % 7 == 3)],
    "one becomes slow": [lambda n: 10 if n < 10 else 80, 11, 12],
    "instant": [0, 0, 5],
}

on_every_cluster = pytest.mark.parametrize("cluster", CLUSTERS)
every_paradigm = pytest.mark.parametrize("name", CONFIGS)


def build(name: str, **changes: object) -> Paradigm:
    config: dict[str, Any] = {**CONFIGS[name], **changes}
    module, _, called = config.pop("_target_").rpartition(".")
    paradigm = getattr(import_module(module), called)(**config)
    assert isinstance(paradigm, Paradigm)
    return paradigm


def on(cluster: str, paradigm: Paradigm, leave_at: dict[WorkerId, Nanoseconds] | None = None) -> Run:
    return drive(paradigm, CLUSTERS[cluster], iterations=25, leave_at=leave_at, promise=EVERY_PARADIGM)


def test_the_four_are_here() -> None:
    assert {"asp", "bsp", "dssp", "ssp"} <= CONFIGS.keys()


@every_paradigm
def test_it_builds_and_its_yaml_names_every_option_with_its_default(name: str) -> None:
    paradigm = build(name)
    fields = type(paradigm).__dataclass_fields__  # type: ignore[attr-defined]
    assert set(fields) == CONFIGS[name].keys() - {"_target_"}
    assert paradigm == type(paradigm)()


@every_paradigm
@on_every_cluster
def test_nobody_is_held_for_ever_and_the_slowest_never(name: str, cluster: str) -> None:
    run = on(cluster, build(name))
    assert run.coordinator.pushes == 25 * len(CLUSTERS[cluster])
    assert len(run.coordinator.view.clocks) == 0


@every_paradigm
@pytest.mark.parametrize("dies", range(4))
@pytest.mark.parametrize("at", [0, 1, 57, 100, 570])
def test_nobody_is_held_for_ever_by_the_dead(name: str, dies: WorkerId, at: Nanoseconds) -> None:
    run = on("one slow", build(name), leave_at={dies: at})
    assert run.coordinator.pushes >= 75


@every_paradigm
@on_every_cluster
def test_the_same_run_again_has_the_same_trace(name: str, cluster: str) -> None:
    paradigm = build(name)
    first = on(cluster, paradigm)
    assert on(cluster, paradigm).outcomes == first.outcomes  # `reset` forgot everything
    assert on(cluster, build(name)).outcomes == first.outcomes


@every_paradigm
@on_every_cluster
def test_a_recorded_run_replayed_gives_the_same_decisions(name: str, cluster: str) -> None:
    run = on(cluster, build(name))
    again = Coordinator(build(name), range(len(CLUSTERS[cluster])))
    assert again.start() == run.start
    assert [again.handle(event) for event in run.events] == run.outcomes


@every_paradigm
def test_an_option_it_does_not_have_is_refused(name: str) -> None:
    with pytest.raises((ValidationError, TypeError), match="treshold"):
        build(name, treshold=3)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (name, option, value)
        for name, config in CONFIGS.items()
        for option, default in config.items()
        if option != "_target_"
        for value in (["no such word", 7, None] if isinstance(default, str) else [-1, 2.5, "many", None])
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_by_name(name: str, option: str, value: object) -> None:
    with pytest.raises(ValidationError, match=option):
        build(name, **{option: value})
