"""Numbers to figures. `figures` and `arm_figures` draw one figure from plain numbers, of one run and of several arms;
`of_run` and `of_arms` get the numbers from records; `style` is how all of them look. `save_all` draws a run's figures
into its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dssp_bench.records.reader import RunRecords

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_all(records: RunRecords, folder: Path) -> list[Path]:
    """Draw all figures of one run into `folder/figures`; returns the files. Leaves out what has no data."""
    from dssp_bench.plots.of_run import of_run

    return save_figures(of_run(records), folder / "figures")


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as PNG and SVG, named after its key, into a folder, which is made if need be.

    Equal figures give equal files.
    """
    from dssp_bench.plots.style import save, settle

    folder.mkdir(parents=True, exist_ok=True)
    settled = {name: settle(made) for name, made in figures.items()}
    return [save(made, folder / f"{name}{suffix}") for name, made in settled.items() for suffix in (".png", ".svg")]
