"""`dssp-bench calibrate`: the simulator's constants from a recorded run, and how well they predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dssp_bench.cli.compose import compose_job
from dssp_bench.cli.trace import recorded_run
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.engines.compute_time import Jitter
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.experiment.calibrate import (
    Calibration,
    Timing,
    calibrate,
    check_comparable,
    predict,
    prediction_spec,
    timing,
)
from dssp_bench.experiment.spec import build_spec
from dssp_bench.records.files import plain, write_whole
from dssp_bench.records.reader import RunRecords

PARADIGMS = ("bsp", "asp", "ssp", "dssp")
"""What is predicted if no other run is there to compare with, each with the options of its file."""

_WIDE = 120  # columns, from which on there is room for details
_MOST_WORKERS = 8  # of more, only the mean is shown
_TIME_SLICE_S = 0.004  # Linux deals out about 3 ms, and looks up from it at every tick of 4 ms


def calibrate_run(run: str, others: Sequence[str], output: Path | None, runs_dir: Path | None) -> None:
    """Fit one run, write the layout, and predict. Raises ConfigurationError, ConfigurationErrors, RecordsError."""
    if output and (output.absolute().parent.name, output.suffix) != ("cluster", ".yaml"):
        hint = "DIR is what -cd takes, and NAME what follows cluster="
        raise ConfigurationError("--output", f"must be DIR/cluster/NAME.yaml, got {output}", hint)
    recorded = recorded_run(run, runs_dir)
    checks = [recorded_run(other, runs_dir) for other in others]
    for other in checks:
        check_comparable(recorded, other)
    calibration = calibrate(recorded)
    path = output or recorded.folder / "cluster" / "calibrated.yaml"
    _write(path, calibration.layout, recorded)
    console = Console(highlight=False)
    _show_fit(calibration, console)
    console.print()
    _show_predictions(calibration, recorded, checks, console)
    console.print()
    _say_how_far_to_trust_it(calibration, console)
    use = f"dssp-bench run engine=simulated -cd {path.absolute().parents[1]} cluster={path.stem}"
    console.print(Text(f"{path}:\n  {use}"), soft_wrap=True)


# --- the layout ---


def layout_yaml(layout: ClusterLayout) -> dict[str, Any]:
    """A layout as a file of the group `cluster` says it, with every key of a worker, so that each can be overridden."""
    workers = [
        {**worker.model_dump(), "jitter": worker.jitter.model_dump(exclude_defaults=True) or None}
        for worker in layout.workers
    ]
    rest = layout.model_dump(exclude={"workers", "count"}, exclude_none=True, exclude_defaults=True)
    content: dict[str, Any] = plain({**rest, "workers": workers})
    return content


def _write(path: Path, layout: ClusterLayout, recorded: RunRecords) -> None:
    heading = f"# Fitted by `dssp-bench calibrate` to the run {recorded.folder.name}. Times are those of its machine.\n"
    text = heading + yaml.safe_dump(layout_yaml(layout), sort_keys=False, allow_unicode=True, width=120)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError("--output", f"cannot write {path}: {error.strerror}") from error


# --- what was fitted ---


def _show_fit(calibration: Calibration, console: Console) -> None:
    """A row for each worker; in a wide terminal also where 90 % of the noise's factors are, recorded and fitted."""
    wide = console.width >= _WIDE
    columns = ["pushes", "typical ms", "slowdown", "noise", "correlation", "fit error"]
    table = _table("worker", columns + ["5-95 % recorded", "5-95 % fitted"] * wide)
    for worker, fit in zip(calibration.layout.workers, calibration.fits.values(), strict=True):
        correlation = f"{fit.jitter.rho:.2f}" if fit.jitter.kind == "lognormal" else "-"
        cells = [str(fit.iterations), f"{1000 * fit.typical_s:.3f}", f"{worker.slowdown:.3f}", noise(fit.jitter)]
        cells += [correlation, f"{fit.largest_error:.1%}"]
        if wide:
            cells += [f"{factors[0]:.3f}-{factors[-1]:.3f}" for factors in (fit.recorded, fit.fitted)]
        table.add_row(Text(worker.name), *cells)
    console.print(table)
    server, network = calibration.layout.server, calibration.layout.network
    parts = [("receive", server.receive_s), ("update", server.update_s), ("reply", server.reply_s)]
    costs = ", ".join(f"{name} {1000 * seconds:.3f}" for name, seconds in parts)
    busy = "" if calibration.busy_share is None else f", busy for {calibration.busy_share:.0%} of the run"
    console.print(f"server: {costs} ms{busy}")
    console.print(f"a message takes {1000 * network.latency_s:.3f} ms")


