"""A worker that runs somewhere else: what it makes of the configuration that the server sends it."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dssp_bench.core.errors import ConfigurationError, WorkerFailed
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster.client import Assignment, join
from dssp_bench.engines.cluster.wire import KEY_BYTES
from dssp_bench.engines.local.processes import tune_process
from dssp_bench.experiment.parts import SharedData, WorkerMaker
from dssp_bench.experiment.spec import build_worker_spec

KEY_VARIABLE = "DSSP_BENCH_KEY"


def work_for(address: tuple[str, int], key: bytes, place: WorkerId | None, patience_s: float) -> None:
    """Join the run at this address and work for it until it is over. Raises DsspBenchError."""
    join(address, key, place, _assignments(), patience_s)


def _assignments() -> Callable[[Mapping[str, Any]], Assignment]:
    """What makes assignments of welcomes; the data is loaded once, however often the worker comes back."""
    made: dict[str, Any] = {}

    def assign(welcome: Mapping[str, Any]) -> Assignment:
        if not made:
            spec = build_worker_spec(welcome["config"])
            tune_process(spec.engine.threads)
            maker = WorkerMaker(
                spec.model, SharedData(spec.dataset.load()), spec.batch_size, spec.seed, len(spec.cluster.workers)
            )
            made.update(spec=spec, maker=maker)
        spec = made["spec"]
        device = _device(spec.cluster.workers[welcome["place"]].device)
        return Assignment(made["maker"], spec.cluster, device, spec.engine.threads)

    return assign


def _device(wanted: str) -> str:
    """The device that the layout names, or this machine's first GPU, or else its CPU. Raises WorkerFailed."""
    there = torch.cuda.device_count()
    if wanted == "auto":
        return "cuda:0" if there else "cpu"
    if wanted.startswith("cuda") and int(wanted.partition(":")[2]) >= there:
        raise WorkerFailed(f"the layout gives this worker {wanted}, and there are {there} CUDA devices here")
    return wanted


def shared_key() -> bytes:
    """The key that server and workers were given. Raises ConfigurationError."""
    text = os.environ.get(KEY_VARIABLE, "")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise ConfigurationError(
            KEY_VARIABLE,
            f"must be {2 * KEY_BYTES} hexadecimal digits, the same for the run and its workers",
            f"export {KEY_VARIABLE}=$(openssl rand -hex {KEY_BYTES})",
        )
    return key
