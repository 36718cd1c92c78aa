"""Real processes: the four paradigms, every kind of death, and nothing left behind.

Nothing here depends on how fast the machine is: what is asserted is who did what in which order, and that a recorded
run, fed back through the core, gives the same decisions.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment.run import RunResult, run
from dssp_bench.experiment.watcher import RunStatus
from dssp_bench.records.reader import RunRecords
from tests.experiment.specs import HETERO, MLP, PARADIGMS, spec, troubled
from tests.experiment.watching import (
    Watched,
    held_resources,
    internet_sockets,
    kill,
    run_processes,
    shared_memory,
    shared_memory_left,
)

pytestmark = pytest.mark.processes

THREE: dict[str, Any] = {
    "workers": [{"name": name, "device": "cpu", "slowdown": s} for name, s in (("a", 1.0), ("b", 1.3), ("c", 3.0))]
}
ALONE: dict[str, Any] = {"workers": [{"device": "cpu"}]}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = shared_memory()
    yield
    assert run_processes() == []
    assert shared_memory_left(before) == set()


def local(runs_dir: Path, paradigm: str = "ssp", watched: Watched | None = None, **changes: Any) -> RunResult:
    return run(spec(runs_dir, paradigm, "local", **changes), [watched] if watched else [])


def slow(pause_s: float = 0.01, **fields: Any) -> dict[str, Any]:
    """A network that gives whoever watches the time to do something."""
    return troubled(pause_s=pause_s, **fields)


def records(result: RunResult) -> RunRecords:
    return RunRecords.open(result.folder)


def clocks(result: RunResult) -> dict[int, int]:
    """How many pushes each worker made, whose clocks count up one by one."""
    pushes = records(result).pushes
    of: dict[int, list[int]] = {}
    for worker, clock in zip(pushes["worker"].tolist(), pushes["clock"].tolist(), strict=True):
        of.setdefault(worker, []).append(clock)
    for own in of.values():
        assert own == list(range(own[0], own[0] + len(own)))
    return {worker: len(own) for worker, own in of.items()}


def members(result: RunResult) -> list[tuple[str, int]]:
    assert result.summary is not None
    return [(event["event"], event["worker"]) for event in result.summary["membership"]]


# --- a run that goes well ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_run_ends_by_itself_with_everyones_share_and_replays_to_the_same_decisions(
    paradigm: str, tmp_path: Path
) -> None:
    watched = Watched()
    result = local(tmp_path, paradigm, watched, cluster=THREE, stop={"epochs": 3})
    assert (result.status, result.error) == ("finished", "")
    assert clocks(result) == {0: 30, 1: 30, 2: 30}
    assert sorted(members(result)) == [("left", 0), ("left", 1), ("left", 2)]
    assert result.summary is not None
    assert result.summary["lost_workers"] == []
    assert result.summary["updates"] == (30 if paradigm == "bsp" else 90)

    evaluations = records(result).evaluations
    assert evaluations["samples"].tolist() == [0, 720]
    assert evaluations["version"].tolist() == [0, result.summary["updates"]]
    assert evaluations["at_s"].iloc[0] == 0
    assert evaluations["accuracy"].iloc[1] > 0.9 > evaluations["accuracy"].iloc[0]
    assert [evaluation.accuracy for evaluation in watched.evaluations] == evaluations["accuracy"].tolist()

    again = run(spec(tmp_path, paradigm, str(result.folder)))
    assert (again.status, again.error) == ("finished", "")
    assert again.summary is not None
    assert again.summary["different_rows"] == {"pushes": 0, "updates": 0, "grants": 0}
    if paradigm != "asp":
        assert (records(result).pushes["held_s"].fillna(1) > 0).any(), "nobody was ever held"


def test_one_worker_learns_exactly_as_in_virtual_time(tmp_path: Path) -> None:
    real = local(tmp_path, "asp", cluster=ALONE, evaluation={"every_epochs": 0.5})
    virtual = run(spec(tmp_path, "asp", "simulated", cluster=ALONE, evaluation={"every_epochs": 0.5}))
    assert records(real).pushes["loss"].tolist() == pytest.approx(records(virtual).pushes["loss"].tolist(), rel=1e-5)
    for column in ("loss", "accuracy", "version", "samples"):
        found, expected = records(real).evaluations[column], records(virtual).evaluations[column]
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_weights_that_several_threads_share_learn_exactly_the_same(tmp_path: Path) -> None:
    big = {**MLP, "hidden": [1024, 1024]}
    changes: dict[str, Any] = {"cluster": ALONE, "model": big, "stop": {"pushes": 6}}
    real = local(tmp_path, "asp", **changes)
    virtual = run(spec(tmp_path, "asp", "simulated", **changes))
    assert records(real).pushes["loss"].tolist() == pytest.approx(records(virtual).pushes["loss"].tolist(), rel=1e-4)
    for column in ("loss", "accuracy", "version"):
        found, expected = records(real).evaluations[column], records(virtual).evaluations[column]
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_rounds_of_bsp_are_the_same_in_processes_and_in_virtual_time(tmp_path: Path) -> None:
    def losses(engine: str) -> dict[tuple[int, int], float]:
        pushes = records(run(spec(tmp_path, "bsp", engine, cluster=THREE))).pushes
        return {(w, c): loss for w, c, loss in zip(pushes["worker"], pushes["clock"], pushes["loss"], strict=True)}

    real, virtual = losses("local"), losses("simulated")
    assert real.keys() == virtual.keys()
    assert [real[push] for push in virtual] == pytest.approx(list(virtual.values()), rel=1e-3)


def test_there_is_a_process_for_everyone_and_no_port_is_opened(tmp_path: Path) -> None:
    seen: list[str] = []
    sockets: list[int] = []

    def look() -> None:
        seen.extend(run_processes())
        sockets.extend(internet_sockets(process.pid or 0) for process in multiprocessing.active_children())
        sockets.append(internet_sockets(os.getpid()))

    before = internet_sockets(os.getpid())
    watched = Watched(look)
    assert local(tmp_path, "asp", watched, model=slow(), stop={"pushes": 100}).status == "finished"
    assert seen == ["evaluator", "fast", "server", "slow"]
    assert sockets == [0, 0, 0, 0, before]
    assert watched.statuses[-1].pushes > 0


def test_several_runs_in_one_process_leave_nothing_open(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"cluster": ALONE, "stop": {"pushes": 2}}
    local(tmp_path, **tiny)
    before = held_resources()
    for _ in range(5):
        assert local(tmp_path, **tiny).status == "finished"
    assert held_resources() == before


def test_a_run_may_be_started_from_any_thread(tmp_path: Path) -> None:
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(local(tmp_path)))
    thread.start()
    thread.join()
    assert [result.status for result in results] == ["finished"]


# --- when a run is over -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stop", "pushes", "updates"), [({"pushes": 7}, 7, None), ({"updates": 5}, None, 5)])
def test_a_run_ends_after_exactly_so_many(
    stop: dict[str, Any], pushes: int | None, updates: int | None, tmp_path: Path
) -> None:
    result = local(tmp_path, "asp", stop=stop)
    assert result.summary is not None
    assert result.summary["pushes" if pushes else "updates"] == (pushes or updates)
    assert records(result).evaluations["version"].iloc[-1] == result.summary["updates"]


def test_a_run_ends_when_its_time_is_over(tmp_path: Path) -> None:
    result = local(tmp_path, "asp", model=slow(), stop={"seconds": 0.3})
    assert result.status == "finished"
    assert result.summary is not None
    assert result.summary["pushes"] > 0
    arrived = records(result).pushes["arrived_s"]
    assert (arrived > 0.3).sum() <= 2  # those that were on their way at that moment


def test_a_run_ends_when_the_accuracy_is_reached(tmp_path: Path) -> None:
    stop = {"target_accuracy": 0.8, "pushes": 100_000}
    result = local(tmp_path, "asp", stop=stop, model=slow(0.002), evaluation={"every_epochs": 0.2})
    assert result.status == "finished"
    assert result.summary is not None
    assert result.summary["pushes"] < 100_000
    assert result.summary["time_to_target"]["0.8"] is not None


def test_the_last_version_is_evaluated_although_all_copies_were_in_use(tmp_path: Path) -> None:
    model = troubled(evaluation_pause_s=0.05)
    result = local(tmp_path, "asp", model=model, evaluation={"every_epochs": 0.01})
    evaluations = records(result).evaluations
    assert evaluations["version"].iloc[-1] == 30
    assert evaluations["samples"].is_unique
    assert len(evaluations) < 30, "the copies were never exhausted, so nothing was tested"


# --- who comes and goes -----------------------------------------------------------------------------------------------


def test_a_worker_leaves_and_another_joins_when_the_layout_says_so(tmp_path: Path) -> None:
    events = [{"worker": 1, "at_s": 0.15, "leave": True}, {"worker": 2, "at_s": 0.3, "join": True}]
    cluster = {"workers": THREE["workers"], "events": events}
    result = local(tmp_path, "bsp", cluster=cluster, model=slow(), stop={"pushes": 120})
    assert members(result) == [("left", 1), ("joined", 2)]
    assert clocks(result).keys() == {0, 1, 2}
    pushes = records(result).pushes
    first = pushes[pushes["worker"] == 2].iloc[0]
    assert first["lead"] <= 1
    assert first["clock"] > 1, "it began at the start and not at the slowest clock"
    assert run(spec(tmp_path, "bsp", result.folder.name)).status == "finished"


def test_a_worker_that_would_join_later_does_not_prolong_a_run_that_is_done(tmp_path: Path) -> None:
    cluster = {"workers": HETERO, "events": [{"worker": 1, "at_s": 3600.0, "join": True}]}
    result = local(tmp_path, "bsp", cluster=cluster)
    assert result.status == "finished"
    assert clocks(result) == {0: 15}
    assert members(result) == [("left", 0)]


def test_a_worker_that_dies_before_it_joins_was_never_there(tmp_path: Path) -> None:
    cluster = {"workers": HETERO, "events": [{"worker": 1, "at_s": 1.0, "join": True}]}
    watched = Watched(lambda: kill("slow"))
    result = local(tmp_path, "bsp", watched, cluster=cluster, model=slow(), stop={"seconds": 1.3})
    assert result.status == "finished"
    assert members(result) == []
    assert set(clocks(result)) == {0}
    assert result.summary is not None
    assert result.summary["lost_workers"] == [1]


@pytest.mark.parametrize("paradigm", ["bsp", "dssp"])
def test_when_a_worker_is_killed_the_others_go_on(paradigm: str, tmp_path: Path) -> None:
    watched = Watched(lambda: kill("b"), after_pushes=4)
    result = local(tmp_path, paradigm, watched, cluster=THREE, model=slow(), stop={"epochs": 3})
    assert (result.status, result.error) == ("finished", "")
    assert result.summary is not None
    assert result.summary["lost_workers"] == [1]
    assert members(result)[0] == ("left", 1)
    done = clocks(result)
    assert (done[0], done[2]) == (30, 30)
    assert done[1] < 30
    assert run(spec(tmp_path, paradigm, result.folder.name)).status == "finished"


def test_when_every_worker_is_killed_the_run_has_failed(tmp_path: Path) -> None:
    watched = Watched(lambda: kill("fast", "slow"))
    result = local(tmp_path, "ssp", watched, model=slow(), stop={"pushes": 100_000})
    assert (result.status, result.error) == ("failed", "every worker has died")
    assert result.summary is not None
    assert result.summary["pushes"] == len(records(result).pushes) > 0


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "blamed"),
    [
        ({"raises_at": 3}, "worker "),
        ({"raises_at": 0}, "worker "),
        ({"built": "raises"}, ""),
        ({"evaluation_raises_at": 0}, "the evaluator failed"),
        ({"raises_at": 2, "cause": "漢" * 100_000 + "the end"}, ""),
    ],
    ids=["iteration", "first iteration", "start-up", "evaluation", "a very long story"],
)
def test_a_process_that_raises_fails_the_run_and_says_why(trouble: dict[str, Any], blamed: str, tmp_path: Path) -> None:
    watched = Watched()
    result = local(tmp_path, "bsp", watched, model=troubled(**trouble))
    assert result.status == "failed"
    assert blamed in result.error
    assert result.error.endswith("the end" if "cause" in trouble else "ArithmeticError: the network is in trouble")
    assert len(result.error) < 100_000
    assert result.summary is not None
    assert (result.summary["status"], result.summary["error"]) == ("failed", result.error)
    assert [status for status, *_ in watched.finished] == ["failed"]


def test_a_worker_that_dies_while_it_starts_fails_the_run(tmp_path: Path) -> None:
    result = local(tmp_path, model=troubled(built="dies"))
    assert result.status == "failed"
    assert "died" in result.error


def test_workers_that_are_never_ready_are_not_waited_for_for_ever(tmp_path: Path) -> None:
    result = local(tmp_path, options={"startup_timeout_s": 0.5}, model=troubled(built="sleeps"))
    assert result.status == "failed"
    assert "not ready after 0.5 s: " in result.error
    assert "worker 0, worker 1" in result.error


@pytest.mark.parametrize(("name", "words"), [("server", "killed by SIGKILL"), ("evaluator", "the evaluator died")])
def test_a_run_without_its_server_or_evaluator_has_failed(name: str, words: str, tmp_path: Path) -> None:
    watched = Watched(lambda: kill(name))
    result = local(tmp_path, "dssp", watched, model=slow(), stop={"pushes": 100_000})
    assert result.status == "failed"
    assert words in result.error
    assert records(result).pushes is not None


def test_a_folder_that_cannot_be_written_fails_the_run(tmp_path: Path) -> None:
    class InTheWay(Watched):
        def start(self, run: Any) -> None:
            (run.folder / "updates.parquet").mkdir()

    result = local(tmp_path, watched=InTheWay())
    assert result.status == "failed"
    assert "updates.parquet" in result.error


def test_more_workers_than_can_be_started_are_refused_before_anything_happens(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="200 workers"):
        local(tmp_path, cluster={**ALONE, "count": 200}, batch_size=1)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_is_recorded_and_replayed(tmp_path: Path) -> None:
    result = local(tmp_path, "ssp", on_nan="skip", optimizer={"learning_rate": 1e30})
    assert result.status == "finished"
    assert records(result).pushes["loss"].isna().any()
    assert run(spec(tmp_path, "ssp", result.folder.name)).error == ""


# --- after the last push ----------------------------------------------------------------------------------------------


def test_an_evaluator_that_dies_when_all_is_done_costs_the_last_evaluations_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(lambda: kill("evaluator"), after_pushes=40)
    model = slow(evaluation_pause_s=60)
    result = local(tmp_path, "asp", watched, model=model, stop={"pushes": 40})
    assert (result.status, result.error) == ("finished", "")
    assert "the evaluator died; 2 evaluations are missing" in caplog.messages
    assert sum(clocks(result).values()) == 40


def test_ctrl_c_is_heard_while_the_last_evaluations_are_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(lambda: os.kill(os.getpid(), signal.SIGINT), after_pushes=40)
    model = slow(evaluation_pause_s=60)
    with pytest.raises(KeyboardInterrupt):
        local(tmp_path, "asp", watched, model=model, stop={"pushes": 40})
    assert "the run was stopped after its last push; 2 evaluations are missing" in caplog.messages
    ((status, of_it, _, _),) = watched.finished
    assert status == "killed"
    assert of_it is not None
    assert len(of_it.pushes) == 40


def test_the_memory_of_a_worker_that_was_replaced_is_let_go(tmp_path: Path) -> None:
    enough = tmp_path / "enough"

    class Counting(Watched):
        """Kills a worker and its successors, and looks each time that one is at work; the other waits for that."""

        def __init__(self) -> None:
            super().__init__()
            self.mapped: list[int] = []
            self.killed: set[int | None] = set()

        def progress(self, status: RunStatus) -> None:
            there = {child.pid for child in multiprocessing.active_children() if child.name == "dssp-bench slow"}
            at_work = status.workers[1].state == "computing" and status.pushes > 5
            if there - self.killed and at_work and len(self.mapped) < 3:
                self.mapped.append(pieces_of_memory("server"))
                self.killed |= there
                kill("slow")
            if len(self.mapped) == 3:
                enough.touch()

    watched = Counting()
    model = slow(waits_at=60, waits_for=str(enough))
    options = {"lease_s": 120.0}
    local(
        tmp_path / "runs", "asp", watched, on_worker_loss="restart", stop={"pushes": 200}, model=model, options=options
    )
    assert len(watched.mapped) == 3
    assert len(set(watched.mapped)) == 1


def pieces_of_memory(name: str) -> int:
    """How many pieces of shared memory a process of this run has."""
    (pid,) = (child.pid for child in multiprocessing.active_children() if child.name == f"dssp-bench {name}")
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").count("memfd:dssp-bench")
