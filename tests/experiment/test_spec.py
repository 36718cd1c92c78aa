"""From plain mappings to a specification, without Hydra: every problem is found, and named as the user types it."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dssp_bench
from dssp_bench.engines.options import LocalOptions
from dssp_bench.experiment.spec import ConfigurationErrors, build_spec, default_runs_dir
from dssp_bench.paradigms.dssp import DSSP

CONFIG: dict[str, Any] = {
    "paradigm": {"_target_": "dssp_bench.paradigms.dssp.DSSP", "lower": 3, "upper": 15},
    "cluster": {"workers": [{"name": "fast"}, {"name": "slow", "slowdown": 1.7}]},
    "engine": {"_target_": "dssp_bench.engines.options.LocalOptions"},
    "model": {"_target_": "dssp_bench.tasks.models.mlp.MLP", "iteration_s": 0.001},
    "dataset": {"_target_": "dssp_bench.tasks.data.digits.Digits"},
    "optimizer": {"learning_rate": 0.05},
    "schedule": {"milestones": [20, 25]},
    "stop": {"epochs": "auto"},
    "tracking": {"mlflow": True},
    "evaluation": {"every_epochs": 1.0},
    "batch_size": 32,
    "seed": 1,
    "name": None,
    "runs_dir": None,
}


def changed(**changes: Any) -> dict[str, Any]:
    """The configuration above with some values replaced; `__` stands for a dot."""
    config = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        node: Any = config
        *parents, last = path.replace("___target_", "__@").split("__")
        last = last.replace("@", "_target_")
        for part in parents:
            node = node[int(part)] if part.isdigit() else node[part]
        node[int(last) if last.isdigit() else last] = value
    return config


def problems(**changes: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigurationErrors) as caught:
        build_spec(changed(**changes))
    return [(error.key, error.problem, error.hint) for error in caught.value.errors]


def problem(**changes: Any) -> tuple[str, str, str]:
    (only,) = problems(**changes)
    return only


def test_a_specification_holds_what_was_asked_for() -> None:
    spec = build_spec(changed(), {"paradigm": "dssp"})
    assert spec.paradigm == DSSP(lower=3, upper=15)
    assert [worker.name for worker in spec.cluster.workers] == ["fast", "slow"]
    assert isinstance(spec.engine, LocalOptions)
    assert list(spec.schedule.milestones) == [20, 25]
    assert spec.choices == {"paradigm": "dssp"}
    assert spec.tags == {}


def test_the_configuration_kept_for_the_record_builds_the_same_specification() -> None:
    spec = build_spec(changed())
    again = build_spec(spec.config)
    assert again == spec
    assert spec.config["runs_dir"] == str(default_runs_dir())


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"paradigm__lower": -1}, "paradigm.lower", "must be at least 0, got -1"),
        ({"paradigm__lower": 20}, "paradigm", "upper (15) must not be below lower (20)"),
        ({"paradigm__lower": True}, "paradigm.lower", "must be a number, got true"),
        ({"cluster__workers": "abc"}, "cluster.workers", "must be a list, got abc"),
        ({"cluster__workers": []}, "cluster.workers", "must not be empty"),
        ({"cluster__workers__0__slowdown": 0}, "cluster.workers.0.slowdown", "must be above 0, got 0"),
        ({"cluster__workers__0__device": "gpu"}, "cluster.workers.0.device", "must be auto, cpu, cuda or cuda:N"),
        ({"batch_size": 0}, "batch_size", "must be at least 1, got 0"),
        ({"seed": "x"}, "seed", "must be a whole number, got x"),
        ({"seed": None}, "seed", "must be a whole number, got null"),
        ({"stop__epochs": -1}, "stop.epochs", "must be above 0, got -1"),
        ({"stop__epochs": None}, "stop", "the run might never end"),
        ({"optimizer__learning_rate": float("nan")}, "optimizer.learning_rate", "must be a finite number"),
        ({"optimizer__nesterov": True, "optimizer__momentum": 0}, "optimizer", "nesterov needs a momentum"),
        ({"tracking__mlflow": "maybe"}, "tracking.mlflow", "must be true or false, got maybe"),
        ({"name": "../up"}, "name", "must do as the name of a folder"),
        ({"model__iteration_s": "???"}, "model.iteration_s", "must be given"),
        ({"paradigm": "dssp"}, "paradigm", "must be a group of keys, got dssp"),
    ],
)
def test_a_wrong_value_is_named_by_its_key_in_plain_words(changes: dict[str, Any], key: str, words: str) -> None:
    named, said, _ = problem(**changes)
    assert named == key
    assert words in said


@pytest.mark.parametrize(
    ("changes", "key", "meant"),
    [
        ({"paradigm__lowr": 1}, "paradigm.lowr", "paradigm.lower"),
        ({"optimizer__learning_rat": 1}, "optimizer.learning_rat", "optimizer.learning_rate"),
        ({"cluster__workers__0__slowdwn": 1}, "cluster.workers.0.slowdwn", "cluster.workers.0.slowdown"),
        ({"batchsize": 1}, "batchsize", "batch_size"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_and_all_allowed(
    changes: dict[str, Any], key: str, meant: str
) -> None:
    named, said, hint = problem(**changes)
    assert (named, said) == (key, "there is no such key")
    assert hint.startswith(f"did you mean {meant}? allowed: ")


def test_a_misspelt_choice_is_refused_with_the_nearest() -> None:
    _, said, hint = problem(paradigm__variant="bouned")
    assert said == "must be one of bounded, literal, single_grant, got bouned"
    assert hint == "did you mean bounded?"


def test_all_problems_are_found_at_once() -> None:
    found = problems(paradigm__lower=-1, batch_size=0, stop__epochs=-2, x=1)
    assert {key for key, _, _ in found} == {"paradigm.lower", "batch_size", "stop.epochs", "x"}


def test_a_target_must_be_of_the_right_kind() -> None:
    assert "must name a Paradigm" in problem(paradigm___target_="os.system")[1]
    assert "cannot import" in problem(paradigm___target_="nowhere.to.be.Found")[1]


def test_a_group_that_is_missing_is_named() -> None:
    config = changed()
    del config["dataset"]
    with pytest.raises(ConfigurationErrors, match="dataset: is missing"):
        build_spec(config)


class TestStop:
    def test_auto_is_thirty_epochs_if_nothing_else_ends_the_run(self) -> None:
        assert build_spec(changed()).stop.epochs == 30
        assert build_spec(changed(stop__target_accuracy=0.9)).stop.epochs == 30

    @pytest.mark.parametrize("rule", ["pushes", "updates", "seconds"])
    def test_auto_is_no_rule_if_another_one_ends_the_run(self, rule: str) -> None:
        assert build_spec(changed(**{f"stop__{rule}": 2000})).stop.epochs is None

    def test_epochs_that_are_given_hold_beside_other_rules(self) -> None:
        stop = build_spec(changed(stop__epochs=5, stop__pushes=2000)).stop
        assert (stop.epochs, stop.pushes) == (5, 2000)


class TestDevices:
    @pytest.fixture(autouse=True)
    def one_cuda_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)

    def test_a_device_that_is_not_there_is_named_with_those_that_are(self) -> None:
        assert problem(cluster__workers__1__device="cuda:7") == (
            "cluster.workers.1.device",
            "this machine has no cuda:7",
            "it has 1 CUDA device; allowed: auto, cpu, cuda:0",
        )

    def test_repeated_workers_are_reported_once(self) -> None:
        assert len(problems(cluster__count=64, cluster__workers__1__device="cuda:7")) == 1

    def test_a_device_that_is_there_is_fine(self) -> None:
        assert build_spec(changed(cluster__workers__1__device="cuda:0", evaluation__device="cuda"))

    def test_timing_only_needs_no_device(self) -> None:
        simulated = {"_target_": "dssp_bench.engines.options.SimulatedOptions", "train": False}
        assert build_spec(changed(engine=simulated, cluster__workers__1__device="cuda:7"))


def test_there_is_no_accuracy_without_training() -> None:
    simulated = {"_target_": "dssp_bench.engines.options.SimulatedOptions", "train": False}
    assert problem(engine=simulated, stop__target_accuracy=0.9)[0] == "stop.target_accuracy"


def test_real_workers_can_be_slowed_down_only() -> None:
    assert problem(cluster__workers__1__slowdown=0.5)[:2] == (
        "cluster.workers.1.slowdown",
        "must be at least 1, got 0.5",
    )
    event = {"worker": 0, "at_s": 1, "slowdown": 0.5}
    assert problem(cluster__events=[event])[0] == "cluster.events.0.slowdown"
    simulated = {"_target_": "dssp_bench.engines.options.SimulatedOptions"}
    assert build_spec(changed(engine=simulated, cluster__workers__1__slowdown=0.5))


class TestRunsDir:
    def test_in_a_checkout_it_is_the_checkouts(self) -> None:
        assert default_runs_dir() == Path(dssp_bench.__file__).resolve().parents[2] / "runs"

    def test_of_an_installed_package_it_is_below_the_current_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dssp_bench, "__file__", str(tmp_path / "lib" / "site" / "dssp_bench" / "x.py"))
        monkeypatch.chdir(tmp_path)
        assert default_runs_dir() == tmp_path / "runs"

    def test_a_given_one_is_made_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert build_spec(changed(runs_dir="here")).runs_dir == tmp_path / "here"


WORDS = st.sampled_from(
    [*CONFIG, "lower", "workers", "_target_", "epochs", "device", "x", "???", "auto", "cuda:9", "os.system"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
INSIDE = """paradigm__lower paradigm___target_ cluster__workers cluster__workers__0 cluster__workers__0__jitter
cluster__workers__1__device cluster__events cluster__count stop__epochs stop__pushes schedule__milestones optimizer__x
evaluation__device model__hidden engine__threads"""
PLACES = st.sampled_from([*CONFIG, "x", *INSIDE.split()])


@settings(max_examples=200, deadline=None)
@given(place=PLACES, value=VALUES)
def test_whatever_is_written_it_is_a_specification_or_a_refusal(place: str, value: Any) -> None:
    try:
        build_spec(changed(**{place: value}))
    except ConfigurationErrors as error:
        refusal = error
    else:
        return
    assert refusal.errors
    assert all(error.key and error.problem for error in refusal.errors)
