"""What a user may choose of each engine."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _expands(path: str) -> str:
    try:
        expanded = os.fsencode(Path(path).expanduser())
    except (RuntimeError, ValueError):  # the home of nobody, or what no file system takes
        expanded = b"\0"
    if b"\0" in expanded:
        raise ValueError(f"must do as the path of a folder, got {path[:40]!r}")
    return path


FolderPath = Annotated[str, Field(min_length=1), AfterValidator(_expands)]
"""The path of a folder, which need not be there; `~` is a home."""
Threads = Annotated[int, Field(ge=1, le=1024)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SimulatedOptions(_Options):
    """Virtual time; `train` computes real gradients in virtual order, without it only the timing runs.

    `threads` is the number of threads to compute with; more than one helps only large networks on idle cores.
    """

    train: bool = True
    threads: Threads = 1


class LocalOptions(_Options):
    """Real processes on this machine.

    `pull: whole` delivers one version of the weights, never a mixture of two. `threads` is the number of threads that
    each worker computes with; `startup_timeout_s` bounds how long the workers may take to become ready. A worker that
    computes for longer than `lease_s`, and than 20 times its median iteration, is taken to hang and is killed.
    `restarts` says how often each worker is replaced with `on_worker_loss=restart`.
    """

    pull: Literal["whole"] = "whole"
    threads: Threads = 1
    startup_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    lease_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    restarts: Annotated[int, Field(ge=0)] = 3


class ReplayOptions(_Options):
    """A recorded run, fed back through the core; `run` is its folder, or the folder's name under `runs/`."""

    run: FolderPath


EngineOptions = SimulatedOptions | LocalOptions | ReplayOptions
