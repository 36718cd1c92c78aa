"""Which Ray cluster `engine.address=auto` is: nobody's that its user did not make known."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.engines.cluster.which_ray import Found, find

HOST = "127.0.0.1"
SOMEBODY_ELSE = 4321


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()


@pytest.fixture
def there() -> Iterator[str]:
    """Where somebody listens."""
    with socket.create_server((HOST, 0)) as server:
        yield f"{HOST}:{server.getsockname()[1]}"


@pytest.fixture
def nowhere() -> str:
    """Where nobody listens any more."""
    with socket.create_server((HOST, 0)) as server:
        return f"{HOST}:{server.getsockname()[1]}"


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """What `ray start` leaves."""
    return tmp_path / "ray" / "ray_current_cluster"


def test_where_nobody_made_one_known_a_run_begins_its_own(note: Path) -> None:
    assert find("auto") == find("local") == Found("local")
    for nonsense in ("", "what\0", "1.2.3.4", "x" * 1000, "\udcff:80"):
        note.write_bytes(nonsense.encode(errors="surrogateescape"))
        assert find("auto") == Found("local")


def test_the_one_that_the_user_started_is_taken(note: Path, there: str) -> None:
    note.write_text(there + "\n")
    assert find("auto") == Found(there, is_ours=True)


def test_one_that_has_ended_is_not(note: Path, nowhere: str) -> None:
    note.write_text(nowhere)
    assert find("auto") == Found("local")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_somebody_elses_is_not_and_roots_gets_no_token(note: Path, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    note.write_text(there)
    os.chown(note, SOMEBODY_ELSE, SOMEBODY_ELSE)
    assert find("auto") == Found("local")
    os.chown(note, 0, 0)
    monkeypatch.setattr(os, "getuid", lambda: SOMEBODY_ELSE)
    assert find("auto") == Found(there)


def test_nor_is_somebody_elses_where_the_users_own_has_ended(
    note: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    note.write_text(there)
    table = Path("/proc/net/tcp").read_text(encoding="ascii")
    port = f":{int(there.rpartition(':')[2]):04X} "
    lines = [line.split() for line in table.splitlines()]
    for fields in lines:
        if port.strip() == fields[1][-5:] and fields[3] == "0A":
            fields[7] = str(SOMEBODY_ELSE)
    changed = "\n".join(" ".join(fields) for fields in lines)
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_more: changed)
    assert find("auto") == Found("local")


def test_the_environment_comes_first_and_must_be_right(
    note: Path, there: str, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    note.write_text(there)
    monkeypatch.setenv("RAY_ADDRESS", nowhere)
    with pytest.raises(DsspBenchError, match=f"no Ray cluster at {nowhere}: Connection refused .RAY_ADDRESS="):
        find("auto")
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    with pytest.raises(DsspBenchError, match="named by HOST:PORT"):
        find("auto")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert find("auto") == Found("local")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert find("auto").address == there


def test_an_address_that_was_named_must_answer(there: str, nowhere: str) -> None:
    assert find(there) == Found(there)
    with pytest.raises(DsspBenchError, match=r"engine\.address="):
        find(nowhere)
