"""The side of a cluster run where its server is: a local run whose workers are elsewhere, behind a gateway."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dssp_bench.core.messages import WorkerId
from dssp_bench.engines.cluster.gateway import Gateway
from dssp_bench.engines.local.channel import Kind
from dssp_bench.engines.local.launch import LocalJob, LocalRun
from dssp_bench.engines.local.processes import WorkerJob


class Launcher(Protocol):
    """Whoever starts workers on other machines."""

    def start(self, places: Sequence[WorkerId]) -> None:
        """Have a worker started for each of these places; they come to the gateway by themselves."""

    def end(self, place: WorkerId) -> None:
        """The worker at this place is of no more use."""

    def close(self) -> None:
        """End all workers; called once, whatever happened."""


class Nobody:
    """A launcher for workers that somebody else starts: torchrun, Slurm, ssh."""

    def start(self, places: Sequence[WorkerId]) -> None:
        """They will come."""

    def end(self, place: WorkerId) -> None:
        """They go by themselves."""

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


class ClusterRun(LocalRun):
    """The server's processes and its gateway; ends them and what the launcher started, whatever happens.

    `launcher` makes the launcher, from the port on which the gateway listens and what is to be called when it knows
    that the worker at a place has died.
    """

    def __init__(
        self, job: LocalJob, door: Door, launcher: Callable[[int, Callable[[WorkerId], None]], Launcher]
    ) -> None:
        super().__init__(job)
        self._door = door
        self._make_launcher = launcher
        self._launcher: Launcher = Nobody()
        self._gateway: Gateway | None = None

    @property
    def port(self) -> int:
        """Where workers come in."""
        assert self._gateway
        return self._gateway.port

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
            if self._gateway:
                self._gateway.close()
            self._launcher.close()

    def _start(self) -> None:
        door = self._door
        self._gateway = Gateway(
            door.host, door.port, door.key, door.welcome, door.reconnect_s, self._on_return, self._on_end
        )
        self._launcher = self._make_launcher(self._gateway.port, self._gateway.give_up)
        super()._start()
        self._gateway.open()
        self._launcher.start(self._gateway.missing)

    def _meets_in_host_memory(self, device: str) -> bool:
        return True  # where couriers read and write

    def _launch_worker(self, job: WorkerJob) -> int:
        assert self._gateway
        self._gateway.expect(job)
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
