"""How the driver ends a run's processes, also those that the system cannot end."""

import multiprocessing.process
from types import SimpleNamespace
from typing import Any

import pytest

from dssp_bench.engines.local import launch
from dssp_bench.engines.local.launch import LocalRun


class Undying:
    """A process in a system call that does not return: it was killed, and does not end."""

    pid, exitcode = 4_194_305, None

    def __init__(self) -> None:
        self.killed = False

    def kill(self) -> None:
        self.killed = True

    def join(self, timeout: float | None = None) -> None:
        assert timeout is not None, "somebody waits for it for ever"


def test_a_process_that_does_not_end_when_it_is_killed_is_let_go_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launch, "_PATIENCE_S", 0.01)
    nothing: Any = SimpleNamespace(places=dict)
    run, process = LocalRun(nothing), Undying()
    children: Any = multiprocessing.process
    children._children.add(process)
    processes: list[Any] = [process]
    run._processes = processes
    run.close(0.0)
    assert process.killed
    assert process not in children._children, "the end of this program would wait for it"
    assert caplog.messages == [
        "process 4194305 was killed and has not ended, since a system call of it does not return"
    ]
