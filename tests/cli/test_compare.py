"""`dssp-bench compare`, as it is typed."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from dssp_bench.cli.main import app
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.paradigms.ssp import SSP
from dssp_bench.records.files import write_json
from tests.plots import fake_arms

TITLES = ["Result", "Time to an accuracy", "Throughput and updates", "Waiting, lead and staleness"]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BSP with two seeds, SSP with two thresholds, DSSP without training, and a run that failed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        fake_arms.finished(folder / f"bsp-{seed}", BSP(), seed)
    for threshold in (12, 3):
        fake_arms.finished(folder / f"ssp-{threshold}", SSP(threshold))
    fake_arms.finished(folder / "dssp", DSSP(3, 15), trained=False)
    failed = fake_arms.finished(folder / "failed", BSP(), seed=3)
    write_json(failed.folder / "summary.json", {**(failed.summary or {}), "status": "failed"})
    return folder


def typed(*arguments: str | Path, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["compare", *map(str, arguments)])


def compared(runs_dir: Path, *arguments: str | Path, columns: int = 80) -> str:
    """What is said; without figures, and with its files beside the runs."""
    output = () if "--output" in arguments else ("--output", runs_dir.parent / "output")
    result = typed("--runs-dir", runs_dir, "--no-figures", *output, *arguments, columns=columns)
    assert result.exit_code == 0, result.output
    return result.stdout


def row(text: str, arm: str, title: str) -> list[str]:
    """The cells of an arm's line in the table with this title."""
    lines = text[text.index(title) :].splitlines()
    return re.split(r" {2,}", next(line for line in lines if line.startswith(f"{arm} ")).strip())


@pytest.mark.parametrize("columns", [80, 120])
def test_arms_are_rows_of_four_tables_that_fit_the_terminal(columns: int, runs_dir: Path) -> None:
    text = compared(runs_dir, columns=columns)
    assert text.splitlines()[0] == "5 runs in 4 arms; left out: 1 failed"
    assert [line.strip() for line in text.splitlines() if line.strip() in TITLES] == TITLES
    tables = text[text.index("Result") : text.index("Seconds are")]
    assert [line.split("  ")[0] for line in tables.splitlines() if line[:1] in "BSD" and "  " in line] == [
        *["BSP", "SSP 3", "SSP 12", "DSSP 3-15"] * 4
    ]
    assert max(map(len, tables.splitlines())) <= columns


def test_a_target_is_reached_or_not_and_runs_without_evaluations_have_dashes(runs_dir: Path) -> None:
    text = compared(runs_dir, "--target", "0.4", "--target", "0.95")
    _, _, faster, never = row(text, "SSP 3", TITLES[1])
    assert float(faster) > 1  # SSP pushes earlier, and accuracies are of the number of pushes here
    assert never == "not reached"
    assert row(text, "BSP", TITLES[1])[2:] == ["1.00", "not reached"]
    assert row(text, "DSSP 3-15", TITLES[1]) == ["DSSP 3-15", "-", "-", "-"]


def test_a_baseline_may_be_chosen(runs_dir: Path) -> None:
    text = compared(runs_dir, "--baseline", "ssp 12")
    assert "Speed-up: how many times as fast as SSP 12" in text
    assert row(text, "SSP 12", "Result")[-1] == "1.00"
    assert float(row(text, "BSP", "Result")[-1]) < 1


def test_a_single_run_is_a_comparison_too(runs_dir: Path) -> None:
    text = compared(runs_dir, "ssp-3")
    assert text.splitlines()[0] == "1 run in 1 arm"
    assert "speed-up" not in text


def test_files_hold_the_same_numbers_and_say_which_runs_they_are_of(runs_dir: Path, tmp_path: Path) -> None:
    text = compared(runs_dir, "paradigm=bsp,ssp", "--target", "0.4", "--output", tmp_path / "a" / "b")
    folder = tmp_path / "a" / "b"
    assert {path.name for path in folder.iterdir()} == {"comparison.csv", "comparison.md"}
    frame = pd.read_csv(folder / "comparison.csv")
    assert frame["arm"].tolist() == ["BSP", "SSP 3", "SSP 12"]
    assert frame["runs"].tolist() == [2, 1, 1]
    assert row(text, "BSP", TITLES[1])[1] == f"{frame['time_to_0.4'][0]:.2f}"
    report = (folder / "comparison.md").read_text()
    assert "- BSP: `bsp-1`, `bsp-2`" in report
    assert "| SSP 12 | 1 |" in report


