"""How benchmarks say what they measured: a JSON line about the machine, one per case, and a table at the end."""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import dssp_bench
from dssp_bench.experiment.environment import environment


def header(arguments: argparse.Namespace) -> None:
    """Print the line that comes first: machine, versions, date, how busy others keep the machine, and the options."""
    hardware = environment()["hardware"]
    machine = {"machine": hardware["cpu"], "cores": hardware["cores"], "gpus": hardware["gpus"]}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    about = {"dssp-bench": dssp_bench.__version__, "date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0]}
    options = {name: str(value) if isinstance(value, os.PathLike) else value for name, value in vars(arguments).items()}
    case(**machine, **versions, **about, **options)


def case(**values: Any) -> None:
    """Print one case as one line; numbers are rounded to five digits."""
    print(json.dumps({key: _rounded(value) for key, value in values.items()}), flush=True)


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows under each other; the first one's keys are the head, and what is None is a dash."""
    if not rows:
        return
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for line in cells:
        first, *others = line
        aligned = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"{first:<{widths[0]}}", *aligned]), flush=True)


def names_of(*allowed: str) -> Callable[[str], list[str]]:
    """For argparse: some of these names, separated by commas; nothing for an empty text."""

    def names_of_these(text: str) -> list[str]:
        for name in names(text):
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        return names(text)

    return names_of_these


def names(text: str) -> list[str]:
    """What an option names, separated by commas; nothing for an empty text."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    """Whole numbers above 0, separated by commas; 1.7e6 and 10_000 are such numbers too."""
    return [count(name) for name in names(text)]


def count(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = positive(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
