"""Whatever is wrong with a configuration, it is refused with its key, and what is right is not."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from typer.testing import CliRunner, Result

from dssp_bench.cli.compose import compose_job
from dssp_bench.cli.main import app
from dssp_bench.cli.run import EXAMPLES, MODELS, _is_surely_right
from dssp_bench.experiment import run as experiment
from dssp_bench.experiment.parts import parameter_count
from dssp_bench.experiment.run import RunResult
from dssp_bench.experiment.spec import ConfigurationErrors, RunSpec, build_spec
from tests.conf.malformed import BASES, Example, command_lines, composed, configurations, keys_of, leaves

OTHERS = int(os.environ.get("DSSP_BENCH_OTHER_CONFIGURATIONS", "0"))
"""So many are drawn, and others each time, instead of the same thousand."""
MANY = settings(max_examples=OTHERS or 1000, derandomize=not OTHERS, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("line", BASES)
def test_of_every_key_it_is_said_what_it_takes(line: str) -> None:
    config, _ = composed(line)
    there = {key for key in leaves(config) if not key.endswith("_target_") and not key.startswith("cluster.events.")}
    assert there == set(keys_of(line))


@MANY
@given(example=configurations(mistakes=3))
def test_what_is_wrong_is_refused_by_its_key_and_nothing_else_is_blamed(example: Example) -> None:
    with pytest.raises(ConfigurationErrors) as refused:
        build_spec(example.config, example.choices)
    blamed = [error.key for error in refused.value.errors]
    assert all(error.problem for error in refused.value.errors)
    assert [key for key in blamed if not any(related(key, place) for place in example.places)] == []


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(example=configurations(mistakes=0))
def test_what_is_right_is_accepted(example: Example) -> None:
    build_spec(example.config, example.choices)


def related(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}.") or place.startswith(f"{key}.")


@pytest.mark.parametrize("target", ["antigravity.fly", "this.s", "idlelib.idle.x"])
def test_naming_a_module_of_pythons_own_does_not_import_it(target: str) -> None:
    config, choices = composed(BASES[0])
    with pytest.raises(ConfigurationErrors, match=r"paradigm\._target_: must name a Paradigm"):
        build_spec({**config, "paradigm": {"_target_": target}}, choices)
    assert target.rpartition(".")[0] not in sys.modules


# --- the command line ---


class Started:
    """Takes the place of whatever a command could start, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0
        self.processes = 0

    def run(self, spec: RunSpec, watchers: Sequence[Any] = ()) -> RunResult:
        self.runs += 1
        return RunResult("finished", self.folder, {})

    def new_folder(self, spec: RunSpec) -> Path:
        self.runs += 1
        raise AssertionError("a run was begun")

    def fork_server(self, preload: Sequence[str] = ()) -> None:
        self.processes += 1

    def process(self, *arguments: Any, **options: Any) -> int:
        self.processes += 1
        raise AssertionError("a process was started")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logging_as_before: None) -> Started:
    started = Started(tmp_path)
    monkeypatch.setattr(experiment, "new_folder", started.new_folder)
    for module in ("cli.run", "experiment.run"):
        monkeypatch.setattr(f"dssp_bench.{module}.start_fork_server", started.fork_server)
    monkeypatch.setattr("subprocess.Popen", started.process)
    monkeypatch.setattr(os, "fork", started.process)
    monkeypatch.chdir(tmp_path)
    return started


Type = Callable[..., Result]


@pytest.fixture
def type_in(started: Started) -> Type:
    """Type a command line, which may not end in any other way than by itself."""

    def invoke(*overrides: str) -> Result:
        result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["run", *overrides])
        assert result.exception is None or isinstance(result.exception, SystemExit), overrides
        return result

    return invoke


def assert_refused(result: Result, started: Started) -> str:
    """Nothing was begun, and it is said why, shortly; what was said, in one line."""
    assert result.exit_code == 2
    assert (started.runs, started.processes, os.listdir(started.folder)) == (0, 0, [])
    assert (result.stdout, "Traceback" in result.stderr) == ("", False)
    assert 1 <= len(result.stderr.splitlines()) <= 4
    return "".join(result.stderr.split())


