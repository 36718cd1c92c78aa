"""A run that came to no end goes on: in virtual time as if nothing had happened, to the byte."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.messages import Nanoseconds
from dssp_bench.engines.checkpoints import Checkpoints
from dssp_bench.experiment.run import RunResult, resume, run
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.watcher import RunStatus
from dssp_bench.records.checkpoints import newest
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.schema import TABLES
from tests.experiment.specs import HETERO, MLP, PARADIGMS, RESNET, spec, troubled
from tests.experiment.watching import Watched, kill, run_processes

OFTEN: dict[str, Any] = {"every_s": 1e-9, "keep": 3}
KILL_POINTS = 13  # for each of four paradigms
CLUSTER: dict[str, Any] = {
    "workers": [{"jitter": "shared"}, {"slowdown": 1.7}, {"slowdown": 1.3, "jitter": "noisy"}],
    "events": [{"worker": 1, "at_s": 0.02, "leave": True}, {"worker": 2, "at_s": 0.01, "join": True}],
}
ALONE: dict[str, Any] = {"workers": [{"device": "cpu"}]}
Lived = Callable[[RunSpec, set[int]], tuple[RunResult, list[Path]]]


def what_it_left(result: RunResult) -> dict[str, object]:
    """All records to the byte, and the weights."""
    assert result.summary is not None
    tables: dict[str, object] = {name: (result.folder / f"{name}.parquet").read_bytes() for name in TABLES}
    return tables | {"weights": result.summary.get("weights_sha256"), "membership": result.summary["membership"]}


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lived:
    """Runs to the end; also gives folders as a kill would have left them after so many events."""

    def lived(of: RunSpec, moments: set[int]) -> tuple[RunResult, list[Path]]:
        copies: list[Path] = []
        counted = Checkpoints.on_rest

        def look(self: Checkpoints, at: Nanoseconds) -> None:
            counted(self, at)
            if self._events % 3 == 0:
                self.wait()  # so that there are checkpoints on however slow a disk
            if self._events in moments:
                (folder,) = of.runs_dir.iterdir()
                copies.append(tmp_path / "killed" / f"after-{self._events}")
                while not copies[-1].exists():
                    try:
                        shutil.copytree(folder, copies[-1])
                    except shutil.Error:  # a checkpoint was written at this moment
                        shutil.rmtree(copies[-1])

        monkeypatch.setattr(Checkpoints, "on_rest", look)
        result = run(of)
        monkeypatch.setattr(Checkpoints, "on_rest", counted)
        assert len(copies) == len(moments)
        return result, copies

    return lived


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_wherever_it_was_killed_it_ends_as_if_nothing_had_happened(paradigm: str, tmp_path: Path, left: Lived) -> None:
    changes: dict[str, Any] = {
        "cluster": CLUSTER,
        "evaluation": {"every_epochs": 0.2},
        "stop": {"epochs": 1 if paradigm == "bsp" else 3},
        "checkpoint": OFTEN,
        "model": {**RESNET, "depth": 8} if paradigm == "bsp" else MLP,
    }
    undisturbed = run(spec(tmp_path / "undisturbed", paradigm, **changes))
    assert undisturbed.summary is not None
    assert not (undisturbed.folder / "checkpoints").exists()
    moments = {*random.Random(paradigm).sample(range(2, undisturbed.summary["pushes"]), KILL_POINTS)}
    whole, killed = left(spec(tmp_path / "runs", paradigm, **changes), moments)
    assert what_it_left(whole) == what_it_left(undisturbed)
    from_a_checkpoint = 0
    for folder in killed:
        resumed = resume(folder)
        assert (resumed.status, resumed.error) == ("finished", "")
        assert what_it_left(resumed) == what_it_left(undisturbed), folder.name
        assert resumed.summary is not None
        from_a_checkpoint += resumed.summary["resumed"][0]["after_pushes"] > 0
    assert from_a_checkpoint > KILL_POINTS // 2


def test_a_run_of_which_only_the_timing_counts_begins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = run(spec(tmp_path / "whole", engine="timing"))
    killed = tmp_path / "killed"
    shutil.copytree(whole.folder, killed)
    for table in TABLES:
        (killed / f"{table}.parquet").unlink()
    (killed / "summary.json").unlink()
    resumed = resume(killed)
    assert what_it_left(resumed) == what_it_left(whole)
    assert [record.message for record in caplog.records] == ["killed has no checkpoint to go on from; it begins again"]


def test_if_the_newest_checkpoint_is_damaged_the_one_before_is_taken(
    tmp_path: Path, left: Lived, caplog: pytest.LogCaptureFixture
) -> None:
    whole, (killed,) = left(spec(tmp_path / "runs", stop={"epochs": 3}, checkpoint=OFTEN), {80})
    damaged = sorted((killed / "checkpoints").glob("[0-9]*"))[-1]
    with (damaged / "tensors.safetensors").open("r+b") as file:
        file.seek(200)
        file.write(b"damage")
    resumed = resume(killed)
    assert what_it_left(resumed) == what_it_left(whole)
    assert f"{damaged / 'tensors.safetensors'} is damaged; the checkpoint before it is tried" in caplog.messages


def test_if_no_checkpoint_is_valid_it_begins_again_and_makes_valid_ones(tmp_path: Path, left: Lived) -> None:
    whole, (killed,) = left(spec(tmp_path / "runs", stop={"epochs": 3}, checkpoint=OFTEN), {80})
    damage_the_records(killed)
    with pytest.raises(KeyboardInterrupt):
        resume(killed, [Watched(interrupt)])
    assert newest(killed)[0] is not None
    resumed = resume(killed)
    assert what_it_left(resumed) == what_it_left(whole)
    assert resumed.summary is not None
    assert [part["after_pushes"] > 0 for part in resumed.summary["resumed"]] == [False, True]


def damage_the_records(folder: Path) -> None:
    with (folder / "pushes.arrows").open("r+b") as file:
        file.seek(900)
        file.write(b"damage")


def made(folder: Path) -> dict[str, bytes]:
    """What a run has made, and not what it was made from."""
    paths = (
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("config.yaml", "environment.json")
    )
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_whatever_it_had_made_is_kept_if_it_begins_again(
    tmp_path: Path, left: Lived, caplog: pytest.LogCaptureFixture
) -> None:
    whole, (killed,) = left(spec(tmp_path / "runs", stop={"epochs": 3}, checkpoint=OFTEN), {80})
    damage_the_records(killed)
    had = made(killed)
    assert "pushes.arrows" in had
    resumed = resume(killed)
    assert what_it_left(resumed) == what_it_left(whole)
    (before,) = killed.glob("before-*")
    assert made(before) == had
    begins = f"{killed.name} has no checkpoint to go on from; it begins again"
    assert caplog.messages[-1] == f"{begins}; what it had made is in {before}"


def test_that_of_a_run_that_made_no_checkpoints_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path, stop={"epochs": 3}, checkpoint={"every_s": None}), [Watched(interrupt)])
    (folder,) = tmp_path.iterdir()
    had = made(folder)
    assert had.keys() == {"summary.json", *(f"{name}.parquet" for name in TABLES)}
    assert resume(folder).status == "finished"
    (before,) = folder.glob("before-*")
    assert made(before) == had


def test_a_run_whose_records_cannot_be_read_now_is_left_as_it_is(
    tmp_path: Path, left: Lived, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, (killed,) = left(spec(tmp_path / "runs", stop={"epochs": 3}, checkpoint=OFTEN), {80})
    had = made(killed)
    with monkeypatch.context() as closed:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(killed / "pushes.arrows"))

        closed.setattr("dssp_bench.records.checkpoints._facts_of_first", refuse)
        with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
            resume(killed)
    assert made(killed) == had
    assert what_it_left(resume(killed)) == what_it_left(whole)


def test_a_checkpoint_of_another_version_is_refused_and_kept(
    tmp_path: Path, left: Lived, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (killed,) = left(spec(tmp_path / "runs", stop={"epochs": 3}, checkpoint=OFTEN), {80})
    had = made(killed)
    monkeypatch.setattr("dssp_bench.experiment.resume.FORMAT", 2)
    with pytest.raises(ConfigurationError, match="has format 1, and this version reads 2"):
        resume(killed)
    assert made(killed) == had


def test_records_that_do_not_lead_to_the_checkpoint_fail_the_run_and_cost_nothing(
    tmp_path: Path, left: Lived, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, (killed,) = left(spec(tmp_path / "runs", "ssp", stop={"epochs": 3}, checkpoint=OFTEN), {80})
    (killed / "config.yaml").write_text((killed / "config.yaml").read_text().replace("threshold: 1", "threshold: 2"))
    resumed = resume(killed)
    assert resumed.status == "failed"
    assert "the records do not lead to the checkpoint" in resumed.error
    (killed / "config.yaml").write_text((killed / "config.yaml").read_text().replace("threshold: 2", "threshold: 1"))
    assert what_it_left(resume(killed)) == what_it_left(whole)


def test_it_can_be_interrupted_again_and_again(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"stop": {"epochs": 4}, "checkpoint": {"every_s": 1000}}
    whole = run(spec(tmp_path / "whole", **changes))
    (tmp_path / "runs").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path / "runs", **changes), [Watched(interrupt)])
    (folder,) = (tmp_path / "runs").iterdir()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            resume(folder, [Watched(interrupt)])
    resumed = resume(folder)
    assert what_it_left(resumed) == what_it_left(whole)
    assert resumed.summary is not None
    assert len(resumed.summary["resumed"]) == 3


def test_a_checkpoint_that_is_being_written_when_the_run_fails_is_worth_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Checkpoints._write

    def slowly(self: Checkpoints, *content: Any) -> None:
        time.sleep(0.3)
        write(self, *content)

    monkeypatch.setattr(Checkpoints, "_write", slowly)
    troubles: dict[str, Any] = {"model": troubled(nan_at=(9,)), "cluster": ALONE, "checkpoint": OFTEN}
    failed = run(spec(tmp_path, "asp", **troubles))
    assert failed.status == "failed"
    again = resume(failed.folder)
    assert again.summary is not None
    assert again.summary["resumed"][0]["after_pushes"] > 0


# --- real processes ---


class Copies(Watched):
    """Copies the run's folder once it has a checkpoint that is young enough."""

    def __init__(self, to: Path, after_pushes: int) -> None:
        super().__init__()
        self.to = to
        self.wanted = after_pushes

    def progress(self, status: RunStatus) -> None:
        assert self.run is not None
        checkpoint, _ = newest(self.run.folder)
        if checkpoint and checkpoint.state["pushes"] >= self.wanted and not self.to.exists():
            shutil.copytree(self.run.folder, self.to)


