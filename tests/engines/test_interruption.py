"""Ctrl-C, termination and death of the process that the user started, each in a process of its own.

Whatever happens, its records stay readable and none of its processes stays.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dssp_bench.records.reader import RunRecords
from tests.experiment.watching import descendants, environment, gone, shared_memory, shared_memory_left

pytestmark = pytest.mark.processes

DRIVER = """
import sys
from pathlib import Path
from dssp_bench.experiment.run import run
from tests.experiment.specs import spec, troubled
from tests.experiment.watching import Watched

class Told(Watched):
    def start(self, info):
        print("starting", flush=True)

    def progress(self, status):
        if self.acted and status.pushes == self.statuses[-1].pushes:
            print("waiting", flush=True)
        super().progress(status)

if __name__ == "__main__":
    watched = Told(lambda: print("training", flush=True), after_pushes=5)
    model = troubled(pause_s=0.005, {fields})
    try:
        run(spec(Path(sys.argv[1]), "ssp", "local", model=model, stop={{"pushes": 1_000_000}}), [watched])
    except KeyboardInterrupt:
        print("interrupted", *(status for status, *_ in watched.finished), flush=True)
"""


class Driver:
    """A script that makes a run, and the processes that come of it."""

    def __init__(self, folder: Path, fields: str = "") -> None:
        script = folder / "driver.py"
        script.write_text(DRIVER.format(fields=fields), encoding="utf-8")
        self.runs_dir = folder / "runs"
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(self.runs_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=environment(),
        )

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def hears(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def terminal_hears(self, number: signal.Signals) -> None:
        """As when the user types it: all processes of the session hear it."""
        os.killpg(self.process.pid, number)

    def family(self) -> list[int]:
        return descendants(self.process.pid)

    def ends(self) -> tuple[str, str]:
        return self.process.communicate(timeout=60)

    @property
    def records(self) -> RunRecords:
        (folder,) = self.runs_dir.iterdir()
        return RunRecords.open(folder)


Start = Callable[..., Driver]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    drivers: list[Driver] = []

    def started(fields: str = "") -> Driver:
        drivers.append(Driver(tmp_path, fields))
        return drivers[-1]

    yield started
    for driver in drivers:
        if driver.process.poll() is None:
            os.killpg(driver.process.pid, signal.SIGKILL)
            driver.process.communicate()
        for stream in (driver.process.stdout, driver.process.stderr):
            assert stream
            stream.close()


def test_a_run_that_is_interrupted_ends_at_a_safe_point_and_keeps_what_it_has(start: Start) -> None:
    driver = start()
    assert [driver.says(), driver.says()] == ["starting", "training"]
    family = driver.family()
    driver.hears(signal.SIGINT)
    output, errors = driver.ends()
    assert (output.split()[-2:], errors) == (["interrupted", "killed"], "")
    assert gone(family)
    records = driver.records
    assert records.finished
    assert records.summary is not None
    assert records.summary["status"] == "killed"
    assert records.summary["pushes"] == len(records.pushes) >= 5
    assert records.evaluations["version"].tolist() == [0, records.summary["updates"]]


def test_ctrl_c_on_a_terminal_while_the_workers_start_is_no_failure(start: Start) -> None:
    driver = start('built="sleeps"')
    assert driver.says() == "starting"
    family = driver.family()
    driver.terminal_hears(signal.SIGINT)  # the others ignore it: it is the driver's business
    output, errors = driver.ends()
    assert output.split()[-2:] == ["interrupted", "killed"]
    assert "Traceback" not in errors
    assert gone(family)


def test_a_second_ctrl_c_waits_for_nothing(start: Start) -> None:
    driver = start("evaluation_pause_s=60")  # so that the last evaluation would take a minute
    assert [driver.says(), driver.says()] == ["starting", "training"]
    family = driver.family()
    driver.hears(signal.SIGTERM)  # the same as Ctrl-C
    assert driver.says() == "waiting"
    driver.hears(signal.SIGINT)
    output, errors = driver.ends()
    assert (output.split()[-2:], errors) == (["interrupted", "killed"], "")
    assert gone(family)
    (folder,) = driver.runs_dir.iterdir()
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"] == "killed"


@pytest.mark.parametrize("moment", ["starting", "training"])
def test_when_the_driver_is_killed_nothing_of_its_run_stays(moment: str, start: Start) -> None:
    before = shared_memory()
    driver = start()
    while driver.says() != moment:
        pass
    family = driver.family()
    assert family
    driver.hears(signal.SIGKILL)
    assert gone(family)
    assert shared_memory_left(before) == set()
    if moment == "training":
        assert not driver.records.finished, "nobody is left who could be writing there"


STARTS_AND_IS_GONE = """
import os, signal, sys, time
from multiprocessing import forkserver
from pathlib import Path
from dssp_bench.engines.local.fork_server import start_fork_server

begun = Path("begun")
Path("takes_long.py").write_text("import time; open('begun', 'x').close(); time.sleep(60)")
start_fork_server(["takes_long"])
if sys.argv[1] == "while it imports":
    while not begun.exists():
        time.sleep(0.01)
    time.sleep(0.3)
assert os.waitpid(forkserver._forkserver._forkserver_pid, os.WNOHANG) == (0, 0), "it is not there while it should be"
Path("pid").write_text(str(forkserver._forkserver._forkserver_pid))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["at once", "while it imports"])
def test_when_it_is_killed_nobody_goes_on_importing(moment: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS_AND_IS_GONE, moment]
    here = {**environment(), "PYTHONPATH": os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])}
    done = subprocess.run(command, cwd=tmp_path, env=here, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert gone([int((tmp_path / "pid").read_text())])


ASKS_AND_IS_GONE = """
import os, socket, sys
from multiprocessing import forkserver
from dssp_bench.engines.local.fork_server import start_fork_server

start_fork_server(["dssp_bench"])
for end in forkserver.connect_to_new_process([]):
    os.close(end)
if sys.version_info < (3, 14):  # it lives on since then
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(forkserver._forkserver._forkserver_address)
else:
    os.close(forkserver._forkserver._forkserver_alive_fd)
os.waitpid(forkserver._forkserver._forkserver_pid, 0)
"""


def test_when_it_is_killed_while_it_asks_for_a_process_nobody_says_a_word() -> None:
    command = [sys.executable, "-c", ASKS_AND_IS_GONE]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_script_without_a_guard_is_told_about_it_and_makes_one_run_only(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from dssp_bench.experiment.run import run\n"
        "from tests.experiment.specs import spec\n"
        "print(run(spec(Path(sys.argv[1]), 'asp', 'local')).status)\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(script), str(tmp_path / "runs")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "failed"
    assert "call it under `if __name__ == '__main__':`" in done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 1