@settings(max_examples=12, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(typed=command_lines(right=False))
def test_a_wrong_command_line_starts_nothing_and_says_which_key(
    typed: tuple[list[str], list[str]], type_in: Type, started: Started
) -> None:
    overrides, keys = typed
    said = assert_refused(type_in(*overrides), started)
    key, group = keys[-1].partition(".0.")[0], keys[-1].partition(".")[0]
    assert key in said or said.startswith(f"error:{group}:")  # where it only does not fit the rest of its group


@settings(max_examples=8, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(typed=command_lines(right=True))
def test_a_right_command_line_starts_a_run(typed: tuple[list[str], list[str]], type_in: Type, started: Started) -> None:
    overrides, _ = typed
    before = started.runs
    with pytest.MonkeyPatch.context() as replaced:  # the data of some are not here
        replaced.setattr(experiment, "run", started.run)
        result = type_in(*overrides)
    replay = "engine=replay" in overrides  # which takes all else from the record
    assert (result.exit_code, started.runs) == ((0, before + 1) if not replay else (2, before)), result.stderr


def test_what_is_started_early_takes_every_network_of_ours_and_has_so_many_examples() -> None:
    models = [compose_job([f"model={name}"]).config["model"] for name in MODELS]
    shapes = set()
    for name, examples in EXAMPLES.items():
        config = compose_job([f"dataset={name}"]).config
        facts = build_spec(config).dataset.facts()
        assert facts.examples == examples
        for model in models if facts.input_shape not in shapes else []:
            built = build_spec({**config, "model": model})
            assert parameter_count(built.model, facts.input_shape, facts.classes)[0] > 0
        shapes.add(facts.input_shape)


def test_only_what_cannot_be_refused_any_more_is_started_before_torch_is_there(started: Started) -> None:
    def early(*overrides: str) -> bool:
        return _is_surely_right(compose_job(["engine=local", *overrides]))

    assert early()
    assert early("model=resnet20", "dataset=cifar10", "seed=3", "batch_size=128")
    for wrong in ("batch_size=100000", "cluster.iteration_s=-1", "dataset=synthetic dataset.shape=[1,1,1]"):
        assert not early(*wrong.split())
    assert not early("cluster=homogeneous", "cluster.count=200", "batch_size=1")
    assert not early("model=torchvision"), "it may not be installed"
    (started.folder / "file").touch()
    assert not early(f"runs_dir={started.folder}/file/runs")
    assert early(f"runs_dir={started.folder}/new/runs")


REFUSED = [
    ("=", "'='"),
    ("~", "'~'"),
    ("a=b=c", "'a=b=c'"),
    ("seed='", "seed="),
    ("seed=☃", "seed="),
    ("{}=1", "'{}=1'"),
    ("cluster..count=1", "cluster..count"),
    ("paradigm@x=asp", "paradigm@x"),
    ("paradigm={a:1}", "paradigm:"),
    ("cluster=null", "cluster:"),
    ("model=[]", "model:"),
    ("hydra=null", "hydra:"),
    ("~dataset", "dataset:"),
    ("hydra.mode=BOTH", "hydra.mode:"),
    ("hydra/launcher=nope", "hydra/launcher:"),
    ("-m hydra.sweeper._target_=os.system", "os.system"),
    ("-m hydra.sweeper.params={seed:3}", "hydra.sweeper.params"),
    ("-m seed=range(1,1000000000000)", "more than 10000 runs"),
    ("-m seed=range(1000) batch_size=range(1,1000)", "more than 10000 runs"),
    ("seed=${seed}", "seed:"),
    ("seed=${oc.env:NO_SUCH_VARIABLE}", "seed:"),
    ("cluster.workers=${cluster.workers}", "cluster.workers:"),
    ("cluster.workers.x=1", "cluster.workers.x:"),
    ("cluster.workers.0.x=1", "cluster.workers.0.x:"),
    ("cluster.workers.0.resources={gpu:1}", "cluster.workers.0.resources:"),
    ("cluster.count.x=1", "cluster.count.x:"),
    ("cluster.workers=" + "[" * 2000 + "]" * 2000, "nested too deeply"),
    ("seed=" + "9" * 5000, "seed:"),
    ("cluster=../../etc/passwd", "cluster/../../etc"),
    ("paradigm._target_=os.system", "paradigm._target_:"),
    ("model._target_=antigravity.fly", "model._target_:"),
    ("dataset._target_=dssp_bench.paradigms.asp.ASP", "dataset._target_:"),
    ("engine._target_=dssp_bench.engines.options", "engine._target_:"),
    ("model.hidden=[64,x]", "model.hidden.1:"),
    ("cluster.network.latency_s=true", "cluster.network.latency_s:"),
    ("cluster.iteration_s=1e300", "cluster.iteration_s:"),
    ("engine.threads=1000000000", "engine.threads:"),
    ("engine=local batch_size=100000", "batch_size:"),
    ("engine=local batch_size=1437", "batch_size:"),
    ("engine=local cluster=homogeneous cluster.count=101 batch_size=1", "cluster.workers:"),
    ("engine=local cluster=homogeneous cluster.count=200", "batch_size:"),
    ("engine=local cluster=homogeneous cluster.count=200 batch_size=1", "cluster.workers:"),
    ("engine=local model=resnet20 dataset=synthetic dataset.shape=[1,1,1]", "model:"),
    ("engine=local model=cnn dataset=synthetic dataset.shape=[1,1,1]", "model:"),
    ("engine=local dataset=synthetic dataset.shape=[1000,10000,10000]", "dataset:"),
    ("runs_dir='~nobody-of-that-name/x'", "runs_dir:"),
    ("-cn twice", "duplicate key seed"),
    ("-cn tab", "tab.yaml, line 2"),
    ("-cn code", "could not determine a constructor"),
    ("-cn itself", "refers to itself"),
    ("-cn round", "refers to itself"),
]
FILES = {
    "twice": "defaults: [config, _self_]\nseed: 1\nseed: 2\n",
    "tab": "a:\n\t- b\n",
    "code": "defaults: [config, _self_]\nname: !!python/object/apply:os.system ['touch owned']\n",
    "itself": "defaults: [itself]\n",
    "round": "defaults: [config, _self_]\ncluster: &a\n  workers: *a\n",
}


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line[:40] for line, _ in REFUSED])
def test_nothing_that_is_typed_starts_anything_if_it_is_wrong(
    line: str, words: str, type_in: Type, started: Started, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mine")
    for name, content in FILES.items():
        (folder / f"{name}.yaml").write_text(content, encoding="utf-8")
    said = assert_refused(type_in(*line.split(" "), "-cd", str(folder)), started)
    assert "".join(words.split()) in said