SLOWLY: dict[str, Any] = {
    "model": troubled(pause_s=0.01),
    "evaluation": {"every_epochs": 0.5},
    "checkpoint": {"every_s": 0.05, "keep": 2},
    "stop": {"epochs": 5},
}


@pytest.mark.processes
@pytest.mark.parametrize(("paradigm", "cluster"), [("asp", ALONE), ("bsp", {"workers": HETERO})])
def test_where_the_order_is_fixed_real_processes_end_with_the_same_weights(
    paradigm: str, cluster: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(spec(tmp_path / "runs", paradigm, "local", cluster=cluster, **SLOWLY))
    watched = Copies(tmp_path / "killed", after_pushes=20)
    run(spec(tmp_path / "runs", paradigm, "local", cluster=cluster, **SLOWLY), [watched])
    resumed = resume(watched.to)
    assert (resumed.status, resumed.error) == ("finished", "")
    assert whole.summary is not None
    assert resumed.summary is not None
    assert resumed.summary["resumed"][0]["after_pushes"] >= 20
    for key in ("weights_sha256", "pushes", "updates", "final_loss", "iterations"):
        assert resumed.summary[key] == whole.summary[key], key
    evaluations = [RunRecords.open(result.folder).evaluations["samples"].tolist() for result in (whole, resumed)]
    assert evaluations[0] == evaluations[1]


@pytest.mark.processes
@pytest.mark.parametrize("paradigm", ["ssp", "dssp"])
def test_real_processes_go_on_with_their_clocks_and_every_decision_can_be_replayed(
    paradigm: str, tmp_path: Path
) -> None:
    watched = Copies(tmp_path / "killed", after_pushes=20)
    run(spec(tmp_path / "runs", paradigm, "local", **SLOWLY), [watched])
    resumed = resume(watched.to)
    assert (resumed.status, resumed.error) == ("finished", "")
    assert resumed.summary is not None
    assert resumed.summary["iterations"] == {"0": 75, "1": 75}
    at = RunRecords.open(resumed.folder).pushes["arrived_s"]
    assert at.is_monotonic_increasing
    again = run(spec(tmp_path / "replays", paradigm, str(resumed.folder)))
    assert (again.status, again.error) == ("finished", "")


@pytest.mark.processes
def test_whoever_died_before_stays_away(tmp_path: Path) -> None:
    class Killed(Watched):
        def progress(self, status: RunStatus) -> None:
            super().progress(status)
            if status.workers[1].state == "left" and status.pushes > 40:
                interrupt()

    watched = Killed(lambda: kill("slow"), after_pushes=10)
    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path, "bsp", "local", **SLOWLY), [watched])
    assert watched.run is not None
    resumed = resume(watched.run.folder)
    assert (resumed.status, resumed.error) == ("finished", "")
    assert resumed.summary is not None
    assert resumed.summary["lost_workers"] == [1]
    assert resumed.summary["iterations"]["0"] == 75


