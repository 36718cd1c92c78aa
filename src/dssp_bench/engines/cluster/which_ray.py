"""Which Ray cluster a run takes where nobody names one: only one that its user, or root, has made known.

Ray's own search takes whatever any user of the machine runs, another run's cluster included.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.engines.options import parse_address

_ANSWERS_WITHIN_S = 3.0
_VARIABLE = "RAY_ADDRESS"
_LISTENS = "0A"  # in /proc/net/tcp


class Found(NamedTuple):
    """The address of a Ray cluster (`local`: one of our own is to be started), and whether this user started it."""

    address: str
    is_ours: bool = False


def find(address: str) -> Found:
    """What an address means, with `auto` resolved. Raises DsspBenchError if nobody answers where somebody must.

    `auto` is what RAY_ADDRESS names, else the cluster that `ray start` has noted on this machine if it was started by
    this user or by root and runs yet, else `local`.
    """
    if address == "auto":
        named = os.environ.get(_VARIABLE, "")
        if named in ("", "auto"):
            return _noted() or Found("local")
        return _named(named, f"{_VARIABLE}={named}")
    return _named(address, f"engine.address={address}")


def _named(address: str, named: str) -> Found:
    if address == "local":
        return Found(address)
    try:
        where = parse_address(address)
        if "://" in address:
            raise ValueError(address)
    except ValueError as error:
        raise DsspBenchError(f"{named}: a Ray cluster is named by HOST:PORT, or `local`") from error
    if why := _silence(where):
        raise DsspBenchError(f"no Ray cluster at {address}: {why} ({named})")
    return Found(address)


def _noted() -> Found | None:
    """The cluster that `ray start` noted, unless the note is somebody else's or its cluster has ended."""
    note = _temporary_folder() / "ray" / "ray_current_cluster"
    try:
        with note.open(encoding="utf-8") as file:
            owner = os.fstat(file.fileno()).st_uid
            address = file.read(300).strip()
        where = parse_address(address)
    except (OSError, ValueError):
        return None
    if owner not in (os.getuid(), 0) or _silence(where) or _is_somebody_elses(where):
        return None
    return Found(address, is_ours=owner == os.getuid())


def _temporary_folder() -> Path:
    """Where Ray has its files."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def _silence(where: tuple[str, int]) -> str:
    """Why nobody answers there; nothing if somebody does."""
    try:
        socket.create_connection(where, _ANSWERS_WITHIN_S).close()
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _is_somebody_elses(where: tuple[str, int]) -> bool:
    """Whether another user of this machine listens there: the one who left the note may have ended long ago."""
    _, port = where
    if not _is_here(where):
        return False
    users = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    users.add(int(fields[7]))
    return bool(users) and not users & {os.getuid(), 0}


def _is_here(where: tuple[str, int]) -> bool:
    """Whether the way there begins where it ends."""
    with suppress(OSError, UnicodeError):
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(where)  # sends nothing
            return bool(probe.getsockname()[0] == probe.getpeername()[0])
    return False
