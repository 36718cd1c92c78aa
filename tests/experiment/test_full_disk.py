"""A disk that is full for a part of a run: a real one, of a few megabytes, in a mount namespace of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PUSHES, FULL_FOR = 1200, 500
DRIVER = """
import json, logging, os, sys, time
from pathlib import Path
from dssp_bench.experiment.mlflow_log import MlflowLog
from dssp_bench.experiment.mlflow_store import stored_runs
from dssp_bench.experiment.mlflow_sync import sync
from dssp_bench.experiment.run import run
from dssp_bench.records.checkpoints import newest
from dssp_bench.records.reader import RunRecords
from tests.experiment.specs import spec, troubled
from tests.experiment.test_full_disk import FULL_FOR, PUSHES
from tests.experiment.watching import Watched

class Filled(Watched):
    def progress(self, status):
        super().progress(status)
        filler = disk / "filler"
        if status.pushes > 50 and not self.acted_twice and not filler.exists():
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
            self.numbers = [number_of(newest(self.run.folder)[0])]
            self.filled_at = status.pushes
            self.full_since = time.monotonic()
        if filler.exists() and status.pushes > self.filled_at + FULL_FOR:
            self.acted_twice = True
            self.full_s = time.monotonic() - self.full_since
            self.numbers.append(number_of(newest(self.run.folder)[0]))
            self.rows = len(RunRecords.open(self.run.folder).pushes)
            filler.unlink()

    acted_twice = False

def number_of(checkpoint):
    return None if checkpoint is None else int(checkpoint.folder.name)

if __name__ == "__main__":
    disk = Path(sys.argv[1])
    messages = []
    logging.basicConfig(level="WARNING", format="%(message)s")
    watched = Filled()
    changes = {
        "model": troubled(pause_s=0.002), "stop": {"pushes": PUSHES}, "checkpoint": {"every_s": 0.1},
        "evaluation": {"every_epochs": 1.0}, "tracking": {"mlflow": True, "figures": False},
    }
    result = run(spec(disk / "runs", "ssp", "local", **changes), [watched, MlflowLog()])
    records = RunRecords.open(result.folder)
    sent = [run.words for run in sync([result.folder])]
    of_it = stored_runs(disk / "runs")[result.folder.name]
    gaps = records.pushes["arrived_s"].diff().to_numpy()
    print(json.dumps({
        "status": result.status, "error": result.error, "pushes": len(records.pushes), "updates": len(records.updates),
        "evaluations": records.evaluations["samples"].tolist(), "acted": watched.acted_twice, "rows": watched.rows,
        "filled_at": watched.filled_at, "checkpoints": watched.numbers, "summary": result.summary["pushes"],
        "sent": sent, "in_mlflow": [of_it.status, of_it.whole], "full_s": watched.full_s,
        "longest_gap_s": float(gaps[1:].max()),
    }))
"""


def in_a_small_disk(folder: Path, script: str, *arguments: object) -> tuple[dict[str, Any], str]:
    """What the script says, which finds an empty disk of 4 MB in the folder."""
    file = folder / "driver.py"
    file.write_text(script, encoding="utf-8")
    disk = folder / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o size=4m tmpfs {disk} && exec {sys.executable} {file} {disk}"
    here = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def may_mount() -> bool:
    """Whether this user may have mounts of its own."""
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.processes
@pytest.mark.skipif(not may_mount(), reason="this user may not mount anything")
def test_a_run_on_a_disk_that_is_full_for_a_while_completes_and_nothing_is_missing(tmp_path: Path) -> None:
    found, said = in_a_small_disk(tmp_path, DRIVER)
    assert found["acted"], "the disk was never full"
    assert (found["status"], found["error"]) == ("finished", "")
    assert found["pushes"] == found["updates"] == found["summary"] == PUSHES
    assert found["evaluations"][-1] == PUSHES * 8
    assert len(found["evaluations"]) == -(-PUSHES * 8 // 240) + 1
    assert found["rows"] < found["filled_at"] + FULL_FOR, "what was written while the disk was full"
    assert found["longest_gap_s"] < found["full_s"] / 3, "a push waited for the disk"
    assert found["in_mlflow"] == ["FINISHED", True], found["sent"]
    before, after = found["checkpoints"]
    assert after == before, "a checkpoint was written although the disk was full"
    assert "the records wait in memory until they can be written: [Errno 28] No space left on device" in said
