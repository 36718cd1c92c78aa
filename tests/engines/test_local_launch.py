"""How the driver ends a run's processes, also those that the system cannot end."""

import multiprocessing.process
import selectors
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dssp_bench.engines.local import launch
from dssp_bench.engines.local.channel import Kind, file_channel_pair
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


def test_the_servers_last_word_may_be_of_any_length() -> None:
    nothing: Any = SimpleNamespace(places=dict)
    run = LocalRun(nothing)
    run._channel, server = file_channel_pair()
    run._selector.register(run._channel, selectors.EVENT_READ)
    report = {"membership": [{"event": "left", "worker": worker} for worker in range(20_000)]}
    sender = threading.Thread(target=lambda: server.send_json_in_parts(Kind.DONE, report))
    sender.start()
    parts = 0
    while (message := run.message(60.0)) is None:
        parts += 1
    sender.join()
    assert parts > 1
    assert (message.kind, message.json()) == (Kind.DONE, report)
    server.send_json_in_parts(Kind.DONE, {})
    run.close(0.0)
    server.close()
