"""A driver of runs on Ray in a process of its own, and what its workers leave."""

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dssp_bench.core.errors import RecordsError
from dssp_bench.records.reader import RunRecords
from tests.experiment.watching import environment as surroundings

OURS = {"DSSP_BENCH_TESTS": secrets.token_hex(8)}
"""In the environment of all that these tests start, so that they are not taken in by others."""
WITHIN_S = 150


class Driver:
    """`dssp-bench run engine=cluster` in a process of its own."""

    started: ClassVar[list["Driver"]] = []

    def __init__(self, address: str | None, runs_dir: Path, *overrides: str, **environment: str) -> None:
        command = [sys.executable, "-m", "dssp_bench.cli.main", "run", "engine=cluster", "tracking.mlflow=false"]
        command += ["tracking.figures=false", f"runs_dir={runs_dir}", *overrides]
        command += [f"engine.address={address}"] if address else []
        self._runs_dir = runs_dir
        self.said = ""
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**surroundings(), **OURS, **environment},
        )
        self.started.append(self)

    def wait_for_pushes(self, of: int = 0) -> None:
        """Until this worker works."""
        self._wait_until(lambda: self._pushes_of(of) > 0, f"worker {of} does not work")

    def _wait_until(self, happened: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        ended = False
        while not happened():
            if time.monotonic() > deadline or ended:
                self.give_up()
                pytest.fail(f"{complaint}: {self.said}")
            ended = self._process.poll() is not None  # and then it is looked at once more
            time.sleep(0.1)

    def _pushes_of(self, worker: int) -> int:
        try:
            return int((RunRecords.open(self._folder).column("pushes", "worker").to_numpy() == worker).sum())
        except RecordsError:
            return 0  # there are none yet

    @property
    def _folder(self) -> Path:
        folders = [path for path in self._runs_dir.glob("*") if (path / "config.yaml").exists()]
        if not folders:
            raise RecordsError("the run has not begun")
        return folders[0]

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> RunRecords:
        """What the run has left, when it is over."""
        try:
            self.said, _ = self._process.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            self.give_up()
            pytest.fail(f"the run does not end: {self.said}")
        self.exit_code = self._process.returncode
        return RunRecords(self._folder)

    @property
    def summary(self) -> dict[str, Any]:
        """What was said at the end of the run, which is over."""
        summary = RunRecords(self._folder).summary
        assert summary is not None, self.said
        return summary

    def give_up(self) -> None:
        """Where a test has failed, the run need not go on."""
        self._process.terminate()
        try:
            said, _ = self._process.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        self.said = self.said or said


def workers_of_ray() -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"ray::_Host.work" in (process / "cmdline").read_bytes():
                ours = OURS["DSSP_BENCH_TESTS"].encode() in (process / "environ").read_bytes()
                found += [int(process.name)] * ours
        except OSError:
            continue  # it has ended meanwhile
    return found


def wait_until_there_are(count: int) -> list[int]:
    """The workers of all runs on Ray that go on here, when there are so many."""
    end = time.monotonic() + WITHIN_S
    while len(found := workers_of_ray()) != count:
        assert time.monotonic() < end, f"{len(found)} workers instead of {count}"
        time.sleep(0.1)
    return found
