"""Other people's ways of exchanging gradients through a parameter server, as contenders.

They are used as their own examples of parameter servers use them; all of them exchange one flat tensor, which is the
best case for each, listen on 127.0.0.1 only and compute with one thread. Those in Python make torch's fused update, as
`limit` does.
"""

import argparse
import atexit
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dssp_bench.experiment.contenders import extremes_after, in_processes, update_of
from dssp_bench.experiment.round_trips import (
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
)

_STARTS_AND_ENDS_WITHIN_S = 60.0


class Missing(Exception):
    """A peer cannot take part; the text says why."""


# --- torch.distributed: send and receive ---


def gloo(case: Case) -> Generator[Processes, None, list[Weights]]:
    """A server that receives a gradient from anybody, updates and sends the weights back."""
    return in_processes(_gloo, case, servers=1)


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
    return extremes_after(updates, weights)


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
    return in_processes(_rpc, case, servers=1)


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
    return None if rank else extremes_after(_RemoteServer.here.updates, _RemoteServer.here.weights)


def _meeting(case: Case) -> str:
    """Where processes find each other: a file, so that no port has to be chosen."""
    return f"file://{case.file}.meeting"


# --- ZeroMQ ---


def zeromq(case: Case, *, curve: bool) -> Generator[Processes, None, list[Weights]]:
    """A router that updates and sends the weights back, over TCP; CURVE encrypts and signs all that passes."""
    return in_processes(partial(_zeromq, curve=curve), case, servers=1)


def _zeromq(case: Case, rank: int, together: Any, *, curve: bool) -> Weights | None:
    zmq: Any = import_module("zmq")
    public, secret = zmq.curve_keypair()
    meeting = Path(f"{case.file}.meeting")
    context = zmq.Context()
    end = context.socket(zmq.DEALER if rank else zmq.ROUTER)
    if curve:
        end.curve_publickey, end.curve_secretkey = public, secret
    if not rank:
        end.curve_server = curve
        port = end.bind_to_random_port("tcp://127.0.0.1")
        meeting.write_text(f"{port} {public.decode()}")
    together.wait()
    try:
        if not rank:
            return _zeromq_server(case, end)
        told, key = meeting.read_text().split()
        if curve:
            end.curve_serverkey = key.encode()
        end.connect(f"tcp://127.0.0.1:{told}")
        _zeromq_worker(case, rank - 1, end)
        return None
    finally:
        end.close(linger=1000)
        context.term()


def _zeromq_server(case: Case, end: Any) -> Weights:
    weights, present, updates = torch.zeros(case.parameters), case.workers, 0
    update, answers = update_of(weights), dict[bytes, Tensor]()
    while present:
        worker, frame = end.recv_multipart(copy=False)
        if not frame.buffer.nbytes:  # a worker that has done its share says so
            present -= 1
            continue
        update(_tensor(frame.buffer))
        updates += 1
        answer = answers.setdefault(worker.bytes, torch.empty_like(weights))
        answer.copy_(weights)  # which the library sends while others' gradients come
        end.send_multipart([worker.bytes, answer.numpy().data], copy=False)
    return extremes_after(updates, weights)


def _zeromq_worker(case: Case, worker: int, end: Any) -> None:
    gradient, pulled = torch.full((case.parameters,), GRADIENT), torch.zeros(case.parameters)

    def round_trip() -> None:
        end.send(gradient.numpy().data, copy=False)
        pulled.copy_(_tensor(end.recv(copy=False).buffer))

    until_time_is_up(case, worker, round_trip)
    end.send(b"")


# --- Ray ---


