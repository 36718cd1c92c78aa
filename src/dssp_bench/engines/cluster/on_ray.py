"""Ray starts workers on the machines of its cluster, says when one has died, and ends them.

Nothing else goes through it.
"""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import ceil
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster.client import Refused
from dssp_bench.engines.cluster.envoy import serve_shard
from dssp_bench.engines.cluster.gateway import listener
from dssp_bench.engines.cluster.launch import Dead, Launcher
from dssp_bench.engines.cluster.which_ray import find
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.engines.local.processes import tune_process

Work = Callable[[tuple[str, int], bytes, WorkerId | None, float], None]
"""What a worker does: address, key, place, and how long it tries to reach the server."""
_PATIENCE_S = 60.0
_LOOKS_EVERY_S = 0.2
_TOKEN_BYTES = 32
_STORE_BYTES = 100_000_000  # near the least that Ray takes: nothing of ours goes through it
_log = logging.getLogger(__name__)


class RayCluster:
    """The Ray cluster of one run: the one at an address, this machine's, or a new one that ends with the run.

    Raises DsspBenchError if there is none at that address.
    """

    def __init__(self, address: str) -> None:
        self._began = not ray.is_initialized()
        if self._began:
            _connect(address)

    @property
    def own_address(self) -> str:
        """The address of this machine by which the cluster's others reach it."""
        return str(ray.util.get_node_ip_address())

    def launcher(
        self,
        work: Work,
        layout: ClusterLayout,
        host: str,
        key: bytes,
        startup_timeout_s: float,
        port: int,
        dead: Dead,
    ) -> Launcher:
        """What starts a run's workers; they come in at host and port, and `dead` is told of those that died."""
        return RayLauncher(work, layout, (host, port), key, dead, self.close, startup_timeout_s)

    def close(self) -> None:
        """Leave the cluster, and end it if it was ours."""
        if self._began:
            ray.shutdown()


def _connect(address: str) -> None:
    found = find(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)  # Ray sets its own, which ends the process without a word
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if found.address == "local":
        _have_a_token()
        options |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    elif found.is_ours:
        _take_own_token()
    try:
        ray.init(address=found.address, **options)  # a new one asks for the token, or whoever comes would run code
    except Exception as error:  # Ray raises many kinds
        token = "" if _has_token() else "; if it asks for a token, export RAY_AUTH_MODE=token"
        raise DsspBenchError(f"no Ray cluster at {found.address}: {_first_line(error)}{token}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    if not _has_token() and sum(node["Alive"] for node in ray.nodes()) > 1:
        _log.warning(
            "the Ray cluster at %s has no token: whoever reaches its ports can run code (docs/cluster.md)",
            found.address,
        )


def _has_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def _have_a_token() -> None:
    """Make the user's token if there is none: Ray would let runs that begin at the same time replace each other's."""
    path = Path.home() / ".ray" / "auth_token"
    if path.exists() or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    with suppress(OSError):  # Ray says what is wrong there
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, encoding="ascii") as made:  # which nobody else can read
            made.write(secrets.token_hex(_TOKEN_BYTES))
            made.flush()
            os.link(made.name, path)


def _take_own_token() -> None:
    """Show the user's token to the cluster that the user started, as `ray start` took it if there was one."""
    try:
        from ray._private.authentication import authentication_token_setup as tokens

        tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    except (ImportError, AttributeError, TypeError):
        pass  # another Ray, which wants RAY_AUTH_MODE=token


def _first_line(error: BaseException) -> str:
    parts = [part for part in error.args if isinstance(part, str)]  # some of Ray's messages come in pieces
    return next(iter("".join(parts).strip().splitlines()), str(error).strip() or type(error).__name__)


@ray.remote(max_restarts=0, max_task_retries=0)
class _Host:
    """A process of Ray's in which one worker lives."""

    def work(self, work: Work, address: tuple[str, int], key: bytes, place: WorkerId) -> None:
        """Be a worker until the run is over."""
        work(address, key, place, _PATIENCE_S)


@ray.remote(max_restarts=0, max_task_retries=0)
class _ShardHost:
    """A process of Ray's in which a server shard lives."""

    def address(self, port: int) -> tuple[str, int]:
        """Where the server and workers come in."""
        self._listener = listener(ray.util.get_node_ip_address(), port)
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def serve(self, key: bytes) -> None:
        """Be a shard until the run is over."""
        tune_process(threads=1)
        serve_shard(self._listener, key, _PATIENCE_S)


