"""Other ways of exchanging gradients through a parameter server, and the bounds that memory sets, as contenders.

`memcpy` and `limit` need no server. The peers are used as their own examples of parameter servers use them; all of
them exchange one flat tensor, which is the best case for each, listen on 127.0.0.1 only and compute with one thread.
Those in Python make torch's fused update, as `limit` does.
"""

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Generator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from _round_trips import (
    GRADIENT,
    LEARNING_RATE,
    LOOK_EVERY_S,
    MOMENTUM,
    Case,
    Contender,
    ContenderFailed,
    Processes,
    Weights,
    until_time_is_up,
    update_of,
)
from torch import Tensor

_STARTS_WITHIN_S = 60.0


class Missing(Exception):
    """A peer cannot take part; the text says why."""


# --- the bounds ---


def limit(case: Case) -> Generator[Processes, None, list[Weights]]:
    """Copy in, update, copy out inside one process, and so many such processes side by side."""
    return _in_processes(partial(_alone, update=True), case, servers=0)


def memcpy(case: Case) -> Generator[Processes, None, list[Weights]]:
    """The two copies alone."""
    return _in_processes(partial(_alone, update=False), case, servers=0)


def _alone(case: Case, worker: int, together: Any, *, update: bool) -> Weights:
    weights, slot, pulled = (torch.zeros(case.parameters) for _ in range(3))
    gradient = torch.full_like(weights, GRADIENT)
    change = update_of(weights)

    def round_trip() -> None:
        slot.copy_(gradient)
        if update:
            change(slot)
        pulled.copy_(weights)

    together.wait()
    made = until_time_is_up(case, worker, round_trip)
    return _extremes(weights, made if update else 0)


# --- torch.distributed: send and receive ---


def gloo(case: Case) -> Generator[Processes, None, list[Weights]]:
    """A server that receives a gradient from anybody, updates and sends the weights back."""
    return _in_processes(_gloo, case, servers=1)


def _gloo(case: Case, rank: int, together: Any) -> Weights | None:
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=_meeting(case), rank=rank, world_size=case.workers + 1)
    weights = None
    if rank:
        _gloo_worker(case, rank - 1, dist, together)
    else:
        weights = _gloo_server(case, dist, together)
    dist.destroy_process_group()
    return weights


def _gloo_server(case: Case, dist: Any, together: Any) -> Weights:
    weights, gradient = torch.zeros(case.parameters), torch.empty(case.parameters)
    update, updates, present = update_of(weights), 0, case.workers
    together.wait()
    while present:
        worker = dist.recv(gradient)
        if gradient[0].item() == 0.0:  # a worker that has done its share says so
            present -= 1
            continue
        update(gradient)
        updates += 1
        dist.send(weights, worker)
    return _extremes(weights, updates)


def _gloo_worker(case: Case, worker: int, dist: Any, together: Any) -> None:
    gradient, pulled = torch.full((case.parameters,), GRADIENT), torch.zeros(case.parameters)

    def round_trip() -> None:
        dist.send(gradient, 0)
        dist.recv(pulled, 0)

    together.wait()
    until_time_is_up(case, worker, round_trip)
    dist.send(torch.zeros_like(gradient), 0)


# --- torch.distributed: remote procedure calls ---


class _RemoteServer:
    """What a worker calls: one push, the weights back; updates are made one at a time."""

    here: "_RemoteServer"

    def __init__(self, parameters: int) -> None:
        self.weights = torch.zeros(parameters)
        self.updates = 0
        self._update = update_of(self.weights)
        self._lock = threading.Lock()

    @staticmethod
    def push_and_pull(gradient: Tensor) -> Tensor:
        """In the server's process."""
        server = _RemoteServer.here
        with server._lock:
            server._update(gradient)
            server.updates += 1
        return server.weights


def rpc(case: Case) -> Generator[Processes, None, list[Weights]]:
    """A server whose function takes a gradient and returns the weights, called by the workers."""
    return _in_processes(_rpc, case, servers=1)


