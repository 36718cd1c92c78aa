"""One run, from its specification to its folder: what is there, what it says, and how it ends."""

import json
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from dssp_bench.core.errors import ConfigurationError, DataNotFound
from dssp_bench.core.messages import Push
from dssp_bench.core.paradigm import View
from dssp_bench.experiment.run import run
from dssp_bench.experiment.spec import build_spec
from dssp_bench.experiment.watcher import RunInfo, RunStatus
from dssp_bench.paradigms.asp import ASP
from dssp_bench.records.lock import goes_on
from dssp_bench.records.reader import RunRecords
from tests.experiment.specs import DIGITS, HETERO, PARADIGMS, RESNET, spec, troubled
from tests.experiment.watching import Watched

FILES = {
    "pushes.parquet", "updates.parquet", "evaluations.parquet", "grants.parquet",
    "config.yaml", "environment.json", "summary.json",
}  # fmt: skip


def written(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["simulated", "timing", pytest.param("local", marks=pytest.mark.processes)])
def test_a_finished_run_leaves_exactly_the_files_that_were_promised(engine: str, tmp_path: Path) -> None:
    result = run(spec(tmp_path, "dssp", engine))
    assert (result.status, result.error) == ("finished", "")
    assert written(result.folder) == FILES
    assert [result.folder] == list(tmp_path.iterdir())


def test_the_configuration_is_written_down_and_gives_the_same_run_again(tmp_path: Path) -> None:
    first = run(spec(tmp_path, "dssp", cluster={"workers": HETERO, "count": 3}))
    config = yaml.safe_load((first.folder / "config.yaml").read_text(encoding="utf-8"))
    choices = config.pop("choices")
    assert choices["paradigm"] == "dssp"
    assert config["stop"]["epochs"] == 1.0
    again = run(build_spec(config, choices))
    for name in ("pushes", "updates", "evaluations", "grants"):
        file = f"{name}.parquet"
        assert (first.folder / file).read_bytes() == (again.folder / file).read_bytes()


def test_the_environment_says_where_and_with_what(tmp_path: Path) -> None:
    found = json.loads((run(spec(tmp_path)).folder / "environment.json").read_text(encoding="utf-8"))
    assert {"git", "python", "packages", "host", "hardware", "command", "started_at", "devices"} <= found.keys()
    assert found["packages"]["torch"]
    assert found["devices"]["workers"] == [found["devices"]["server"]] * 2
    timing = run(spec(tmp_path, engine="timing")).folder / "environment.json"
    assert "devices" not in json.loads(timing.read_text(encoding="utf-8"))


