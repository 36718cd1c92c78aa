"""The commands. Imports nothing heavy: `dssp-bench --help` answers before torch or MLflow could be imported."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
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
    gc.set_threshold(50_000)  # imports make many objects and no garbage; looking for it takes more than a second
    try:
        app()
    finally:
        gc.freeze()  # else the interpreter spends a second or two on looking for garbage before it ends


@contextmanager
def _mistakes_shown() -> Iterator[None]:
    """A message and an exit code instead of a traceback."""
    from dssp_bench.cli.errors import USAGE, show_error
    from dssp_bench.core.errors import DsspBenchError

    try:
        yield
    except DsspBenchError as error:
        show_error(error)
        raise typer.Exit(USAGE) from None


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
def reproduce(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIGURE [scale=SCALE] [KEY=VALUE]",
            help="One or more of fig3a, fig3c, fig3e, fig4, table1 and all. Keys are those of `run` and hold for every "
            "run; seed=1,2 gives each arm two.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs in virtual time at once; by default as many as there are cores.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the reports go; by default reports/ beside the runs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which runs are missing.")] = False,
) -> None:
    """Repeat the DSSP paper's figures: fig3a, fig3c, fig3e, fig4, table1 or all of them, and report on its claims.

    scale=full: the paper's data and numbers of epochs, real processes

    scale=mini: a small network and data set in virtual time; the default

    scale=timing: the paper's numbers of epochs in virtual time, no gradients

    Runs that are finished already are not made again, so the same command goes
    on where it was interrupted.
    """
    from dssp_bench.cli.reproduce import reproduce as command

    raise typer.Exit(command(arguments or [], processes, output, dry_run))


@app.command()
def worker(
    join: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where workers come in, as the run says.")],
    place: Annotated[
        int | None,
        typer.Option(min=0, help="The worker's number in the layout; by default any that is free."),
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, metavar="S", help="How long to try to reach the run, also after a cut.")
    ] = 60.0,
) -> None:
    """Work for a run with engine=cluster engine.launcher=join that was started elsewhere.

    Both must have the same DSSP_BENCH_KEY in their environment, and the data
    set must be on this machine too.
    """
    from dssp_bench.cli.worker import work

    with _mistakes_shown():
        raise typer.Exit(work(join, place, patience))


@app.command()
def trace(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name under the runs folder.")],
    output: Annotated[Path | None, typer.Option(help="Packed if it ends with .gz; by default RUN/trace.json.")] = None,
    begin: Annotated[float | None, typer.Option("--from", metavar="S", help="Leave out what ended earlier.")] = None,
    end: Annotated[float | None, typer.Option("--to", metavar="S", help="Leave out what began later.")] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are; by default where `run` puts them.")] = None,
) -> None:
    """Write one run as a timeline for Perfetto or chrome://tracing: who computed and who was held when.

    --from and --to are seconds on the engine's clock, real or virtual.
    """
    from dssp_bench.cli.trace import trace as write

    with _mistakes_shown():
        write(run, runs_dir, output, begin, end)


@app.command()
def compare(
    selectors: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUNS|KEY=VALUE",
            help="A run's folder, its name, or its id in MLflow; a folder that contains runs; the name of a sweep; "
            "or a condition.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[float] | None,
        typer.Option(metavar="ACCURACY", help="Whose times are compared, 0 to 1; may be given several times."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ARM|KEY=VALUE", help="What speed-ups refer to; by default paradigm=bsp.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A folder for tables and figures; by default runs/comparisons/<moment>.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw figures, which takes most of the time.")] = True,
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are; by default where `run` puts them.")] = None,
) -> None:
    """Compare finished runs: tables here; CSV, Markdown and figures in a folder.

    Runs that differ in nothing but their seed are one arm. Folders, names and
    sweeps add up; without any, all runs are meant. Of these, those are taken
    for which every KEY=VALUE[,VALUE...] holds: a group, a key of the
    configuration, or a key of the summary.

    dssp-bench compare paradigm=bsp,dssp seed=1,2

    dssp-bench compare cluster=hetero paradigm.threshold=3 engine=local

    dssp-bench compare runs/20261123-* --target 0.67 --target 0.68

    Without --target, the accuracies are 95 % and 99 % of the lowest median
    best accuracy of an arm, rounded down to two digits; arms that got less than
    half as far as the best one do not count.
    """
    from dssp_bench.cli.compare import compare as show

    with _mistakes_shown():
        show(selectors or [], target or (), baseline, output, figures, runs_dir)


@app.command()
def calibrate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name under the runs folder.")],
    check: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="A run to predict and compare with; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="DIR/cluster/NAME.yaml; by default RUN/cluster/calibrated.yaml.")
    ] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are; by default where `run` puts them.")] = None,
) -> None:
    """Fit the simulator's constants to a recorded run of real processes, and say how well they predict real runs.

    It writes a layout for `dssp-bench run engine=simulated -cd DIR cluster=NAME`
    and says what DIR and NAME are. Runs to check may differ in paradigm, seed
    and length only; without any, all four paradigms are predicted.

    dssp-bench calibrate RUN --check ANOTHER_RUN
    """
    from dssp_bench.cli.calibrate import calibrate_run

    with _mistakes_shown():
        calibrate_run(run, check or [], output, runs_dir)


@app.command()
def bench(
    sizes: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Parameters, float32; 1.7e6 is a number too.")
    ] = "1e5,1.7e6,2.35e7",
    workers: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="By default 1, and as many as cores but at most 4.")
    ] = None,
    paradigm: Annotated[str, typer.Option(metavar="NAME", help="With its default thresholds.")] = "asp",
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Of each measurement; by default longer for more parameters.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement; the median counts.")] = 3,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where the weights live.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each case instead of a table.")] = False,
) -> None:
    """Measure how many round trips of gradients and weights a second the server makes, beside what memory allows.

    Workers compute nothing. `limit` is a copy in, a fused update and a copy out
    in one process, as many side by side as there are workers; `memcpy` is the
    two copies alone. They take turns with the server.

    dssp-bench bench --sizes 1.7e6 --workers 1,4 --seconds 2
    """
    from dssp_bench.cli.bench import bench as measure

    with _mistakes_shown():
        raise typer.Exit(measure(sizes, workers, paradigm, seconds, repeats, device, as_json))


@app.command()
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name under the runs folder.")],
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are; by default where `run` puts them.")] = None,
) -> None:
    """Go on with a run that was interrupted, killed or failed, from its newest valid checkpoint.

    It goes on in its own folder and in its own run of MLflow. In virtual time
    it ends as if nothing had happened, to the byte; real processes go on with
    the weights, the optimizer, the clocks and the data that they had.
    """
    from dssp_bench.cli.resume import resume as go_on

    with _mistakes_shown():
        raise typer.Exit(go_on(run, runs_dir))


@app.command()
def sync(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUNS",
            help="Runs' folders, or their names under the runs folder; by default all.",
            show_default=False,
        ),
    ] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are; by default where `run` puts them.")] = None,
) -> None:
    """Send to MLflow what it lacks of runs that are over: all of it if mlflow.db was deleted, nothing the second time.

    A run is sent if its configuration says tracking.mlflow=true. One that
    goes on is left alone; one whose process was killed is completed first.
    """
    from dssp_bench.cli.sync import sync_runs

    with _mistakes_shown():
        raise typer.Exit(sync_runs(runs or [], runs_dir))


@app.command()
def doctor(
    clean: Annotated[bool, typer.Option("--clean", help="Remove what killed runs left.")] = False,
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are; by default where `run` puts them.")] = None,
) -> None:
    """Say what this machine offers, which data sets are there, and what runs left that were killed.

    --clean ends processes whose driver is gone and removes temporary files, never
    records or checkpoints. The exit code is 1 if something is left over.
    """
    from dssp_bench.cli.doctor import doctor as look

    with _mistakes_shown():
        raise typer.Exit(look(runs_dir, clean))


@app.command()
def ui(
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are; by default where `run` puts them.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the page, which only this machine can open.")] = 5000,
) -> None:
    """Open MLflow's pages on the runs, with the comparison of paradigms already set up."""
    from dssp_bench.cli.ui import ui as show
    from dssp_bench.experiment.spec import default_runs_dir

    with _mistakes_shown():
        show(runs_dir.absolute() if runs_dir else default_runs_dir(), port)


if __name__ == "__main__":
    main()