def test_without_a_word_files_lie_beside_the_runs_and_are_never_overwritten(tmp_path: Path) -> None:
    fake_arms.finished(tmp_path / "mine", BSP())
    for _ in range(2):
        assert typed("--runs-dir", tmp_path, "--no-figures").exit_code == 0
    assert len(list((tmp_path / "comparisons").iterdir())) == 2
    assert compared(tmp_path).startswith("1 run in 1 arm\n")


def test_figures_are_drawn_and_shown_in_the_report(runs_dir: Path, tmp_path: Path) -> None:
    result = typed("bsp-1", "ssp-3", "--runs-dir", runs_dir, "--target", "0.99", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    shown = re.findall(r"!\[(\w+)\]\((.+)\)", (tmp_path / "comparison.md").read_text())
    assert {"accuracy_time", "time_to_target", "throughput", "waiting", "staleness"} <= {name for name, _ in shown}
    for name, path in shown:
        assert (tmp_path / path).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "figures" / f"{name}.svg").is_file()
    assert f"{len(shown)} figures" in result.stdout


def test_runs_of_different_clocks_are_compared_with_their_own_baseline_and_that_is_said(tmp_path: Path) -> None:
    for clock in ("samples", "updates"):
        for paradigm in (BSP(), DSSP(3, 15)):
            run = fake_arms.finished(tmp_path / f"{clock}-{type(paradigm).__name__}", paradigm)
            config = run.folder / "config.yaml"
            config.write_text(config.read_text().replace("clock: samples", f"clock: {clock}"))
            summary = {**(run.summary or {}), "learning_rate_clock": clock}
            (run.folder / "summary.json").write_text(json.dumps(summary))
    text = " ".join(compared(tmp_path).split())
    assert "warning: the runs are of samples, updates: different clocks of the learning rate" in text
    assert "as fast as BSP clock=samples or BSP clock=updates, the one whose other settings differ least" in text
    assert text.count("clock=updates") == 2 * len(TITLES) + 1  # no name is broken within a word


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["ssp-4"], "error: RUNS: there is no run, sweep or folder 'ssp-4'", "did you mean ssp-3?"),
        (["paradigm=spp"], "error: paradigm: no run has spp", "did you mean ssp?"),
        (["paradigm.treshold=3"], "error: paradigm.treshold: there is no such key", "paradigm.threshold?"),
        (["--baseline", "asp"], "error: baseline: no arm is asp", "there are: BSP, SSP 3, SSP 12, DSSP 3-15"),
        (["--target", "67"], "error: --target: must be an accuracy above 0 and at most 1, got 67", "67 % is 0.67"),
        (["--target", "0"], "error: --target: must be an accuracy above 0", ""),
        (["seed=3"], "error: RUNS: none of them can be compared: 1 failed", "summary.json"),
    ],
)
def test_what_cannot_work_is_said_in_a_few_lines_and_leaves_nothing(
    arguments: list[str], said: str, hint: str, runs_dir: Path, tmp_path: Path
) -> None:
    result = typed("--runs-dir", runs_dir, "--output", tmp_path / "output", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    text = " ".join(result.stderr.split())
    assert text.startswith(said)
    assert hint in text
    assert len(result.stderr.splitlines()) <= 4
    assert not (tmp_path / "output").exists()


def test_a_folder_that_cannot_be_written_costs_the_files_and_not_the_tables(runs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = typed("--runs-dir", runs_dir, "--no-figures", "--output", tmp_path / "file" / "below")
    assert result.exit_code == 2
    assert "cannot write to" in " ".join(result.stderr.split())
    assert "Waiting, lead and staleness" in result.stdout


@pytest.mark.usefixtures("logging_as_before")
def test_a_sweep_that_was_run_is_compared_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs_dir = tmp_path / "runs"
    always = ["engine=simulated", "stop.epochs=1", "model.hidden=[4]", "tracking=none", f"runs_dir={runs_dir}"]
    for line in (["paradigm=bsp,ssp", "seed=1,2"], ["paradigm=asp"]):
        ran = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["run", "-m", *line, *always])
        assert ran.exit_code == 0, ran.output
    first, _ = sorted((runs_dir / "sweeps").iterdir())
    text = compared(runs_dir, first.name)
    assert text.startswith("4 runs in 2 arms\n")
    assert row(text, "BSP", "Result")[1] == row(text, "SSP 3", "Result")[1] == "2"
    assert compared(runs_dir).startswith("5 runs in 3 arms\n")
    assert compared(runs_dir, "cluster=hetero", "seed=2").startswith("2 runs in 2 arms\n")
