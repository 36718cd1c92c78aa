"""`dssp-bench compare`: runs beside each other, as tables, files and figures."""

import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dssp_bench.analysis import comparison
from dssp_bench.analysis.arms import Arm, arms_of
from dssp_bench.analysis.comparison import Cell, Comparison
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment.selection import Selection, in_words, select
from dssp_bench.experiment.spec import default_runs_dir
from dssp_bench.records.files import write_whole

_HEADING_WIDTH = 12


def compare(
    selectors: Sequence[str],
    targets: Sequence[float] = (),
    baseline: str | None = None,
    output: Path | None = None,
    figures: bool = True,
    runs_dir: Path | None = None,
) -> None:
    """Print the comparison of these runs and write it to a folder. Raises ConfigurationError, RecordsError."""
    console = Console(highlight=False)
    runs_dir = runs_dir.absolute() if runs_dir else default_runs_dir()
    _check(targets)
    selection = select(selectors, runs_dir)
    arms = arms_of(selection.runs)
    compared = comparison.compare(arms, targets, baseline)
    _show(compared, selection, console)
    folder = output or runs_dir / "comparisons" / f"{datetime.now().astimezone():%Y%m%d-%H%M%S-%f}"
    try:
        drawn = _write(compared, folder, figures, console)
    except OSError as error:
        raise ConfigurationError("--output", f"cannot write to {folder}: {error.strerror}") from error
    also = f" and {drawn} figures as PNG and SVG" if drawn else ""
    console.print(Text(f"{folder}: comparison.csv, comparison.md{also}"), soft_wrap=True)


def _check(targets: Sequence[float]) -> None:
    for target in targets:
        if not 0 < target <= 1:
            hint = f"{target:g} % is {target / 100:g}" if 1 < target <= 100 else ""
            raise ConfigurationError("--target", f"must be an accuracy above 0 and at most 1, got {target:g}", hint)


# --- on the terminal ---


def _show(compared: Comparison, selection: Selection, console: Console) -> None:
    number, arms = len(selection.runs), len(compared.rows)
    line = f"{number} run{'s' if number > 1 else ''} in {arms} arm{'s' if arms > 1 else ''}"
    left_out = f"; left out: {in_words(selection.left_out)}" if selection.left_out else ""
    console.print(Text(line + left_out), soft_wrap=True)
    for warning in compared.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    for table in compared.tables():
        console.print()
        console.print(_drawn(table))
    console.print()
    for note in compared.notes:
        console.print(Text(note, style="dim"))


def _drawn(table: comparison.Table) -> Table:
    drawn = Table(
        title=Text(table.title, style="bold"), title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    drawn.add_column(table.headings[0], overflow="fold")
    for heading in table.headings[1:]:
        drawn.add_column("\n".join(textwrap.wrap(heading, _HEADING_WIDTH)), justify="right", vertical="top")
    for row in table.rows:
        drawn.add_row(*map(_both, row))
    return drawn


def _both(cell: Cell) -> Text:
    """A number, and what there is to say of its spread below it."""
    text = Text(cell.number)
    return text.append(f"\n{cell.spread}", style="dim") if cell.spread else text


# --- in files ---


def _write(compared: Comparison, folder: Path, figures: bool, console: Console) -> int:
    """Write tables and figures into the folder; how many figures there are."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = compared.frame()
    write_whole(folder / "comparison.csv", lambda path: frame.to_csv(path, index=False))
    names = _draw(compared, folder / "figures", console) if figures else []
    text = _report(compared, names)
    write_whole(folder / "comparison.md", lambda path: path.write_text(text, encoding="utf-8"))
    return len(names)


def _draw(compared: Comparison, folder: Path, console: Console) -> list[str]:
    """The names of the figures, which are in the folder now."""
    with console.status("drawing figures ..."):
        from dssp_bench.plots import save_figures  # with matplotlib, which takes a while
        from dssp_bench.plots.of_arms import of_arms

        figures = of_arms([row.arm for row in compared.rows], compared.targets)
        save_figures(figures, folder)
    return list(figures)


def _report(compared: Comparison, figures: Sequence[str]) -> str:
    shown = [f"![{name}](figures/{name}.png)" for name in figures]
    runs = [f"- {row.arm.label}: {', '.join(_names(row.arm))}" for row in compared.rows]
    return "\n\n".join(["# Comparison", compared.markdown().strip(), *shown, "**Runs**", "\n".join(runs)]) + "\n"


def _names(arm: Arm) -> list[str]:
    return [f"`{run.folder.name}`" for run in arm.runs]
