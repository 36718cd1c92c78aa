"""`dssp-bench reproduce`: what is planned, what is made and made only once, and what the report says of it."""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dssp_bench.cli import reproduce as command
from dssp_bench.cli.main import app
from dssp_bench.cli.reproduce import planned, understood
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.engines.options import LocalOptions, SimulatedOptions
from dssp_bench.experiment import sensitivity
from dssp_bench.experiment.batch import BatchProgress, Item, carry_out, finished_runs
from dssp_bench.experiment.studies import SCALES, STUDIES
from dssp_bench.plots import of_arms
from tests.experiment.watching import descendants, environment, gone

SHORT = "fig4 scale=timing stop.epochs=3 schedule.milestones=[2,2.5] tracking=none"


def reproduce(arguments: str, runs_dir: Path) -> Result:
    return CliRunner().invoke(app, ["reproduce", *arguments.split(), f"runs_dir={runs_dir}"])


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_study_plans_runs_that_all_differ_on_both_clocks_where_it_matters(name: str, scale: str) -> None:
    items = planned(STUDIES[name], understood([name, f"scale={scale}"]))
    assert len({item.fingerprint for item in items}) == len({item.label for item in items}) == len(items)
    assert {item.spec.schedule.clock for item in items} == (
        {"updates"} if scale == "timing" else {"updates", "samples"}
    )
    assert {item.spec.choices["paradigm"] for item in items} == {"bsp", "asp", "ssp", "dssp"}
    assert len(items[0].spec.cluster.workers) == (2 if name == "fig4" else 4)
    if scale == "full":
        assert_is_the_papers_own(items)


def assert_is_the_papers_own(items: Sequence[Item]) -> None:
    for item in items:
        assert isinstance(item.spec.engine, LocalOptions)
        assert (item.spec.batch_size, item.spec.stop.epochs) == (128, 300)
        assert item.spec.seed in (1, 2, 3)


def test_one_override_takes_the_full_scale_to_another_engine_and_seeds_may_be_chosen() -> None:
    items = planned(STUDIES["fig4"], understood(["fig4", "scale=full", "engine=simulated", "seed=7,8"]))
    assert all(isinstance(item.spec.engine, SimulatedOptions) for item in items)
    assert {item.spec.seed for item in items} == {item.spec.config["seed"] for item in items} == {7, 8}
    assert understood(["fig4", "seed=2,1,2"]).seeds == (2, 1)


def test_fig4_and_table1_are_one_study_and_all_is_every_one() -> None:
    assert [study.name for study in understood(["fig4", "table1"]).studies] == ["fig4"]
    assert [study.name for study in understood(["all"]).studies] == list(STUDIES)


