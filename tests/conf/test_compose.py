"""Every YAML composes and builds, and what conf/ promises holds."""

from pathlib import Path

import pytest
import yaml

from dssp_bench.cli.compose import compose_job
from dssp_bench.cli.errors import UsageError
from dssp_bench.cli.hydra_errors import config_dir
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment.spec import ConfigurationErrors, RunSpec, build_spec

GROUPS = sorted(folder.name for folder in config_dir().iterdir() if folder.is_dir() and folder.name != "hydra")
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted((config_dir() / group).glob("*.yaml"))]
NEEDED = {("engine", "replay"): ["engine.run=some_run"]}


def built(*overrides: str) -> RunSpec:
    job = compose_job(overrides)
    return build_spec(job.config, job.choices)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_file_of_every_group_builds(group: str, option: str) -> None:
    spec = built(f"{group}={option}", *NEEDED.get((group, option), []))
    assert spec.choices[group] == option


@pytest.mark.parametrize(
    "file", sorted(config_dir().rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_every_file_says_what_it_is_and_stays_readable(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert any("# " in line for line in lines)
    assert max(map(len, lines)) <= 130


def test_the_files_of_a_paradigm_show_all_its_options() -> None:
    for file in (config_dir() / "paradigm").glob("*.yaml"):
        written = yaml.safe_load(file.read_text())
        paradigm = built(f"paradigm={file.stem}").paradigm
        assert set(written) - {"_target_"} == set(getattr(type(paradigm), "__dataclass_fields__", ()))


def test_the_defaults_are_a_small_run_on_this_machine() -> None:
    spec = built()
    assert spec.choices == {
        "paradigm": "dssp",
        "cluster": "hetero",
        "engine": "local",
        "model": "mlp",
        "dataset": "digits",
        "optimizer": "sgd",
        "schedule": "step",
        "stop": "epochs",
        "tracking": "mlflow",
    }
    assert (spec.batch_size, spec.seed, spec.stop.epochs) == (32, 1, 30)


def test_a_layout_is_repeated_by_count() -> None:
    assert len(built("cluster=hetero4", "cluster.count=10").cluster.workers) == 10


def test_the_list_of_workers_can_be_replaced_and_one_of_them_changed() -> None:
    replaced = built("cluster.workers=[{slowdown: 1.0},{slowdown: 1.7}]", "cluster.iteration_s=1.0").cluster
    assert [worker.slowdown for worker in replaced.workers] == [1.0, 1.7]
    assert built("cluster.workers.1.slowdown=4", "cluster.workers.0.device=cpu").cluster.workers[1].slowdown == 4


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"there is no paradigm=dsp .*did you mean paradigm=dssp\?"):
        compose_job(["paradigm=dsp"])


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "experiment"])
def test_an_unknown_key_of_any_group_is_refused(group: str) -> None:
    with pytest.raises(ConfigurationError, match="no such key"):
        compose_job([f"{group}.qqqq=1"])
    with pytest.raises(ConfigurationErrors, match="no such key"):
        built(f"+{group}.qqqq=1")


def test_a_key_of_another_option_is_said_to_be_one() -> None:
    with pytest.raises(ConfigurationError, match=r"it is one of paradigm=ssp"):
        compose_job(["paradigm=asp", "paradigm.threshold=3"])


@pytest.mark.parametrize("override", ["foo", "seed=[1", "name=a=b", "paradigm=bsp,asp,"])
def test_an_override_that_cannot_be_read_is_quoted(override: str) -> None:
    with pytest.raises(UsageError, match="cannot read") as caught:
        compose_job([override])
    assert override in str(caught.value)