def _table(first: str, others: Sequence[str]) -> Table:
    """A column of names, which are folded if they must be, and columns of numbers, which are not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def noise(jitter: Jitter) -> str:
    """A jitter in words; a slow state takes two more lines."""
    kinds = {"constant": "none", "lognormal": f"log-normal {jitter.sigma:.3f}", "trace": "as recorded"}
    if slow := jitter.slow_state:
        return f"{kinds[jitter.kind]}\nslow x{slow.factor:.2f}:\n{slow.enter:.1%} in, {slow.leave:.0%} out"
    return kinds[jitter.kind]


# --- what it predicts ---


def _show_predictions(
    calibration: Calibration, recorded: RunRecords, checks: Sequence[RunRecords], console: Console
) -> None:
    wide = console.width >= _WIDE
    table = _table("run", ["time s", "predicted", "error", "pushes/s", "predicted", "waiting", "predicted"])
    for run in (recorded, *checks):
        predicted = timing(predict(calibration, prediction_spec(run)))
        name = _paradigm_of(run) + (" *" if run is recorded else "")
        table.add_row(Text(name), *_cells(timing(run.pushes), predicted, wide))
    if not checks:
        spec = prediction_spec(recorded)
        for name in PARADIGMS:
            table.add_row(name, *_cells(None, timing(predict(calibration, spec, _paradigm(name))), wide))
    console.print(table)
    others = "" if checks else "; the others: each paradigm with the options of its file"
    console.print(Text(f"* calibrated on{others}", style="dim"))


def _cells(real: Timing | None, predicted: Timing, wide: bool) -> list[str]:
    rates = [run and run.duration_s and run.pushes / run.duration_s for run in (real, predicted)]
    error = f"{predicted.duration_s / real.duration_s - 1:+.1%}" if real and real.duration_s else "-"
    return [
        f"{real.duration_s:.2f}" if real else "-",
        f"{predicted.duration_s:.2f}",
        error,
        *(f"{rate:.1f}" if rate else "-" for rate in rates),
        _waiting(real, wide),
        _waiting(predicted, wide),
    ]


def _waiting(run: Timing | None, wide: bool) -> str:
    """The workers' mean share, and in a wide terminal the share of each."""
    if run is None:
        return "-"
    shares = list(run.waiting.values())
    each = " ".join(f"{100 * share:.0f}" for share in shares)
    mean = f"{sum(shares) / len(shares):.0%}"
    return f"{mean} ({each})" if wide and len(shares) <= _MOST_WORKERS else mean


def _paradigm_of(run: RunRecords) -> str:
    return str((run.summary or {}).get("paradigm") or run.folder.name)


def _paradigm(name: str) -> Paradigm:
    job = compose_job([f"paradigm={name}"])
    return build_spec(job.config, job.choices).paradigm


def _say_how_far_to_trust_it(calibration: Calibration, console: Console) -> None:
    """Whether the workers get in each other's way on this machine's cores, and what that means."""
    cores = calibration.cores
    if cores is None:
        return
    machine = f"{cores.count} core{'' if cores.count == 1 else 's'}"
    wanted = f"if nobody were held, workers and server would keep {cores.demand:.1f} cores busy"
    if not cores.oversubscribed:
        console.print(Text(f"The machine has {machine}; {wanted}."))
        return
    parts = [
        f"The machine is oversubscribed: it has {machine}, and {wanted}.",
        "The predictions share the cores equally among those who compute; the layout alone does not know of them, so "
        "engine=simulated shows this cluster without that.",
    ]
    if (shortest := min(fit.typical_s for fit in calibration.fits.values())) < _TIME_SLICE_S:
        parts.append(
            f"Iterations of {1000 * shortest:.1f} ms are shorter than the time slices that the system deals out, which "
            "the predictions know nothing of: expect errors of up to 30 %."
        )
    console.print(Text(" ".join(parts), style="yellow"))
