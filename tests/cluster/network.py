"""A network that a test makes for itself: machines with addresses of their own, and packets that take their time.

Each machine is a network namespace without a name, and its only way out is a device that a thread of this process reads
and writes: the router, which holds every packet for a while, lets a link take only so many bytes a second, and drops
what goes to or comes from a machine that is cut off, of which neither end is told, as when a cable is pulled. The
host's own network is not touched, and nothing of it can be left: devices go with this process, and namespaces with the
last process in them.
"""

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from select import select
from socket import inet_aton
from typing import Self

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_DEVICE = "way-out"
_LARGEST_PACKET = 65_535


class NotPermittedError(Exception):
    """Networks cannot be made here; the message says why."""


class Network:
    """Machines that reach each other through one router; a context manager that ends what was started on them.

    A packet is `delay_s` under way, one way, and a machine receives `bytes_per_s`. Raises NotPermittedError.
    """

    def __init__(self, machines: Sequence[str], delay_s: float, bytes_per_s: float) -> None:
        self.addresses = {machine: f"10.77.0.{number}" for number, machine in enumerate(machines, start=1)}
        self._delay_s = delay_s
        self._bytes_per_s = bytes_per_s
        self._namespaces: dict[str, int] = {}
        self._devices: dict[str, int] = {}
        self._cut: set[str] = set()
        if os.geteuid() != 0:
            raise NotPermittedError("only root may make networks")
        if missing := [tool for tool in ("ip", "nsenter", "setpriv") if not shutil.which(tool)]:
            raise NotPermittedError(f"not installed: {', '.join(missing)}")
        with ExitStack() as held:
            for machine in machines:
                self._make(machine)
                held.callback(os.close, self._namespaces[machine])
                held.callback(os.close, self._devices[machine])
            stopping, stop = os.pipe()
            held.callback(os.close, stopping)
            router = threading.Thread(target=self._route, args=(stopping,), name="router", daemon=True)
            router.start()
            held.callback(router.join)
            held.callback(os.close, stop)
            self._held = held.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def start(
        self, machine: str, command: Sequence[str], output: Path, environment: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start a command on a machine; it is killed when the network is closed, or this process dies."""
        enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._namespaces[machine]}"]
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *enter, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )
        self._held.callback(process.wait)
        self._held.callback(process.kill)
        return process

    def cut(self, machine: str) -> None:
        """From now on nothing reaches the machine, and nothing that it sends arrives."""
        self._cut.add(machine)

    def mend(self, machine: str) -> None:
        """Let packets pass again."""
        self._cut.discard(machine)

    # --- making machines ---

    def _make(self, machine: str) -> None:
        """In a thread of its own, since only the thread that makes a namespace is moved into it."""
        problems: list[OSError] = []
        maker = threading.Thread(target=self._make_here, args=(machine, problems))
        maker.start()
        maker.join()
        if problems:
            raise NotPermittedError(f"no network can be made here: {problems[0]}") from problems[0]

    def _make_here(self, machine: str, problems: list[OSError]) -> None:
        with ExitStack() as opened:
            try:
                if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "unshare: " + os.strerror(ctypes.get_errno()))
                namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
                opened.callback(os.close, namespace)
                device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                opened.callback(os.close, device)
                fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
            except OSError as error:
                problems.append(error)
                return
            setup = (
                f"link set lo up\naddr add {self.addresses[machine]}/24 dev {_DEVICE}\n"
                f"link set {_DEVICE} up\nroute add default dev {_DEVICE}\n"
            )
            subprocess.run(["ip", "-batch", "-"], input=setup.encode(), check=True)
            opened.pop_all()
            self._namespaces[machine], self._devices[machine] = namespace, device

    # --- the router's thread ---

    def _route(self, stopping: int) -> None:
        """Until the other end of the pipe is closed."""
        machines = {inet_aton(address): machine for machine, address in self.addresses.items()}
        senders = {device: machine for machine, device in self._devices.items()}
        free_at = dict.fromkeys(self.addresses, 0.0)
        under_way: list[tuple[float, int, str, bytes]] = []
        order = count()
        while True:
            patience = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            readable, _, _ = select([stopping, *senders], [], [], patience)
            if stopping in readable:
                return
            now = time.monotonic()
            for device in readable:
                packet = os.read(device, _LARGEST_PACKET)
                target = machines.get(packet[16:20]) if packet[0] >> 4 == 4 else None
                if target is not None and not self._cut & {target, senders[device]}:
                    free_at[target] = max(free_at[target], now) + len(packet) / self._bytes_per_s
                    heappush(under_way, (free_at[target] + self._delay_s, next(order), target, packet))
            while under_way and under_way[0][0] <= now:
                _, _, target, packet = heappop(under_way)
                with suppress(OSError):  # a queue that is full loses packets, as real ones do
                    os.write(self._devices[target], packet)
