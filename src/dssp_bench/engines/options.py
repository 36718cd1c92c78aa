"""What a user may choose of each engine."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MOST_WORKERS = 100
"""On one machine: a process can be handed 256 file descriptors at its start, and the server needs two for each."""
_PORTS = 65_536


def _expands(path: str) -> str:
    try:
        expanded = os.fsencode(Path(path).expanduser())
    except (RuntimeError, ValueError):  # the home of nobody, or what no file system takes
        expanded = b"\0"
    if b"\0" in expanded:
        raise ValueError(f"must do as the path of a folder, got {path[:40]!r}")
    return path


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, where an IPv6 address stands in brackets. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port[:6]) < _PORTS:
        raise ValueError(f"must be HOST:PORT, got {text[:60]!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


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


def _is_address(text: str) -> str:
    if text not in ("auto", "local"):
        parse_address(text)
    return text


class ClusterOptions(LocalOptions):
    """The server here or on a cluster, and workers anywhere that a TCP connection reaches.

    `launcher: ray` has Ray start the workers, at `address`: `auto` (what RAY_ADDRESS names, or the cluster that this
    user's or root's `ray start` made here, or one of its own), `local` (always one of its own), or `HOST:PORT`.
    `launcher: join` waits for workers that are started by other means, with `dssp-bench worker`. They come in at `host`
    and `port`; `auto` and 0 choose. A connection that breaks may be replaced within `reconnect_s`; then its worker is
    taken to be lost. The weights are split over `shards` processes of the server, each with a port of its own: those
    that follow `port`.
    """

    launcher: Literal["ray", "join"] = "ray"
    address: Annotated[str, AfterValidator(_is_address)] = "auto"
    host: Annotated[str, Field(min_length=1, max_length=255)] = "auto"
    port: Annotated[int, Field(ge=0, lt=_PORTS)] = 0
    reconnect_s: Annotated[float, Field(ge=0, le=86_400)] = 2.0
    shards: Annotated[int, Field(ge=1, le=64)] = 1

    @field_validator("shards")
    @classmethod
    def _have_ports(cls, shards: int, info: ValidationInfo) -> int:
        port = info.data.get("port", 0)
        if port and port + shards > _PORTS:
            raise ValueError(f"{shards} shards take the ports from {port} on, and {_PORTS - 1} is the last there is")
        return shards


class ReplayOptions(_Options):
    """A recorded run, fed back through the core; `run` is its folder, or the folder's name under `runs/`."""

    run: FolderPath


EngineOptions = SimulatedOptions | LocalOptions | ClusterOptions | ReplayOptions