@pytest.mark.processes
def test_whoever_died_before_it_joined_stays_away_too(tmp_path: Path) -> None:
    late: dict[str, Any] = {"workers": HETERO, "events": [{"worker": 1, "at_s": 3600, "join": True}]}
    watched = Watched(lambda: kill("slow"), after_pushes=10)
    interrupting = Watched(interrupt, after_pushes=60)
    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path, "ssp", "local", **{**SLOWLY, "cluster": late}), [watched, interrupting])
    assert watched.run is not None
    (checkpoint, _) = newest(watched.run.folder)
    assert checkpoint is not None
    assert checkpoint.state["lost"] == [1]
    resumed = resume(watched.run.folder)
    assert (resumed.status, resumed.error) == ("finished", "")
    assert resumed.summary is not None
    assert (resumed.summary["lost_workers"], resumed.summary["iterations"]) == ([1], {"0": 75})


@pytest.mark.processes
def test_whoever_was_about_to_be_replaced_is_replaced_later(tmp_path: Path) -> None:
    watched = Watched(lambda: kill("slow"), after_pushes=10)
    interrupting = Watched(interrupt, after_pushes=40)
    changes: dict[str, Any] = {**SLOWLY, "stop": {"epochs": 20}}
    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path, "ssp", "local", **changes), [watched, interrupting])
    assert watched.run is not None
    config = watched.run.folder / "config.yaml"
    config.write_text(config.read_text() + "on_worker_loss: restart\n")
    resumed = resume(watched.run.folder)
    assert (resumed.status, resumed.error) == ("finished", "")
    assert resumed.summary is not None
    assert (resumed.summary["lost_workers"], resumed.summary["replacements"]) == ([1], {"2": 1})