def test_the_summary_says_what_was_run_and_what_came_of_it(tmp_path: Path) -> None:
    result = run(spec(tmp_path, "bsp", stop={"epochs": 2, "target_accuracy": 0.999}))
    summary = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
    assert result.summary is not None
    assert summary == json.loads(json.dumps(result.summary))
    expected = {
        "status": "finished", "paradigm": "bsp", "engine": "simulated", "cluster": "test", "seed": 1, "workers": 2,
        "pushes": 60, "updates": 30, "samples": 480, "learning_rate_clock": "samples", "lost_workers": [],
        "max_lead": 1, "mean_staleness": 0.0,
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert [event["worker"] for event in summary["membership"]] == [0, 1]
    assert summary["duration_s"] == pytest.approx(30 * 0.0017)


def test_names_of_folders_say_what_was_run_and_no_two_are_alike(tmp_path: Path) -> None:
    one, other = run(spec(tmp_path, engine="timing")), run(spec(tmp_path, engine="timing"))
    named = run(spec(tmp_path, engine="timing", name="mine"))
    assert one.folder.name.endswith("-dssp-test-synthetic-seed1")
    assert one.folder != other.folder
    assert named.folder.name.endswith("-mine")


# --- before anything is started ---------------------------------------------------------------------------------------

CIFAR10 = {"_target_": "dssp_bench.tasks.data.cifar.CIFAR10", "download": False}


def test_data_that_are_not_there_are_missed_before_a_folder_is_made(tmp_path: Path) -> None:
    data = {**CIFAR10, "root": str(tmp_path / "nothing")}
    with pytest.raises(DataNotFound):
        run(spec(tmp_path / "runs", dataset=data))
    assert not (tmp_path / "runs").exists()


def test_timing_alone_needs_no_data(tmp_path: Path) -> None:
    data = {**CIFAR10, "root": str(tmp_path / "nothing")}
    result = run(spec(tmp_path / "runs", "ssp", "timing", dataset=data, batch_size=128))
    assert result.status == "finished"
    assert result.summary is not None
    assert result.summary["pushes"] == 2 * 196  # 50,000 examples, 2 workers, batches of 128
    assert result.summary["final_accuracy"] is None


@pytest.mark.parametrize("engine", ["simulated", "local"])
def test_a_batch_that_no_shard_can_fill_is_refused_before_a_folder_is_made(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="121 is more than the 120 training examples of each worker"):
        run(spec(tmp_path, engine=engine, batch_size=121))
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_take_the_images_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    small = {"_target_": "dssp_bench.tasks.data.synthetic.Synthetic", "shape": [1, 4, 4], "examples": 100}
    with pytest.raises(ConfigurationError, match="at least 8x8 pixels"):
        run(spec(tmp_path, dataset=small, model=RESNET))
    assert not list(tmp_path.iterdir())


# --- how it ends ------------------------------------------------------------------------------------------------------


class Wrong(ASP):
    """A paradigm with a mistake, which shows at the tenth push."""

    def may_proceed(self, worker: int, clocks: Any) -> bool:
        return bool(1 // (10 - sum(clocks[w] for w in clocks)) >= 0)


class Idle(ASP):
    """A paradigm that lets nobody go on."""

    def proceeds(self, push: Push, view: View) -> bool:
        return False


@pytest.mark.parametrize(
    ("paradigm", "reason"), [("Wrong", "ZeroDivisionError: "), ("Idle", "Idle holds every live worker")]
)
def test_a_paradigm_with_a_mistake_fails_the_run_and_the_summary_says_why(
    paradigm: str, reason: str, tmp_path: Path
) -> None:
    watched = Watched()
    result = run(spec(tmp_path, paradigm_config(paradigm), "timing"), [watched])
    assert result.status == "failed"
    assert reason in result.error
    assert result.summary is not None
    assert result.summary["error"] == result.error
    assert [(status, error) for status, _, _, error in watched.finished] == [("failed", result.error)]
    assert written(result.folder) == FILES


def paradigm_config(name: str) -> str:
    PARADIGMS[name] = {"_target_": f"{__name__}.{name}"}
    return name


@pytest.fixture(autouse=True)
def _own_paradigms_are_forgotten() -> Any:
    yield
    for name in ("Wrong", "Idle"):
        PARADIGMS.pop(name, None)


def test_ctrl_c_leaves_a_killed_run_with_its_records_and_is_raised_again(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    watched = Watched(interrupt, after_pushes=0)
    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path), [watched])
    ((status, records, summary, _),) = watched.finished
    assert status == "killed"
    assert records is not None
    assert summary is not None
    assert summary["status"] == "killed"
    assert summary["membership"] is None
    assert written(records.folder) == FILES


class Broken(Watched):
    """A watcher with a mistake."""

    calls = 0

    def start(self, run: RunInfo) -> None:
        raise RuntimeError("no network")

    def progress(self, status: RunStatus) -> None:
        self.calls += 1


@pytest.mark.parametrize("engine", ["simulated", pytest.param("local", marks=pytest.mark.processes)])
def test_a_watcher_that_fails_is_left_out_and_the_run_goes_on(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, watched = Broken(), Watched()
    with caplog.at_level(logging.WARNING):
        result = run(spec(tmp_path, engine=engine), [broken, watched])
    assert result.status == "finished"
    assert (broken.calls, broken.finished) == (0, [])
    assert len(watched.finished) == 1
    assert watched.statuses
    assert [record.getMessage() for record in caplog.records] == ["Broken failed and watches no longer: no network"]


def test_a_run_ends_at_the_first_evaluation_that_reaches_the_target(tmp_path: Path) -> None:
    stop = {"target_accuracy": 0.8, "epochs": 50}
    result = run(spec(tmp_path, "asp", stop=stop, evaluation={"every_epochs": 0.1}))
    evaluations = RunRecords.open(result.folder).evaluations
    assert result.status == "finished"
    assert (evaluations["accuracy"].iloc[:-1] < 0.8).all()
    assert evaluations["accuracy"].iloc[-1] >= 0.8


# --- the same every time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_equal_seeds_give_the_same_bytes(paradigm: str, tmp_path: Path) -> None:
    noisy = {"workers": [{"jitter": "noisy"}, {"jitter": "shared", "slowdown": 1.4}]}
    changes: dict[str, Any] = {"cluster": noisy, "evaluation": {"every_epochs": 0.5}}
    first, again = (run(spec(tmp_path, paradigm, **changes)).folder for _ in range(2))
    other = run(spec(tmp_path, paradigm, seed=2, **changes)).folder
    for file in FILES - {"config.yaml", "environment.json", "summary.json"}:
        assert (first / file).read_bytes() == (again / file).read_bytes()
    assert (first / "pushes.parquet").read_bytes() != (other / "pushes.parquet").read_bytes()


def test_the_paradigm_changes_nobodys_first_loss_and_nobodys_jitter(tmp_path: Path) -> None:
    noisy = {"workers": [{"jitter": "noisy"}, {"jitter": "shared", "slowdown": 1.4}]}

    def firsts(paradigm: str) -> list[tuple[float, ...]]:
        pushes = RunRecords.open(run(spec(tmp_path, paradigm, cluster=noisy)).folder).pushes
        first = pushes[pushes["clock"] == 1].sort_values("worker")
        times = pushes.sort_values(["worker", "clock"])["compute_s"]
        return [tuple(first[first["pulled_version"] == 0]["loss"]), tuple(times)]

    bsp, asp = firsts("bsp"), firsts("asp")
    assert bsp[0] == asp[0]
    assert bsp[1] == asp[1]


# --- what is learned --------------------------------------------------------------------------------------------------


def accuracy(runs_dir: Path, paradigm: str, workers: int, **changes: Any) -> float:
    cluster = {"workers": [{"slowdown": 1.0 + 0.3 * i} for i in range(workers)]}
    result = run(spec(runs_dir, paradigm, cluster=cluster, dataset=DIGITS, **changes))
    assert result.summary is not None
    return float(result.summary["final_accuracy"])


GENTLE: dict[str, Any] = {"batch_size": 16, "stop": {"epochs": 6}, "optimizer": {"learning_rate": 0.02}}


@pytest.fixture(scope="module")
def accuracy_of_one(tmp_path_factory: pytest.TempPathFactory) -> float:
    return accuracy(tmp_path_factory.mktemp("one"), "asp", 1, **GENTLE)


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_four_workers_learn_about_as_much_from_as_many_samples_as_one(
    paradigm: str, accuracy_of_one: float, tmp_path: Path
) -> None:
    assert accuracy(tmp_path, paradigm, 4, **GENTLE) == pytest.approx(accuracy_of_one, abs=0.04)


@pytest.mark.parametrize("paradigm", ["bsp", "dssp"])
def test_statistics_of_normalisation_layers_survive_four_workers(paradigm: str, tmp_path: Path) -> None:
    # Wrong running statistics would leave a network with batch normalisation at chance.
    changes: dict[str, Any] = {
        "model": {**RESNET, "depth": 8}, "batch_size": 32, "stop": {"epochs": 3}, "optimizer": {"learning_rate": 0.02},
    }  # fmt: skip
    assert accuracy(tmp_path, paradigm, 4, **changes) > 0.8


def test_trouble_in_a_network_does_not_reach_a_run_in_this_process_untold(tmp_path: Path) -> None:
    result = run(spec(tmp_path, model=troubled(raises_at=2)))
    assert result.status == "failed"
    assert result.error.endswith("ArithmeticError: the network is in trouble")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_when_all_is_over_but_the_writing_lets_everybody_finish(times: int, tmp_path: Path) -> None:
    class Interrupting(Watched):
        def finish(self, *arguments: Any) -> None:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            super().finish(*arguments)

    first, second = Interrupting(), Watched()
    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path), [first, second])
    assert [status for watched in (first, second) for status, *_ in watched.finished] == ["finished", "finished"]


def test_a_place_that_cannot_be_written_to_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"runs_dir: cannot write to .*file"):
        run(spec(tmp_path / "file"))


def test_epochs_of_timing_alone_need_examples_for_every_worker_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="8 is more than the 2 training examples of each worker"):
        run(spec(tmp_path, engine="timing", cluster={"workers": HETERO, "count": 100}))


@pytest.mark.processes
def test_what_acts_in_virtual_time_only_is_named_when_real_processes_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = [{"device": "cpu", "jitter": "shared"}]
    run(spec(tmp_path, engine="local", cluster={"workers": workers, "network": {"latency_s": 0.1}}))
    assert "this cluster's jitter and costs of network and server act in virtual time only" in caplog.text


def test_a_folder_that_cannot_be_described_is_refused_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dssp_bench.experiment.run.write_json", full)
    with pytest.raises(ConfigurationError, match=f"cannot write to {tmp_path}: No space left on device"):
        run(spec(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_run_holds_its_folder_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    held: list[bool] = []
    watched = Watched(lambda: held.append(goes_on(tmp_path / watched.run.name)) if watched.run else None)
    result = run(spec(tmp_path), [watched])
    assert held == [True]
    assert not goes_on(result.folder)
