"""A run whose workers are on other machines, seen from the driver."""

import importlib.util
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.engines.checkpoints import CheckpointPlan, Past
from dssp_bench.engines.cluster.gateway import listener
from dssp_bench.engines.cluster.launch import ClusterRun, Dead, Door, Launcher, Nobody
from dssp_bench.engines.cluster.wire import KEY_BYTES
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.options import ClusterOptions
from dssp_bench.experiment.elsewhere import shared_key, work_for
from dssp_bench.experiment.local import Conversation, local_job
from dssp_bench.experiment.plan import Plan
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.experiment.watchers import Watchers
from dssp_bench.records.writer import RecordWriter
from dssp_bench.tasks.task import Data

_SENT = ("cluster", "dataset", "engine", "model", "batch_size", "seed")
"""What a worker has to know of the configuration."""
_ALONE = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::")
_log = logging.getLogger(__name__)


def run_on_cluster(
    spec: RunSpec,
    plan: Plan,
    data: Data,
    folder: Path,
    watchers: Watchers,
    info: RunInfo,
    device: str,
    checkpoints: CheckpointPlan | None = None,
    past: Past | None = None,
) -> dict[str, Any]:
    """Run to the end; returns what only the server knows. Ctrl-C ends it at a safe point. Raises DsspBenchError."""
    options = spec.engine
    assert isinstance(options, ClusterOptions)
    server = spec.cluster.server.model_copy(update={"device": device_here(spec.cluster)})
    layout = spec.cluster.model_copy(update={"server": server})
    job = replace(local_job(spec, plan, data, folder, device), layout=layout, checkpoints=checkpoints, past=past)
    if past:
        job.recorder = partial(RecordWriter, folder, go_on_at=past.positions)
    welcome = {"config": {key: spec.config[key] for key in _SENT}}
    launcher, host, key = _launcher(spec)
    door = Door(host, options.port, key, welcome, options.reconnect_s, options.shards)
    with ClusterRun(job, door, launcher) as run:
        watchers.start(replace(info, address=joined(host, run.port) if options.launcher == "join" else ""))
        run.go()
        return Conversation(run, watchers, folder).to_the_end()


def device_here(layout: ClusterLayout) -> str:
    """Where the weights live: as the layout says, else on a GPU of this machine if workers may use one, too."""
    if layout.server.device != "auto":
        return layout.server.device
    with_gpu = any(worker.device != "cpu" for worker in layout.workers) and torch.cuda.device_count()
    return "cuda:0" if with_gpu else "cpu"


def check_cluster(spec: RunSpec) -> None:
    """Refuse what cannot work before anything is started. Raises ConfigurationError."""
    options = spec.engine
    assert isinstance(options, ClusterOptions)
    if options.shards > 1 and device_here(spec.cluster) != "cpu" and spec.evaluation.device != "cpu":
        problem = f"{options.shards} shards need the server's weights in the host's memory"
        raise ConfigurationError("engine.shards", problem, "cluster.server.device=cpu")
    if options.launcher == "ray" and options.host in _EVERYWHERE:
        problem = f"{options.host} is no address that Ray's workers could be given"
        raise ConfigurationError("engine.host", problem, "auto takes the one that Ray uses")
    if options.host != "auto" or options.port:
        host = own_address() if options.host == "auto" else options.host
        shards_here = options.shards if options.port and options.launcher == "join" else 1
        for number in range(shards_here):
            listener(host, options.port + number).close()
    if options.launcher == "join":
        shared_key()
    elif importlib.util.find_spec("ray") is None:
        raise ConfigurationError(
            "engine.launcher", "ray is not installed", "pip install 'dssp-bench[cluster]', or take engine.launcher=join"
        )


def _launcher(spec: RunSpec) -> tuple[Callable[[int, Dead], Launcher], str, bytes]:
    """What starts the workers, the address at which they come in, and the key that they will have."""
    options = spec.engine
    assert isinstance(options, ClusterOptions)
    if options.launcher == "join":
        host = own_address() if options.host == "auto" else options.host
        if options.host == "auto" and host == _ALONE:
            _log.warning("no network was found: workers can come from this machine only; engine.host names an address")
        return (lambda _port, _dead: Nobody()), host, shared_key()
    from dssp_bench.engines.cluster.on_ray import RayCluster

    cluster = RayCluster(options.address)
    host = cluster.own_address if options.host == "auto" else options.host
    key = secrets.token_bytes(KEY_BYTES)
    return partial(cluster.launcher, work_for, spec.cluster, host, key, options.startup_timeout_s), host, key


def joined(host: str, port: int) -> str:
    """An address as one types it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_address() -> str:
    """The address of this machine by which others reach it, as far as the system knows."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but finds the way out (an address that is nobody's)
            return str(probe.getsockname()[0])
        except OSError:
            return _ALONE
