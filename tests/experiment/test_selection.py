"""Which runs are meant: each way to say it, what is left out, and what is said of something that there is not."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.experiment.mlflow_store import open_store
from dssp_bench.experiment.selection import Selection, in_words, select
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.records.files import write_json
from tests.plots import fake_arms

FINISHED = ["bsp-1", "bsp-2", "ssp3-1", "ssp6-1"]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four finished runs, two of them of a sweep, and four that cannot be compared."""
    folder = tmp_path_factory.mktemp("runs")
    made(folder / "bsp-1", BSP(), tags={"sweep": "monday", "job": "0"})
    made(folder / "bsp-2", BSP(), seed=2, tags={"sweep": "monday", "job": "1"})
    made(folder / "ssp3-1", SSP(3), tags={"sweep": "tuesday"})
    made(folder / "ssp6-1", SSP(6))
    made(folder / "x-failed", SSP(9), status="failed")
    made(folder / "x-killed", SSP(9), seed=2, status="killed")
    made(folder / "x-replay", BSP(), engine="replay")
    made(folder / "x-unreadable", BSP(), seed=3)
    (folder / "x-unreadable" / "pushes.parquet").write_bytes(b"no table")
    made(folder / "x-unfinished", SSP(12))
    (folder / "x-unfinished" / "summary.json").unlink()
    for other in ("sweeps/monday", "sweeps/tuesday", "comparisons/noon", "empty"):
        (folder / other).mkdir(parents=True)
    return folder


def made(folder: Path, paradigm: Paradigm, seed: int = 1, tags: dict[str, str] | None = None, **summary: Any) -> None:
    run = fake_arms.finished(folder, paradigm, seed, pushes=20)
    write_json(folder / "summary.json", {**(run.summary or {}), **summary})
    write_json(folder / "environment.json", {"tags": tags or {}})


def names(selection: Selection) -> list[str]:
    return [run.folder.name for run in selection.runs]