@pytest.mark.processes
def test_a_replacement_goes_on_as_itself(tmp_path: Path) -> None:
    class Killed(Watched):
        def progress(self, status: RunStatus) -> None:
            super().progress(status)
            if self.acted and status.pushes > 60 and status.workers[1].state == "computing":
                interrupt()

    watched = Killed(lambda: kill("slow"), after_pushes=10)
    changes: dict[str, Any] = {**SLOWLY, "stop": {"epochs": 20}, "on_worker_loss": "restart"}
    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path / "runs", "ssp", "local", **changes), [watched])
    assert watched.run is not None
    resumed = resume(watched.run.folder)
    assert (resumed.status, resumed.error) == ("finished", "")
    assert resumed.summary is not None
    assert (resumed.summary["lost_workers"], resumed.summary["replacements"]) == ([1], {"2": 1})
    pushes = RunRecords.open(resumed.folder).pushes
    assert pushes.groupby("worker")["clock"].max()[[0, 2]].tolist() == [300, 300]
    again = run(spec(tmp_path / "replays", "ssp", str(resumed.folder)))
    assert (again.status, again.error) == ("finished", "")


@pytest.mark.processes
def test_a_run_whose_server_was_killed_fails_and_goes_on_later(tmp_path: Path) -> None:
    watched = Copies(tmp_path / "copy", after_pushes=20)
    killer = Watched(lambda: kill("server"), after_pushes=60)
    failed = run(spec(tmp_path / "runs", "asp", "local", cluster=ALONE, **SLOWLY), [watched, killer])
    assert (failed.status, failed.error) == ("failed", "the server process was killed by SIGKILL")
    assert run_processes() == []
    resumed = resume(failed.folder)
    assert (resumed.status, resumed.error) == ("finished", "")
    assert resumed.summary is not None
    assert resumed.summary["resumed"][0]["after_pushes"] >= 20
    assert resumed.summary["pushes"] == 150


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