@pytest.mark.parametrize(
    ("typed", "key", "said"),
    [
        ("fig3", "fig3", "did you mean fig3"),
        ("", "reproduce", "fig4"),
        ("fig4 scale=tiny", "scale", "full, mini, timing"),
        ("fig4 seed=one", "seed", "whole numbers"),
    ],
)
def test_what_cannot_be_understood_is_said_with_what_there_is(typed: str, key: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        understood(typed.split())
    assert raised.value.key == key
    assert said in f"{raised.value} {raised.value.hint}"


def test_a_wrong_override_is_refused_before_anything_starts(tmp_path: Path) -> None:
    refused = reproduce("fig4 scale=timing batch_sze=3", tmp_path)
    assert refused.exit_code == 2
    assert "batch_size" in refused.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("override", ["schedule.clock=samples", "paradigm=bsp", "paradigm.held_gradients=apply"])
def test_what_tells_the_arms_apart_cannot_be_overridden(override: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        planned(STUDIES["fig4"], understood(["fig4", "scale=timing", override]))
    assert raised.value.key == override.partition("=")[0]


@pytest.mark.parametrize("option", ["--output", "runs_dir"])
def test_a_folder_that_cannot_be_written_is_said_before_anything_starts(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    to = f"--output {tmp_path / 'file'}" if option == "--output" else ""
    refused = reproduce(f"fig4 scale=timing {to}", tmp_path / "runs" if to else tmp_path / "file")
    assert refused.exit_code == 2
    assert f"{option}: cannot write" in refused.output
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_which_runs_are_missing_and_makes_none(tmp_path: Path) -> None:
    said = reproduce("fig4 scale=timing --dry-run", tmp_path)
    assert said.exit_code == 0
    assert "6 runs" in said.output
    assert "DSSP 3-15, clock of updates, seed 1" in said.output
    assert not list(tmp_path.iterdir())


# --- the story --------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short table of ratios, and one figure."""
    monkeypatch.setattr(sensitivity, "RATIOS", (1.57,))
    monkeypatch.setattr(sensitivity, "MORE_NOISE", {})
    draw = of_arms.of_arms
    monkeypatch.setattr(of_arms, "of_arms", lambda arms, *args, **kwargs: draw(arms[:1], *args, **kwargs))


@pytest.mark.processes
@pytest.mark.usefixtures("in_short")
def test_an_interrupted_reproduction_goes_on_repeats_nothing_and_reports_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(items: Sequence[Item], progress: BatchProgress, processes: int | None = None) -> dict[str, str]:
        carry_out(items[:2], progress, processes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(command, "carry_out", impatient)
        assert reproduce(SHORT, tmp_path).exit_code == 130
    before = set(finished_runs(tmp_path).values())
    assert len(before) == 2

    resumed = reproduce(SHORT, tmp_path)
    assert (resumed.exit_code, "6 runs, 2 of them finished already" in resumed.output) == (0, True), resumed.output
    runs = set(finished_runs(tmp_path).values())
    assert (len(runs), before <= runs) == (6, True)
    (folder,) = (tmp_path / "reports").glob("fig4-timing-*")
    report = (folder / "report.md").read_bytes()

    again = reproduce(SHORT, tmp_path)
    assert "6 of them finished already" in again.output
    assert set(finished_runs(tmp_path).values()) == runs
    assert (folder / "report.md").read_bytes() == report
    _says_what_the_paper_shows(folder)


def _says_what_the_paper_shows(folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "**Changed:** `stop.epochs=3`, `schedule.milestones=[2,2.5]`." in text
    drops = _rows(text, "## When the learning rate drops")
    assert drops["BSP"][:2] == ["0.666", "0.667, 0.834"]
    assert 0.33 < float(drops["DSSP 3-15"][1].split(",")[0]) < 0.36
    counts = _rows(text, "## Updates per iteration")
    assert counts["SSP 3"][1] == "1.05"
    assert 1 <= float(counts["SSP 3"][0]) < 1.06
    assert 1.85 < float(counts["DSSP 3-15"][0]) < 2
    ends = _rows(text, "## How long 300 epochs take")
    assert all(abs(float(ends[label][2].split()[0])) < 5 for label in ("BSP", "SSP 3", "DSSP 3-15"))
    for line in text.splitlines():
        if line.startswith("!["):
            assert (folder / line.partition("](")[2].rstrip(")")).is_file()
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    verdicts = {(a["claim"], a["clock"]): a["verdict"] for a in json.loads((folder / "claims.json").read_text())}
    assert {"supported", "not supported", "not decidable"} == set(verdicts.values())


@pytest.mark.processes
@pytest.mark.usefixtures("in_short")
def test_the_small_scale_shows_both_clocks_beside_each_other(tmp_path: Path) -> None:
    shorter = "stop.epochs=3 schedule.milestones=[2,2.5] dataset.examples=800 dataset.test_examples=200"
    made = reproduce(f"fig4 scale=mini seed=1 tracking=none {shorter}", tmp_path)
    assert made.exit_code == 0, made.output
    (folder,) = (tmp_path / "reports").glob("fig4-mini-*")
    text = (folder / "report.md").read_text(encoding="utf-8")
    drops = {label: [cell.split(",")[0] for cell in row] for label, row in _rows(text, "## When the").items()}
    for label, row in drops.items():  # the fast worker is ahead by its threshold, and under ASP done long before
        assert float(row[2]) == pytest.approx(0.52 if label == "ASP" else 2 / 3, abs=0.06), label
    assert float(drops["BSP"][1]) == pytest.approx(2 / 3, abs=0.03)
    assert float(drops["DSSP 3-15"][1]) == pytest.approx(0.345, abs=0.03)
    assert len(_rows(text, "## How many times as early")) == 5
    assert _rows(text, "## Table I").keys() >= {"BSP", "ASP", "SSP 3", "SSP 6", "SSP 15"}
    assert (folder / "figures" / "clocks.png").is_file()
    verdicts = {(a["claim"], a["clock"]): a["verdict"] for a in json.loads((folder / "claims.json").read_text())}
    assert len({claim for claim, _ in verdicts}) * 2 == len(verdicts)
    assert set(verdicts.values()) <= {"supported", "not supported", "not decidable"}


@pytest.mark.processes
@pytest.mark.usefixtures("in_short")
def test_several_figures_get_an_overview(tmp_path: Path) -> None:
    studies = [STUDIES["fig3a"], STUDIES["fig3e"]]
    made = reproduce("fig3a fig3e scale=timing seed=1 stop.epochs=1 schedule.milestones=[0.5] tracking=none", tmp_path)
    assert made.exit_code == 0, made.output
    (overview,) = (tmp_path / "reports").glob("all-timing-*.md")
    text = overview.read_text(encoding="utf-8")
    assert "seed=1" in text
    for study in studies:
        (report,) = (tmp_path / "reports").glob(f"{study.name}-timing-*/report.md")
        assert f"[{study.figure}]({report.parent.name}/report.md)" in text
        assert study.title in made.output


DRIVER = """
import time
from pathlib import Path
from dssp_bench.experiment import reports

def never_done(plan, folder):
    print("working", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    reports.make_report = never_done
    list(reports.make_reports(["one", "other"], Path()))
"""


@pytest.mark.processes
def test_who_writes_reports_does_not_outlive_who_asked_for_them(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER, encoding="utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment()) as driver:
        assert driver.stdout
        assert driver.stdout.readline() == "working\n"
        family = descendants(driver.pid)
        driver.kill()
    assert len(family) >= 3  # who forks, who forgets nothing, and one who writes
    assert gone(family)


def _rows(text: str, heading: str) -> dict[str, list[str]]:
    """The first table under a heading: a row's cells by its first one."""
    section = text.partition(heading)[2]
    table = section[section.index("\n|") :].split("\n\n")[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0]: row[1:] for row in cells}