def _rpc(case: Case, rank: int, together: Any) -> Weights | None:
    remote: Any = import_module("torch.distributed.rpc")
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed")  # about its own calls
    os.environ["TP_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    options = remote.TensorPipeRpcBackendOptions(init_method=_meeting(case), rpc_timeout=120)
    _RemoteServer.here = _RemoteServer(case.parameters if rank == 0 else 0)
    name = f"worker{rank}" if rank else "server"
    remote.init_rpc(name, rank=rank, world_size=case.workers + 1, rpc_backend_options=options)
    together.wait()
    if rank:
        gradient, pulled = torch.full((case.parameters,), GRADIENT), torch.zeros(case.parameters)
        call = partial(remote.rpc_sync, "server", _RemoteServer.push_and_pull, args=(gradient,))
        until_time_is_up(case, rank - 1, lambda: pulled.copy_(call()))
    remote.shutdown()  # waits for all
    return None if rank else _extremes(_RemoteServer.here.weights, _RemoteServer.here.updates)


# --- processes of bounds and of torch's peers ---


def _in_processes(
    main: Callable[[Case, int, Any], Weights | None], case: Case, *, servers: int
) -> Generator[Processes, None, list[Weights]]:
    """Let the processes of a contender do `main`; those that return weights say how it ended."""
    context = multiprocessing.get_context("forkserver")
    count = servers + case.workers
    together = context.Barrier(count)
    results, theirs = context.Pipe(duplex=False)
    processes = [context.Process(target=_process, args=(main, case, i, together, theirs)) for i in range(count)]
    for process in processes:
        process.start()
    theirs.close()
    numbers = [process.pid or 0 for process in processes]
    found: list[Weights] = []
    try:
        while len(found) < (servers or count):
            if results.poll(LOOK_EVERY_S):
                found.append(_told(results))
            yield Processes(numbers[:servers], numbers[servers:])
        for process in processes:
            process.join(_STARTS_WITHIN_S)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return found


def _process(main: Callable[[Case, int, Any], Weights | None], case: Case, number: int, together: Any, to: Any) -> None:
    torch.set_num_threads(1)
    try:
        weights = main(case, number, together)
        if weights:
            to.send(weights)
    except Exception as error:
        together.abort()  # or the others would wait for this one
        to.send(f"{type(error).__name__}: {error}")


def _told(results: Connection) -> Weights:
    try:
        told = results.recv()
    except EOFError:
        raise ContenderFailed("its processes died") from None
    if isinstance(told, str):
        raise ContenderFailed(told)
    return Weights(*told)


def _meeting(case: Case) -> str:
    """Where processes find each other: a file, so that no port has to be chosen."""
    return f"file://{case.file}.meeting"


def _extremes(weights: Tensor, updates: int) -> Weights:
    return Weights(weights.min().item(), weights.max().item(), updates)


# --- Ray ---


def ray(case: Case) -> Generator[Processes, None, list[Weights]]:
    """An actor that is the server, called by actors that are workers; arrays go through Ray's shared object store."""
    cluster: Any = import_module("ray")
    # Else every object of the first seconds lies on pages that the kernel has yet to make.
    os.environ["RAY_preallocate_plasma_memory"] = "1"  # noqa: SIM112 (its name)
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}}
    cluster.init(
        num_cpus=case.workers + 1, include_dashboard=False, _node_ip_address="127.0.0.1", runtime_env=here,
        log_to_driver=False, logging_level="error", object_store_memory=_store_bytes(case),
    )  # fmt: skip
    try:
        server = cluster.remote(num_cpus=1)(RayServer).remote(case.parameters)
        workers = [cluster.remote(num_cpus=1)(RayWorker).remote(case, worker) for worker in range(case.workers)]
        numbers = cluster.get([actor.number.remote() for actor in (server, *workers)])
        unfinished = [worker.work.remote(server) for worker in workers]
        while unfinished:
            ended, unfinished = cluster.wait(unfinished, timeout=LOOK_EVERY_S)
            cluster.get(ended)
            yield Processes(numbers[:1], numbers[1:])
        return [Weights(*cluster.get(server.extremes.remote()))]
    except cluster.exceptions.RayError as error:
        raise ContenderFailed(str(error)) from error
    finally:
        cluster.shutdown()


def _store_bytes(case: Case) -> int:
    """Room for a few vectors on the way from and to everybody."""
    return max(500_000_000, 8 * (case.workers + 1) * 4 * case.parameters)


