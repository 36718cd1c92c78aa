"""Where and with what a run was made: hardware, versions, commit; nothing in it changes the run."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("dssp-bench", "torch", "torchvision", "numpy", "pyarrow", "pandas", "mlflow", "hydra-core", "pydantic")


def environment() -> dict[str, Any]:
    """Hardware, package versions and the commit of the code, as JSON may hold them."""
    return {
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "host": platform.node(),
        "pid": os.getpid(),
        "hardware": {"cpu": _cpu(), "cores": _cores(), "memory_bytes": _memory(), "gpus": _gpus()},
    }


def _git() -> dict[str, Any]:
    """The commit of the source checkout that runs, and whether files differ from it; nulls elsewhere."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return {"commit": None, "dirty": None}
    commit = _output("git", "-C", str(here), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(here), "status", "--porcelain")
    return {"commit": commit or None, "dirty": None if changes is None else bool(changes)}


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    """Names as the driver's own tool says them; torch would set up CUDA in this process only to ask."""
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines() if names else []
