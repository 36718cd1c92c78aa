"""What killed runs leave is found and removed; what goes on, and what holds results, is left alone."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dssp_bench.experiment import leftovers as module
from dssp_bench.experiment.leftovers import Leftover, leftovers, unfinished_runs
from dssp_bench.records.lock import going_on
from tests.experiment.watching import descendants

LOOKS_FORKED = (
    "print(flush=True); import time; time.sleep(60)  # multiprocessing.forkserver main(5, 0, ['dssp_bench.nothing'])"
)
A_DAY_AGO = time.time() - 86_400


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of one's own in place of /dev/shm, the temporary folder and the runs."""
    for name in ("shm", "tmp", "runs"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "SHM", tmp_path / "shm")
    monkeypatch.setattr(module, "_ENDS_WITHIN_S", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def dead() -> int:
    """The number of a process that does not exist any more."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def forked() -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A process that looks like one of a run, and the end of the pipe by which its driver holds it."""
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-S", "-c", LOOKS_FORKED], stdin=read, stdout=subprocess.PIPE)
    os.close(read)
    assert process.stdout
    process.stdout.readline()  # now its command line can be read
    yield process, write
    process.kill()
    process.communicate()


def found(runs_dir: Path) -> dict[str, Leftover]:
    """What is left by name, processes aside: others on this machine may leave some at any moment."""
    return {Path(one.what).name: one for one in leftovers(runs_dir) if one.kind != "process"}


def processes() -> dict[int, Leftover]:
    return {int(one.what.partition(",")[0]): one for one in leftovers(Path("/nowhere")) if one.kind == "process"}


def old(path: Path) -> Path:
    os.utime(path, (A_DAY_AGO, A_DAY_AGO))
    return path


def a_run(places: Path, name: str, summary: str | None = None) -> Path:
    folder = places / "runs" / name
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1\n")
    if summary is not None:
        (folder / "summary.json").write_text(summary)
    return folder


def test_where_nothing_was_killed_nothing_is_found(places: Path) -> None:
    a_run(places, "good", '{"status": "finished"}')
    assert found(places / "runs") == {}


def test_a_process_is_left_alone_as_long_as_somebody_holds_its_pipe(
    places: Path, forked: tuple["subprocess.Popen[bytes]", int]
) -> None:
    process, ours = forked
    holder = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], stdin=subprocess.DEVNULL,
                              pass_fds=[ours])  # fmt: skip
    os.close(ours)
    try:
        assert process.pid not in processes()
    finally:
        holder.kill()
        holder.wait()
    processes()[process.pid].remove()
    assert process.wait(10) == -signal.SIGKILL


def test_a_number_that_now_belongs_to_another_process_is_not_killed(
    places: Path, forked: tuple["subprocess.Popen[bytes]", int], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, ours = forked
    os.close(ours)
    left = processes()[process.pid]
    monkeypatch.setattr(module, "_drivers_pipe", lambda pid: None)  # as of another program
    left.remove()
    assert process.poll() is None


def test_names_in_shared_memory_go_with_the_processes_that_made_them(places: Path, dead: int) -> None:
    names = [f"torch_{dead}_123_0", f"cuda.shm.0.{dead:x}.1"]
    kept = [f"torch_{os.getpid()}_123_0", f"cuda.shm.0.{os.getpid():x}.1", "somebody_elses", "torch_x"]
    for name in names + kept:
        (places / "shm" / name).touch()
    left = found(places / "runs")
    assert sorted(left) == sorted(names)
    for one in left.values():
        one.remove()
    assert sorted(os.listdir(places / "shm")) == sorted(kept)


def test_folders_of_fork_servers_go_if_nobody_listens_there(places: Path) -> None:
    folders = {name: places / "tmp" / f"pymp-{name}" for name in ("empty", "deserted", "used", "new", "full")}
    for folder in folders.values():
        folder.mkdir()
    (folders["full"] / "data").touch()
    with socket.socket(socket.AF_UNIX) as gone, socket.socket(socket.AF_UNIX) as listening:
        gone.bind(str(folders["deserted"] / "listener-x"))
        gone.close()
        listening.bind(str(folders["used"] / "listener-y"))
        listening.listen()
        for name in ("empty", "deserted", "used", "full"):
            old(folders[name])
        left = found(places / "runs")
        assert sorted(left) == ["pymp-deserted", "pymp-empty"]
        for one in left.values():
            one.remove()
    assert sorted(os.listdir(places / "tmp")) == ["pymp-full", "pymp-new", "pymp-used"]


def test_unfinished_files_go_and_records_and_checkpoints_stay(places: Path, dead: int) -> None:
    run = a_run(places, "killed")
    (run / "checkpoints" / "000001").mkdir(parents=True)
    (run / "checkpoints" / ".000002.unfinished").mkdir()
    (run / "pushes.arrows").touch()
    (run / f".summary.json.{dead}.tmp").touch()
    (run / f".summary.json.{os.getpid()}.tmp").touch()  # somebody writes it now
    old_database = places / "runs" / ".mlflow.db.new"
    old_database.touch()
    old(old_database)
    figures = places / "runs" / "reports" / "fig4-mini" / "figures" / "samples"
    figures.mkdir(parents=True)
    (figures / f".ends.png.{dead}.tmp").touch()
    left = found(places / "runs")
    ends, summary = f".ends.png.{dead}.tmp", f".summary.json.{dead}.tmp"
    assert sorted(left) == [".000002.unfinished", ends, ".mlflow.db.new", summary]
    for one in left.values():
        one.remove()
    kept = {path.name for path in run.rglob("*")}
    assert kept == {"config.yaml", "checkpoints", "000001", "pushes.arrows", f".summary.json.{os.getpid()}.tmp"}
    assert not old_database.exists()


def test_a_checkpoint_that_is_being_written_is_left_alone(places: Path) -> None:
    run = a_run(places, "running")
    (run / "checkpoints" / ".000002.unfinished").mkdir(parents=True)
    with going_on(run):
        assert found(places / "runs") == {}


def test_runs_that_came_to_no_end_are_named_with_what_they_have(places: Path) -> None:
    a_run(places, "a_finished", '{"status": "finished"}')
    (a_run(places, "b_killed", '{"status": "killed"}') / "checkpoints" / "000003").mkdir(parents=True)
    a_run(places, "c_failed", '{"status": "failed"}')
    a_run(places, "d_lost")
    a_run(places, "e_broken", "[")
    running = a_run(places, "f_running")
    with going_on(running):
        assert [tuple(run) for run in unfinished_runs(places / "runs")] == [
            ("b_killed", "killed", True),
            ("c_failed", "failed", False),
            ("d_lost", "no end", False),
            ("e_broken", "unreadable", False),
        ]


@pytest.mark.processes
def test_the_processes_of_a_run_are_known_as_such_and_have_a_driver(places: Path) -> None:
    program = f"""
from dssp_bench.engines.local.fork_server import start_fork_server
start_fork_server(["dssp_bench.experiment.preload"])
print("started", flush=True)
import time; time.sleep({60})
"""
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert driver.stdout
        driver.stdout.readline()
        forking = [pid for pid in descendants(driver.pid) if module._drivers_pipe(pid)]
        assert len(forking) == 1
        assert forking[0] not in processes()
    finally:
        driver.kill()
        driver.communicate()


def test_a_place_without_runs_has_none(places: Path) -> None:
    shutil.rmtree(places / "runs")
    assert found(places / "runs") == {}
    assert list(unfinished_runs(places / "runs")) == []