class RayLauncher:
    """Starts a worker for each place of a layout on a node that has its resources, spread over the nodes."""

    def __init__(
        self,
        work: Work,
        layout: ClusterLayout,
        address: tuple[str, int],
        key: bytes,
        dead: Dead,
        leave: Callable[[], None],
        startup_timeout_s: float,
    ) -> None:
        self._startup_timeout_s = startup_timeout_s
        self._work = work
        self._layout = layout
        self._address = address
        self._key = key
        self._dead = dead
        self._leave = leave
        self._hosts: dict[WorkerId, Any] = {}
        self._shards: list[Any] = []
        self._ends: dict[Any, Callable[[Exception], None]] = {}
        """What is to be done when a call ends with an error, by call."""
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="ray", daemon=True)
        self._watcher.start()

    def start(self, places: Sequence[WorkerId]) -> None:
        """Have a worker started for each of these places; they come to the gateway by themselves."""
        for place in places:
            wanted = demands(self._layout, place, ray.cluster_resources().get("GPU", 0.0))
            _warn_if_nobody_has(wanted, self._layout.workers[place].name)
            host = _reserve(_Host, wanted, f"worker {self._layout.workers[place].name}")
            end = host.work.remote(self._work, self._address, self._key, place)
            with self._lock:
                self._hosts[place] = host
                self._ends[end] = partial(self._lost, place, host)

    def end(self, place: WorkerId) -> None:
        """The worker at this place is of no more use."""
        with self._lock:
            host = self._hosts.pop(place, None)
        if host is not None and not self._closed.is_set():
            ray.kill(host, no_restart=True)

    def shards(self, ports: Sequence[int]) -> list[tuple[str, int]]:
        """Addresses of server shards at these ports, each on a node that has the resources of the layout's server."""
        resources = dict(self._layout.server.resources)
        wanted = {"num_cpus": resources.pop("CPU", 0.0), "num_gpus": resources.pop("GPU", 0.0), "resources": resources}
        if ports:
            _warn_if_nobody_has(wanted, "a server shard")
        self._shards = [_reserve(_ShardHost, wanted, "a server shard") for _ in ports]
        try:
            asked = [shard.address.remote(port) for shard, port in zip(self._shards, ports, strict=True)]
            addresses = ray.get(asked, timeout=self._startup_timeout_s)
        except RayError as error:
            raise DsspBenchError(f"no server shards: {str(error).strip().splitlines()[-1]}") from error
        with self._lock:
            for number, shard in enumerate(self._shards, start=1):
                self._ends[shard.serve.remote(self._key)] = partial(self._lost_shard, number)
        return [(str(host), int(port)) for host, port in addresses]

    def close(self) -> None:
        """End all workers, and leave the cluster."""
        self._closed.set()
        self._watcher.join()
        for host in [*self._hosts.values(), *self._shards]:
            with suppress(RayError):
                ray.kill(host, no_restart=True)
        self._leave()

    def _watch(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                ends = list(self._ends)
            if not ends:
                self._closed.wait(_LOOKS_EVERY_S)
                continue
            ended, _ = ray.wait(ends, num_returns=1, timeout=_LOOKS_EVERY_S)
            for end in ended:
                self._ended(end)

    def _ended(self, end: Any) -> None:
        with self._lock:
            failed = self._ends.pop(end)
        try:
            ray.get(end)
        except Exception as error:  # Ray's own, and whatever was raised there
            failed(error)

    def _lost(self, place: WorkerId, host: Any, error: Exception) -> None:
        """The worker of this host is dead; if another has its place by now, that is no news."""
        with self._lock:
            if self._hosts.get(place) is not host:
                return
        if isinstance(error, Refused):  # by a server that has somebody in this place
            _log.debug("worker %s: %s", self._layout.workers[place].name, error)
            return
        if isinstance(error, RayTaskError):
            _log.warning("worker %s: %s", self._layout.workers[place].name, _reason(error))
        self._dead(place, _reason(error))

    def _lost_shard(self, number: int, error: Exception) -> None:
        if not self._closed.is_set():
            _log.warning("server shard %d: %s", number, _reason(error))


def _reason(error: Exception) -> str:
    """What Ray says of a death or of what was raised, without the way there."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, DsspBenchError):
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def demands(layout: ClusterLayout, place: WorkerId, gpus: float) -> dict[str, Any]:
    """What Ray must reserve for the worker at this place, as options of its process.

    That is what the layout says. Where it says nothing of GPUs, a worker that may use one gets one, or as large a part
    as there is if the cluster has fewer than such workers. Cores are not reserved unless the layout says so.
    """
    worker = layout.workers[place]
    resources = dict(worker.resources)
    cpu, gpu = resources.pop("CPU", 0.0), resources.pop("GPU", None)
    if gpu is None:
        takers = sum(other.device != "cpu" and "GPU" not in other.resources for other in layout.workers)
        gpu = 1 / ceil(takers / gpus) if worker.device != "cpu" and gpus >= 1 else 0.0
    return {"num_cpus": cpu, "num_gpus": gpu, "resources": resources or None}


def _reserve(kind: Any, wanted: dict[str, Any], who: str) -> Any:
    """A process of this kind with what it wants, somewhere. Raises DsspBenchError if Ray does not take that."""
    try:
        return kind.options(scheduling_strategy="SPREAD", **wanted).remote()
    except (ValueError, TypeError, RayError) as error:
        raise DsspBenchError(f"Ray refuses {_listed(wanted)} for {who}: {_first_line(error)}") from error


def _needed(wanted: dict[str, Any]) -> dict[str, float]:
    return {"CPU": wanted["num_cpus"], "GPU": wanted["num_gpus"], **(wanted["resources"] or {})}


def _listed(wanted: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in _needed(wanted).items() if amount) + "}"


def _warn_if_nobody_has(wanted: dict[str, Any], who: str) -> None:
    needed = _needed(wanted)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0.0) >= amount for name, amount in needed.items()) for node in nodes):
        _log.warning("no node of the cluster has %s for %s; waiting for one", _listed(wanted), who)
