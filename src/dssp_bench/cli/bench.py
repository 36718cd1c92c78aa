"""`dssp-bench bench`: how far the parameter server is from what memory allows, on this machine."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dssp_bench.cli.compose import compose_job
from dssp_bench.cli.errors import FAILED, show_error
from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.engines.options import MOST_WORKERS
from dssp_bench.engines.termination import termination_as_interrupt
from dssp_bench.experiment.round_trips import PRELOAD, Contender, Medians, in_turns, measure
from dssp_bench.experiment.spec import build_spec

_WIDEST = 80
_LEGEND = """\
A round trip is a push and a pull as its worker sees them; CPU is what all processes use for it, server and workers; the
best turn exceeds the worst by the spread. Workers compute nothing here: in training the server sleeps between pushes
and caches are cold, which makes a round trip longer. More than 100 % of limit is possible, since a push copies nothing
(7 vectors move instead of 9) and several threads update and copy large vectors."""

_MOST_CORES = 4
_MOST_SECONDS = 600


@dataclass(frozen=True)
class Measured:
    """One case: what the server did, and what its bounds did in between, round trips per second."""

    parameters: int
    workers: int
    server: Medians
    limit: float
    memcpy: float

    def values(self) -> dict[str, Any]:
        """What there is to say of it, as JSON may hold it; null where a turn was too short to say it."""
        bounds = {"limit_per_s": self.limit or None, "memcpy_per_s": self.memcpy or None}
        shares = {"of_limit": self._share(self.limit), "of_memcpy": self._share(self.memcpy)}
        rate = {"per_s": self.server.per_s or None}
        case = {"parameters": self.parameters, "workers": self.workers}
        return {**case, **asdict(self.server), **rate, **bounds, **shares}

    def _share(self, bound: float) -> float | None:
        return self.server.per_s / bound if self.server.per_s and bound else None


def bench(
    sizes: str, workers: str | None, paradigm: str, seconds: float | None, repeats: int, device: str, as_json: bool
) -> int:
    """Measure and print; returns the exit code. Raises ConfigurationError, DsspBenchError."""
    parameters = numbers("--sizes", sizes)
    counts = default_workers() if workers is None else numbers("--workers", workers)
    _check(max(parameters), max(counts), seconds, device)
    rule = _paradigm(paradigm)

    found: list[Measured] = []
    try:
        with termination_as_interrupt():
            start_fork_server(PRELOAD)
            for size, count in product(parameters, counts):
                with _waiting(f"{_size(size)} parameters, {_workers(count)} ..."):
                    found.append(_measured(rule, size, count, seconds or turn_s(size, count), repeats, device))
                if as_json:
                    print(json.dumps({"paradigm": paradigm, "device": device, **found[-1].values()}), flush=True)
    finally:
        if found and not as_json:
            _print(found)
    return _verdict(found)


def _measured(rule: Paradigm, size: int, count: int, seconds: float, repeats: int, device: str) -> Measured:
    from dssp_bench.experiment.contenders import ThroughServer, limit, memcpy  # with torch, which takes a while

    contenders: dict[str, Contender] = {"server": ThroughServer(rule), "limit": limit, "memcpy": memcpy}
    turns = {name: partial(measure, each, size, count, seconds, device) for name, each in contenders.items()}
    medians, failed = in_turns(turns, repeats)
    for error in failed.values():
        raise error
    return Measured(size, count, medians["server"], medians["limit"].per_s, medians["memcpy"].per_s)


def _verdict(found: Sequence[Measured]) -> int:
    for each in found:
        if not each.server.right:
            case = f"{_size(each.parameters)} parameters and {_workers(each.workers)}"
            show_error(DsspBenchError(f"with {case} the weights at the end are not those of the updates made"))
            return FAILED
    return 0


# --- what was asked for ---


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers above 0, separated by commas; 1.7e6 is one too. Raises ConfigurationError."""
    found = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = 0.0
        if value < 1 or not value.is_integer():
            raise ConfigurationError(option, f"must be whole numbers above 0, got {part!r}", "such as 1,4 or 1e5,1.7e6")
        found.append(int(value))
    return found


def default_workers() -> list[int]:
    """One, and as many as there are cores, which are two at least and four at most."""
    return [1, max(2, min(len(os.sched_getaffinity(0)), _MOST_CORES))]


def turn_s(parameters: int, workers: int) -> float:
    """Long enough for some tens of round trips, whose time memory sets, and for the first ones, which do not count."""
    return 0.15 + 15e-9 * parameters * (1 + workers)


def _paradigm(name: str) -> Paradigm:
    if not name.isidentifier():
        raise ConfigurationError("--paradigm", f"must be one name, got {name!r}", "such as bsp or dssp")
    return build_spec(compose_job([f"paradigm={name}"]).config).paradigm


def _check(size: int, workers: int, seconds: float | None, device: str) -> None:
    """Refuse what cannot work before anything is started."""
    if seconds is not None and not 0 < seconds <= _MOST_SECONDS:
        raise ConfigurationError("--seconds", f"must be above 0 and at most {_MOST_SECONDS}, got {seconds:g}")
    if device not in ("cpu", "cuda"):
        raise ConfigurationError("--device", f"must be cpu or cuda, got {device!r}")
    if workers > MOST_WORKERS:
        raise ConfigurationError("--workers", f"must be at most {MOST_WORKERS}, got {workers}")
    needed = 4 * size * (4 * workers + 8)  # float32: the vectors of `limit`, and those of the server and its evaluator
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        problem = f"{_size(size)} parameters and {_workers(workers)} take {needed / 1e9:.1f} GB"
        raise ConfigurationError("--sizes", problem, f"this machine has {memory / 1e9:.1f} GB")

    import torch

    if device == "cuda" and not torch.cuda.device_count():
        raise ConfigurationError("--device", "this machine has no CUDA device", "allowed: cpu")


# --- on the terminal ---


@contextmanager
def _waiting(text: str) -> Iterator[None]:
    """Say on a terminal what is being measured; stdout may be a file."""
    with Console(stderr=True, highlight=False).status(text):
        yield


def _print(found: Sequence[Measured]) -> None:
    console = Console(highlight=False)
    console.width = max(console.width, _WIDEST)  # a number that is cut off is another number
    console.print(_table(found))
    console.print()
    if any(each.values()["per_s"] is None for each in found):
        console.print("A dash: too few round trips to tell; --seconds gives more.")
    console.print(Text(_LEGEND.replace("\n", " ")))


def _table(found: Sequence[Measured]) -> Table:
    rates, shares = ["round\ntrips/s", "p50\nms", "p99\nms", "CPU\nms"], ["of\nlimit", "of\nmemcpy", "spread"]
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading in ["parameters", "workers", *rates, *shares, "weights"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        values, server = each.values(), each.server
        cells = [_shown(values["per_s"], ",.0f")]
        cells += [_shown(value, ".3g") for value in (server.p50_ms, server.p99_ms, server.cpu_ms)]
        cells += [_shown(values[share], ".0%") for share in ("of_limit", "of_memcpy", "spread")]
        weights = Text("right") if server.right else Text("WRONG", style="bold red")
        table.add_row(_size(each.parameters), str(each.workers), *cells, weights)
    return table


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _size(parameters: int) -> str:
    return f"{parameters / 1e6:,.10g} M" if parameters >= 100_000 else f"{parameters:,}"


def _shown(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
