"""Whether a run goes on."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from dssp_bench.core.errors import RecordsError
from dssp_bench.records.lock import goes_on, going_on


def test_a_run_goes_on_while_somebody_is_at_it_and_nobody_else_may_be(tmp_path: Path) -> None:
    assert not goes_on(tmp_path)
    with going_on(tmp_path) as ours:
        assert ours
        assert goes_on(tmp_path)
        with going_on(tmp_path) as theirs:
            assert not theirs
    assert not goes_on(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_where_there_are_no_locks_that_is_said(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RecordsError, match=r"cannot be locked .* on a file system with flock"):
        goes_on(tmp_path)
    with pytest.raises(RecordsError, match="cannot be locked"), going_on(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"gone cannot be opened: No such file"):
        goes_on(tmp_path / "gone")