class RayServer:
    """The actor with the weights."""

    def __init__(self, parameters: int) -> None:
        torch.set_num_threads(1)
        self._weights = torch.zeros(parameters)
        self._update = update_of(self._weights)
        self._updates = 0

    def push_and_pull(self, gradient: Any) -> Any:
        """Update by an array, and return the weights as one."""
        self._update(_tensor(gradient))
        self._updates += 1
        return self._weights.numpy()

    def extremes(self) -> Weights:
        """How the weights are at the end."""
        return _extremes(self._weights, self._updates)

    def number(self) -> int:
        """Of the process."""
        return os.getpid()


class RayWorker:
    """An actor that pushes to the server's."""

    def __init__(self, case: Case, worker: int) -> None:
        torch.set_num_threads(1)
        self._case = case
        self._worker = worker
        self._gradient = torch.full((case.parameters,), GRADIENT).numpy()
        self._pulled = torch.zeros(case.parameters)

    def work(self, server: Any) -> int:
        """Until the time is over."""
        cluster: Any = import_module("ray")

        def round_trip() -> None:
            self._pulled.copy_(_tensor(cluster.get(server.push_and_pull.remote(self._gradient))))

        return until_time_is_up(self._case, self._worker, round_trip)

    def number(self) -> int:
        """Of the process."""
        return os.getpid()


def _tensor(array: Any) -> Tensor:
    """The tensor on an array's memory, which is only read."""
    return torch.frombuffer(array.data, dtype=torch.float32)


# --- MXNet ---


def mxnet(python: str) -> Contender:
    """MXNet's asynchronous store, which speaks ps-lite, in an interpreter of its own."""

    def contender(case: Case) -> Generator[Processes, None, list[Weights]]:
        options = {
            "parameters": case.parameters, "seconds": case.seconds, "file": str(case.file), "shape": case.shape,
            "learning_rate": LEARNING_RATE, "momentum": MOMENTUM, "gradient": GRADIENT,
        }  # fmt: skip
        command = [python, str(Path(__file__).with_name("peers_mxnet.py")), json.dumps(options)]
        environment = {
            **os.environ, "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": str(_free_port()),
            "DMLC_NODE_HOST": "127.0.0.1", "DMLC_INTERFACE": "lo", "DMLC_NUM_SERVER": "1",
            "DMLC_NUM_WORKER": str(case.workers), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        roles = ["scheduler", "server", *["worker"] * case.workers]
        processes = [
            subprocess.Popen(
                command, env={**environment, "DMLC_ROLE": role}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            for role in roles
        ]
        server, workers = processes[1], processes[2:]
        try:
            while any(worker.poll() is None for worker in workers):
                yield Processes([server.pid], [worker.pid for worker in workers])
                time.sleep(LOOK_EVERY_S)
            told = [worker.communicate()[0] for worker in workers]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if not all(told):
            raise ContenderFailed("its workers ended early")
        made, smallest, largest = zip(*map(json.loads, told), strict=True)
        return [Weights(min(smallest), max(largest), sum(made))]

    return contender


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# --- who there is ---


def _of_torch(contender: Contender, package: str) -> Callable[[argparse.Namespace], Contender]:
    def make(arguments: argparse.Namespace) -> Contender:
        import torch.distributed

        if not torch.distributed.is_available() or find_spec(package) is None:
            raise Missing(f"this torch is built without {package}")
        return contender

    return make


def _of_ray(arguments: argparse.Namespace) -> Contender:
    if find_spec("ray") is None:
        raise Missing("ray is not installed")
    return ray


def _of_mxnet(arguments: argparse.Namespace) -> Contender:
    if not arguments.mxnet_python:
        raise Missing("--mxnet-python names no interpreter that has it")
    if subprocess.run([arguments.mxnet_python, "-c", "import mxnet"], capture_output=True).returncode:
        raise Missing(f"{arguments.mxnet_python} cannot import mxnet")
    return mxnet(arguments.mxnet_python)


PEERS: dict[str, Callable[[argparse.Namespace], Contender]] = {
    "gloo": _of_torch(gloo, "torch.distributed"),
    "rpc": _of_torch(rpc, "torch.distributed.rpc"),
    "ray": _of_ray,
    "mxnet": _of_mxnet,
}
"""Makes the contender that is a peer, from the options of the command line, or raises Missing."""
