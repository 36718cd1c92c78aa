"""What a user may choose of each engine."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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

    run: Annotated[str, Field(min_length=1)]


EngineOptions = SimulatedOptions | LocalOptions | ReplayOptions
