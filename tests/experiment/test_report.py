"""A report says what is missing from it, and compares only what can be compared."""

from pathlib import Path

import pytest

from dssp_bench.cli.reproduce import planned, understood
from dssp_bench.experiment import report
from dssp_bench.experiment.report import Result, in_short, result_of, write_report
from dssp_bench.experiment.run import run
from dssp_bench.experiment.studies import STUDIES
from dssp_bench.records.reader import RunRecords

UNTRAINED = ("engine.train=false", "tracking=none", "seed=1")


def made(study: str, runs_dir: Path, *arguments: str, without: str = "nothing") -> Result:
    """A study's result from runs made in this process, but for those whose label begins so."""
    wish = understood([study, *UNTRAINED, f"runs_dir={runs_dir}", *arguments])
    items = planned(STUDIES[study], wish)
    specs = [item.spec for item in items if not item.label.startswith(f"{study}: {without}")]
    return result_of(STUDIES[study], wish.scale, [RunRecords.open(run(spec, []).folder) for spec in specs], len(items))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures."""
    monkeypatch.setattr(report, "_draw", lambda result, folder: [])


@pytest.mark.usefixtures("undrawn")
def test_ends_are_compared_only_where_epochs_decide_them(tmp_path: Path) -> None:
    by_epochs = made("fig4", tmp_path, "scale=timing", "stop.epochs=1", "schedule.milestones=[0.5]")
    cut_short = made("fig4", tmp_path, "scale=timing", "stop.pushes=90", "schedule.milestones=[0.5]")
    for result, compared in ((by_epochs, True), (cut_short, False)):
        text = write_report(result, tmp_path / "report").read_text(encoding="utf-8")
        assert any(line.startswith("Ends are") for line in in_short(result)) is compared
        assert ("How long 300 epochs take" in text) is compared


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("without", "said"), [("SSP 3", True), ("nothing", False)])
def test_a_report_from_some_of_the_runs_says_so(without: str, said: bool, tmp_path: Path) -> None:
    result = made("fig4", tmp_path, "scale=timing", "stop.pushes=90", "schedule.milestones=[0.5]", without=without)
    text = write_report(result, tmp_path / "report").read_text(encoding="utf-8")
    assert ("**Incomplete:** 5 of 6 runs" in text) is said


@pytest.mark.usefixtures("undrawn")
def test_a_published_ratio_is_of_two_curves_from_one_drawing(tmp_path: Path) -> None:
    result = made("fig3a", tmp_path, "scale=mini", "stop.pushes=90", "schedule.milestones=[0.5]")
    text = write_report(result, tmp_path / "report").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0]: line.split(" | ")[1] for line in text.splitlines() if " | neither reached it" in line}
    assert rows == {"| BSP": "1.56", "| ASP": "1.15", "| SSP 3": "1.06", "| SSP 6": "1.05", "| SSP 15": "1.14"}