def ray(case: Case, worker_nodes: int = 0) -> Generator[Processes, None, list[Weights]]:
    """An actor that is the server, called by actors that are workers; arrays go through Ray's shared object store.

    With nodes of their own for workers, made on this machine too, arrays go from one node's store to another's.
    """
    cluster: Any = import_module("ray")
    # Else every object of the first seconds lies on pages that the kernel has yet to make.
    os.environ["RAY_preallocate_plasma_memory"] = "1"  # noqa: SIM112 (its name)
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}}
    head: dict[str, Any] = {
        "include_dashboard": False, "object_store_memory": _store_bytes(case, case.workers),
        "resources": {"server": 1.0},
    }  # fmt: skip
    driver: dict[str, Any] = {"runtime_env": here, "log_to_driver": False, "logging_level": "error"}
    nodes = None
    if worker_nodes:
        nodes = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **head})
        for _ in range(worker_nodes):
            workers_there = -(-case.workers // worker_nodes)
            nodes.add_node(num_cpus=workers_there, object_store_memory=_store_bytes(case, workers_there))
        cluster.init(address=nodes.address, **driver)
    else:
        cluster.init(num_cpus=case.workers + 1, _node_ip_address="127.0.0.1", **head, **driver)
    try:
        server = cluster.remote(num_cpus=1, resources={"server": 1.0})(RayServer).remote(case.parameters)
        cluster.get(server.number.remote())  # so that no worker takes its place
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
        if nodes:
            nodes.shutdown()


def _store_bytes(case: Case, workers: int) -> int:
    """Room for a few vectors on the way from and to everybody."""
    return max(500_000_000, 8 * (workers + 1) * 4 * case.parameters)


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
        return extremes_after(self._updates, self._weights)

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
    return torch.frombuffer(getattr(array, "data", array), dtype=torch.float32)


# --- ps-lite, and MXNet, which speaks it ---


def mxnet(python: str) -> Contender:
    """MXNet's asynchronous store, in an interpreter of its own."""

    def contender(case: Case) -> Generator[Processes, None, list[Weights]]:
        options = {
            "parameters": case.parameters, "seconds": case.seconds, "file": str(case.file), "shape": case.shape,
            "learning_rate": LEARNING_RATE, "momentum": MOMENTUM, "gradient": GRADIENT,
        }  # fmt: skip
        return _by_roles([python, str(Path(__file__).with_name("peers_mxnet.py")), json.dumps(options)], case)

    return contender


def ps_lite(program: Path) -> Contender:
    """ps-lite with a server of our own, which is that program."""

    def contender(case: Case) -> Generator[Processes, None, list[Weights]]:
        _, most = case.shape
        options = [case.parameters, case.seconds, case.file, most, LEARNING_RATE, MOMENTUM, GRADIENT]
        return _by_roles([str(program), *map(str, options)], case)

    return contender


def compiled(sources: Path, folder: Path) -> Path:
    """The program that is compiled with ps-lite's sources into a folder. Raises Missing."""
    program, here = folder / "peers_ps_lite", sources.absolute() / "src"
    if not (here / "van.cc").is_file():
        raise Missing(f"{sources} holds no sources of ps-lite")
    parts = [str(here / f"{name}.cc") for name in ("customer", "postoffice", "van")]
    commands = [
        ["protoc", f"--cpp_out={folder}", f"--proto_path={here}", "meta.proto"],
        ["g++", "-std=c++17", "-O3", "-march=native", "-w", f"-I{folder}", f"-I{here}", f"-I{here.parent / 'include'}",
         str(Path(__file__).with_name("peers_ps_lite.cc")), *parts, str(folder / "meta.pb.cc"),
         "-pthread", "-lzmq", "-lprotobuf-lite", "-o", str(program)],
    ]  # fmt: skip
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except OSError:
            raise Missing(f"{command[0]} is not installed, which compiles it") from None
        except subprocess.CalledProcessError as error:
            first = next((line for line in error.stderr.splitlines() if line.strip()), "it gave no reason")
            raise Missing(f"{command[0]} could not compile it: {first}") from None
    return program


def _by_roles(command: Sequence[str], case: Case) -> Generator[Processes, None, list[Weights]]:
    """Start a scheduler, a server and the workers; each worker prints how many it made, and the extremes at the end."""
    environment = {
        **os.environ, "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": str(_free_port()),
        "DMLC_NODE_HOST": "127.0.0.1", "DMLC_INTERFACE": "lo", "DMLC_NUM_SERVER": "1",
        "DMLC_NUM_WORKER": str(case.workers), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            command, env={**environment, "DMLC_ROLE": role}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for role in ["scheduler", "server", *["worker"] * case.workers]
    ]
    server, workers = processes[1], processes[2:]
    try:
        last = time.monotonic() + case.seconds + _STARTS_AND_ENDS_WITHIN_S
        while any(worker.poll() is None for worker in workers):
            if server.poll():
                raise ContenderFailed(f"its server ended with exit code {server.returncode}")
            if time.monotonic() > last:
                raise ContenderFailed("it did not end")
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


def _of_zeromq(curve: bool) -> Callable[[argparse.Namespace], Contender]:
    def make(arguments: argparse.Namespace) -> Contender:
        if find_spec("zmq") is None:
            raise Missing("pyzmq is not installed")
        return partial(zeromq, curve=curve)

    return make


def _of_ray(worker_nodes: int) -> Callable[[argparse.Namespace], Contender]:
    def make(arguments: argparse.Namespace) -> Contender:
        if find_spec("ray") is None:
            raise Missing("ray is not installed")
        return partial(ray, worker_nodes=worker_nodes)

    return make


def _of_mxnet(arguments: argparse.Namespace) -> Contender:
    if not arguments.mxnet_python:
        raise Missing("--mxnet-python names no interpreter that has it")
    asked = [shutil.which(arguments.mxnet_python) or "false", "-c", "import mxnet"]
    if subprocess.run(asked, capture_output=True).returncode:
        raise Missing(f"{arguments.mxnet_python} cannot import mxnet")
    return mxnet(arguments.mxnet_python)


def _of_ps_lite(arguments: argparse.Namespace) -> Contender:
    if not arguments.ps_lite:
        raise Missing("--ps-lite names no folder with its sources")
    folder = tempfile.TemporaryDirectory(prefix="ps-lite-")
    atexit.register(folder.cleanup)
    return ps_lite(compiled(Path(arguments.ps_lite), Path(folder.name)))


PEERS: dict[str, Callable[[argparse.Namespace], Contender]] = {
    "gloo": _of_torch(gloo, "torch.distributed"),
    "rpc": _of_torch(rpc, "torch.distributed.rpc"),
    "zeromq": _of_zeromq(curve=False),
    "zeromq-curve": _of_zeromq(curve=True),
    "ray": _of_ray(worker_nodes=0),
    "ray-nodes": _of_ray(worker_nodes=2),
    "mxnet": _of_mxnet,
    "ps-lite": _of_ps_lite,
}
"""Makes the contender that is a peer, from the options of the command line, or raises Missing."""