def refusal(selectors: list[str], runs_dir: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as raised:
        select(selectors, runs_dir)
    return raised.value


# --- what is meant ----------------------------------------------------------------------------------------------------


def test_without_a_word_all_finished_runs_are_meant_and_what_is_left_out_is_counted(runs_dir: Path) -> None:
    selection = select([], runs_dir)
    assert names(selection) == FINISHED
    assert selection.left_out == {"failed": 1, "killed": 1, "replayed": 1, "unreadable": 1, "not finished": 1}
    assert in_words(selection.left_out) == "1 failed, 1 killed, 1 not finished, 1 replayed, 1 unreadable"


def test_a_run_is_meant_by_its_name_and_by_its_folder_and_only_once(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs_dir / "empty")
    typed = ["ssp6-1", "../ssp6-1", str(runs_dir / "ssp6-1"), "bsp-2"]
    assert names(select(typed, runs_dir)) == ["bsp-2", "ssp6-1"]


def test_a_folder_means_all_runs_that_it_contains_wherever_it_is(runs_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(runs_dir / "bsp-1", tmp_path / "elsewhere" / "mine")
    assert names(select([str(tmp_path / "elsewhere")], runs_dir)) == ["mine"]
    assert names(select([str(tmp_path / "elsewhere"), "ssp3-1"], runs_dir)) == ["mine", "ssp3-1"]


def test_a_sweep_is_meant_by_its_name_and_by_its_folder(runs_dir: Path) -> None:
    for typed in ("monday", str(runs_dir / "sweeps" / "monday"), "sweep=monday"):
        assert names(select([typed], runs_dir)) == ["bsp-1", "bsp-2"]
    assert names(select(["monday", "tuesday"], runs_dir)) == ["bsp-1", "bsp-2", "ssp3-1"]


def test_a_run_is_meant_by_its_id_in_mlflow(runs_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(runs_dir / "ssp3-1", tmp_path / "ssp3-1")
    client, experiment = open_store(tmp_path)
    here, gone = (client.create_run(experiment, tags={"dssp.run": name}).info.run_id for name in ("ssp3-1", "deleted"))
    assert names(select([here], tmp_path)) == ["ssp3-1"]
    for unknown in (gone, "0123456789abcdef" * 2):
        refused = refusal([unknown], tmp_path)
        assert f"MLflow knows no run {unknown} whose folder is under {tmp_path}" in refused.problem


def test_an_id_without_a_database_is_refused_in_words_and_makes_none(runs_dir: Path) -> None:
    assert "mlflow.db cannot be read" in refusal(["0123456789abcdef" * 2], runs_dir).problem
    assert not (runs_dir / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("conditions", "meant"),
    [
        ("paradigm=ssp", ["ssp3-1", "ssp6-1"]),  # a group
        ("paradigm=bsp,ssp seed=2", ["bsp-2"]),  # of the configuration and the summary
        ("paradigm.threshold=3,9", ["ssp3-1"]),  # of the configuration
        ("paradigm.threshold=6.0", ["ssp6-1"]),
        ("cluster.workers.1.name=slow seed=1", ["bsp-1", "ssp3-1", "ssp6-1"]),
        ("engine=simulated status=finished", FINISHED),  # of the summary
        ("sweep=monday job=1", ["bsp-2"]),  # tags
        ("experiment=null", FINISHED),
        ("monday seed=1", ["bsp-1"]),  # a condition narrows what is named
        ("bsp-1 ssp3-1 paradigm=ssp", ["ssp3-1"]),
    ],
)
def test_all_conditions_hold_of_the_runs_that_are_taken(conditions: str, meant: list[str], runs_dir: Path) -> None:
    assert names(select(conditions.split(), runs_dir)) == meant


def test_what_exists_is_a_path_and_no_condition(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs_dir / "bsp-1", tmp_path / "paradigm=ssp" / "mine")
    monkeypatch.chdir(tmp_path)
    assert names(select(["paradigm=ssp"], runs_dir)) == ["mine"]


@given(st.permutations(["bsp-2", "ssp3-1", "monday", "seed=1,2"]))
def test_the_order_of_what_is_typed_does_not_matter(runs_dir: Path, typed: list[str]) -> None:
    assert names(select(typed, runs_dir)) == ["bsp-1", "bsp-2", "ssp3-1"]


# --- what is left out -------------------------------------------------------------------------------------------------


def test_only_what_was_meant_is_said_to_be_left_out(runs_dir: Path) -> None:
    assert select(["paradigm=ssp"], runs_dir).left_out == {"failed": 1, "killed": 1, "not finished": 1}
    assert select(["paradigm.threshold=3"], runs_dir).left_out == {}


def test_if_nothing_else_was_meant_it_is_said_why(runs_dir: Path) -> None:
    refused = refusal(["paradigm.threshold=9"], runs_dir)
    assert refused.problem == "none of them can be compared: 1 failed, 1 killed"


def test_runs_with_missing_or_broken_files_are_left_out_and_the_others_are_compared(
    runs_dir: Path, tmp_path: Path
) -> None:
    broken: dict[str, list[str | None]] = {
        "config.yaml": ["a: [", "- 1", None],
        "summary.json": ["{", "{}"],
        "environment.json": ["["],
    }
    incomplete: dict[str, list[str | None]] = {"config.yaml": ["paradigm: {}"], "updates.parquet": [None]}
    for file, contents in [*broken.items(), *incomplete.items()]:
        for content in contents:
            folder = shutil.copytree(runs_dir / "bsp-1", tmp_path / f"{file} {content}")
            (folder / file).unlink()
            if content is not None:
                (folder / file).write_text(content)
    shutil.copytree(runs_dir / "ssp3-1", tmp_path / "whole")
    selection = select([], tmp_path)
    assert names(selection) == ["whole"]
    assert selection.left_out == {"unreadable": 6, "incomplete": 2}
    assert names(select(["sweep=tuesday"], tmp_path)) == ["whole"]


# --- what there is not ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "key", "said"),
    [
        ("bsp-3", "RUNS", "there is no run, sweep or folder 'bsp-3' (did you mean bsp-2?)"),
        ("mondey", "RUNS", "(did you mean monday?)"),
        ("something/else", "RUNS", "--runs-dir says others"),
        ("empty", "empty", "holds no runs"),
        ("paradigm=dsp", "paradigm", "no run has dsp (did you mean ssp? there are: bsp, ssp)"),
        ("paradigm.threshold=4,5", "paradigm.threshold", "no run has 4 or 5 (there are: 12, 3, 6, 9)"),
        ("paradigm.treshold=3", "paradigm.treshold", "(did you mean paradigm.threshold?"),
        ("paradigma=ssp", "paradigma", "did you mean paradigm?"),
        ("paradim.threshold=3", "paradim.threshold", "(did you mean paradigm.threshold?)"),
        ("colour=red", "colour", "there is no such key"),
        (
            "paradigm=bsp paradigm.threshold=3",
            "RUNS",
            "has paradigm=bsp and paradigm.threshold=3 (each alone has some)",
        ),
        ("monday paradigm=ssp", "paradigm", "there are: bsp)"),
    ],
)
def test_what_there_is_not_is_said_with_what_was_probably_meant(
    typed: str, key: str, said: str, runs_dir: Path
) -> None:
    refused = refusal(typed.split(), runs_dir)
    assert refused.key == key
    assert said in str(refused)


def test_a_folder_without_runs_says_how_to_get_some(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        refused = refusal([], folder)
        assert refused.key == "runs_dir"
        assert "dssp-bench run" in refused.hint


def test_of_many_values_only_a_few_are_listed(runs_dir: Path, tmp_path: Path) -> None:
    for seed in range(15):
        shutil.copytree(runs_dir / "bsp-1", tmp_path / str(seed))
        summary = json.loads((tmp_path / str(seed) / "summary.json").read_text())
        write_json(tmp_path / str(seed) / "summary.json", {**summary, "seed": seed})
    assert len(re.findall(r"\d+", refusal(["seed=none"], tmp_path).hint)) == 12
