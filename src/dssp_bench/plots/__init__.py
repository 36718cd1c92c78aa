"""Numbers to figures. `figures` draws one figure from plain numbers, `style` is how all of them look, and `save_all`
draws a run's figures into its folder."""

from pathlib import Path

from dssp_bench.records.reader import RunRecords


def save_all(records: RunRecords, folder: Path, svg: bool = False) -> list[Path]:
    """Draw all figures of one run into `folder/figures`; returns the files, PNG first. Leaves out what has no data."""
    from dssp_bench.plots.of_run import of_run
    from dssp_bench.plots.style import save

    target = folder / "figures"
    target.mkdir(parents=True, exist_ok=True)
    suffixes = (".png", ".svg") if svg else (".png",)
    figures = of_run(records)
    return [save(figure, target / f"{name}{suffix}") for suffix in suffixes for name, figure in figures.items()]
