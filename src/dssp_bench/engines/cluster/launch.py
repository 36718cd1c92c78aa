"""The side of a cluster run where its server is: a local run whose workers are elsewhere, behind a gateway."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster.courier import Seat
from dssp_bench.engines.cluster.envoy import Envoy
from dssp_bench.engines.cluster.gateway import Gateway, listener
from dssp_bench.engines.cluster.shard import ShardDoor, ShardJob, ShardPart, run_shard
from dssp_bench.engines.local.channel import Channel, Kind, channel_pair
from dssp_bench.engines.local.launch import LocalJob, LocalRun
from dssp_bench.engines.local.memory import SharedTensors
from dssp_bench.engines.local.processes import WorkerJob
from dssp_bench.engines.local.shards import parts

Dead = Callable[[WorkerId, str], None]
"""Is called when the worker at a place is known to have died, with the reason."""


class Launcher(Protocol):
    """Whoever starts workers on other machines."""

    def start(self, places: Sequence[WorkerId]) -> None:
        """Have a worker started for each of these places; they come to the gateway by themselves."""

    def end(self, place: WorkerId) -> None:
        """The worker at this place is of no more use."""

    def shards(self, ports: Sequence[int]) -> list[tuple[str, int]]:
        """Addresses of server shards on other machines, at these ports; none if they are to be on the server's."""

    def close(self) -> None:
        """End all workers and shards; called once, whatever happened."""


class Nobody:
    """A launcher for workers that somebody else starts: torchrun, Slurm, ssh."""

    def start(self, places: Sequence[WorkerId]) -> None:
        """They will come."""

    def end(self, place: WorkerId) -> None:
        """They go by themselves."""

    def shards(self, ports: Sequence[int]) -> list[tuple[str, int]]:
        """Nobody starts them elsewhere."""
        return []

    def close(self) -> None:
        """They go by themselves."""


@dataclass
class Door:
    """Where workers come in: on which address to listen, what they have to know, and what they are told."""

    host: str
    port: int
    key: bytes = field(repr=False)
    welcome: dict[str, Any] = field(repr=False)
    reconnect_s: float
    shards: int = 1

    @property
    def shard_ports(self) -> list[int]:
        """Where workers come in to the other shards: the ports that follow, or any that are free if that may be any."""
        return [self.port and self.port + number for number in range(1, self.shards)]


class ClusterRun(LocalRun):
    """The server's processes and its gateway; ends them and what the launcher started, whatever happens.

    `launcher` makes the launcher, from the port on which the gateway listens and what is to be called when it knows
    that the worker at a place has died.
    """

    def __init__(self, job: LocalJob, door: Door, launcher: Callable[[int, Dead], Launcher]) -> None:
        super().__init__(job)
        self._door = door
        self._make_launcher = launcher
        self._launcher: Launcher = Nobody()
        self._gateway: Gateway | None = None
        self._port = 0
        self._shard_jobs: list[ShardJob] = []
        self._envoys: list[Envoy] = []
        self._elsewhere: list[tuple[str, int]] = []

    @property
    def port(self) -> int:
        """Where workers come in."""
        return self._port

    @property
    def missing(self) -> list[WorkerId]:
        """The places for which nobody has come."""
        assert self._gateway
        return self._gateway.missing

    def close(self, patience_s: float = 5.0) -> None:
        """Wait a little for the processes to end by themselves, then end them."""
        try:
            super().close(patience_s)
        finally:
            for envoy in self._envoys:
                envoy.close()
            if self._gateway:
                self._gateway.close()
            self._launcher.close()

    def _start(self) -> None:
        door = self._door
        entrance = listener(door.host, door.port)
        self._port = entrance.getsockname()[1]
        self._gateway = Gateway(entrance, door.key, door.welcome, door.reconnect_s, self._on_return, self._on_end)
        self._launcher = self._make_launcher(self.port, self._gateway.give_up)
        self._elsewhere = self._launcher.shards(door.shard_ports)
        super()._start()
        here: list[tuple[str, int]] = []
        for number, job in enumerate(self._shard_jobs, start=1):
            self._launch(f"shard {number}", run_shard, job)
            here.append(("", job.door.listener.getsockname()[1]))
            job.channel.close()
            job.door.listener.close()
        self._gateway.open(shards=self._elsewhere or here)
        self._launcher.start(self._gateway.missing)

    def _own_part(self, weights: Tensor) -> Tensor:
        return weights[: parts(weights.numel(), self._door.shards)[0].stop]

    def _shards(self, initial: SharedTensors, snapshots: SharedTensors | None) -> list[tuple[Channel, SharedTensors]]:
        """Both ends of what server and shards have between them."""
        if self._door.shards == 1:
            return []
        if snapshots is None:
            raise DsspBenchError("server shards need the weights in the host's memory: cluster.server.device=cpu")
        meetings = []
        weights = initial.views()[0]
        door, optimizer = self._door, self._job.optimizer
        for number, (part, port) in enumerate(
            zip(parts(weights.numel(), door.shards)[1:], door.shard_ports, strict=True)
        ):
            here, there = channel_pair()
            exchange = SharedTensors([((len(part),), torch.float32)])
            memory = ShardPart(part, initial, snapshots, exchange)
            meetings.append((here, exchange))
            if self._elsewhere:
                address = self._elsewhere[number]
                self._envoys.append(Envoy(address, door.key, there, memory.views(), door.reconnect_s, optimizer))
            else:
                entrance = ShardDoor(listener(door.host, port), door.key, door.reconnect_s, optimizer)
                self._shard_jobs.append(ShardJob(there, memory, entrance))
        return meetings

    def _meets_in_host_memory(self, device: str) -> bool:
        return True  # where couriers read and write

    def _launch_worker(self, job: WorkerJob) -> int:
        assert self._gateway
        assert job.memory
        self._gateway.expect(Seat(job.worker, job.place, job.iterations, job.channel, job.memory.views()))
        return 0

    def replace(self, former: WorkerId, iterations: int) -> None:
        """Let a worker come that takes the place of one that died, and let the server know."""
        super().replace(former, iterations)
        self._launcher.start([self._places[former]])

    def _on_return(self, place: WorkerId) -> None:
        assert self._channel
        self._channel.send(Kind.RETURN, place)

    def _on_end(self, worker: WorkerId, place: WorkerId) -> None:
        self._launcher.end(place)
