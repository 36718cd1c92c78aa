"""The commands. Imports nothing heavy: `dssp-bench --help` answers before torch or MLflow could be imported."""

from pathlib import Path
from typing import Annotated

import typer

import dssp_bench
from dssp_bench.cli.completion import complete

app = typer.Typer(
    name="dssp-bench",
    help="Compare ways of synchronising distributed training: BSP, ASP, SSP, DSSP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dssp-bench {dssp_bench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    return complete(ctx.params.get("overrides") or [], incomplete)


@app.command(
    add_help_option=False,  # Hydra's own says more: groups, their files, and the configuration
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[GROUP=OPTION] [KEY=VALUE]", autocompletion=_complete, show_default=False),
    ] = None,
) -> None:
    """Train once, or with -m once for every combination of the values given; `run --help` lists groups and keys."""
    from dssp_bench.cli import run as command

    try:
        code = command.run(overrides or [])
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


@app.command()
def ui(
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are; by default where `run` puts them.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine only.")] = 5000,
) -> None:
    """Open MLflow's pages on the runs, with the comparison of paradigms already set up."""
    from dssp_bench.cli.errors import USAGE, show_error
    from dssp_bench.cli.ui import ui as show
    from dssp_bench.core.errors import DsspBenchError
    from dssp_bench.experiment.spec import default_runs_dir

    try:
        show(runs_dir.absolute() if runs_dir else default_runs_dir(), port)
    except DsspBenchError as error:
        show_error(error)
        raise typer.Exit(USAGE) from None


if __name__ == "__main__":
    main()
