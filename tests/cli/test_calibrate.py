"""`dssp-bench calibrate`: on virtual time the truth is known; of real processes only who is slower is asserted."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from dssp_bench.analysis.waiting import lives
from dssp_bench.cli.calibrate import layout_yaml, noise
from dssp_bench.cli.compose import compose_job
from dssp_bench.cli.main import app
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.engines.compute_time import Jitter, SlowState
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.experiment.calibrate import Cores, calibrate, check_comparable, predict, prediction_spec, timing
from dssp_bench.experiment.run import run
from dssp_bench.experiment.spec import build_spec
from dssp_bench.records.files import write_json
from dssp_bench.records.reader import RunRecords
from tests.experiment import specs

CLUSTER: dict[str, Any] = {
    "workers": [{"name": "fast"}, {"slowdown": 1.3}, {"slowdown": 2.1}],
    "iteration_s": 0.02,
    "server": {"receive_s": 0.001, "update_s": 0.0015, "reply_s": 0.0005},
    "network": {"latency_s": 0.0008},
}
NOISY = {**CLUSTER, "workers": [{**worker, "jitter": "shared"} for worker in CLUSTER["workers"]]}
PARADIGMS = ("bsp", "asp", "ssp", "dssp")


def recorded(runs_dir: Path, paradigm: str = "ssp", engine: str = "timing", **changes: Any) -> RunRecords:
    plain = {"cluster": CLUSTER, "stop": {"epochs": 30}}
    result = run(specs.spec(runs_dir, paradigm, engine, **{**plain, **changes}))
    assert result.status == "finished", result.error
    return RunRecords.open(result.folder)


def command(*arguments: str | Path, columns: int = 160) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["calibrate", *map(str, arguments)])


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_constants_that_were_put_in_come_out_and_predict_every_paradigm(tmp_path: Path, paradigm: str) -> None:
    calibration = calibrate(recorded(tmp_path, paradigm))
    layout = calibration.layout
    assert layout.iteration_s == pytest.approx(0.02)
    assert [worker.slowdown for worker in layout.workers] == pytest.approx([1.0, 1.3, 2.1])
    assert layout.network.latency_s == pytest.approx(0.0008, abs=1e-6)
    for other in PARADIGMS:
        run_of_other = recorded(tmp_path, other)
        real, predicted = (
            timing(run_of_other.pushes),
            timing(predict(calibration, prediction_spec(run_of_other))),
        )
        assert predicted.pushes == real.pushes
        assert predicted.duration_s == pytest.approx(real.duration_s, rel=1e-3)
        assert predicted.waiting == pytest.approx(real.waiting, abs=2e-3)


def test_noise_is_predicted_without_knowing_its_seed(tmp_path: Path) -> None:
    calibration = calibrate(recorded(tmp_path, "asp", cluster=NOISY, stop={"epochs": 100}))
    for paradigm in PARADIGMS:
        other = recorded(tmp_path, paradigm, cluster=NOISY, seed=2, stop={"epochs": 100})
        real, predicted = timing(other.pushes), timing(predict(calibration, prediction_spec(other)))
        assert predicted.duration_s == pytest.approx(real.duration_s, rel=0.03)
        assert predicted.waiting == pytest.approx(real.waiting, abs=0.03)


def test_the_same_run_gives_the_same_calibration(tmp_path: Path) -> None:
    run_ = recorded(tmp_path, cluster=NOISY)
    assert layout_yaml(calibrate(run_).layout) == layout_yaml(calibrate(run_).layout)


def test_what_a_run_would_have_been_alone_and_on_shared_cores_differs(tmp_path: Path) -> None:
    """The recorded run shares two cores; the fit finds the constants, and predicts the run only with the cores."""
    run_ = recorded(tmp_path, "asp")
    spec = prediction_spec(run_)
    alone = calibrate(run_)
    shared = type(alone)(alone.layout, alone.fits, Cores(1, (1.0, 1 / 1.3, 1 / 2.1), 0.1), None)
    assert shared.cores is not None
    assert shared.cores.oversubscribed
    assert timing(predict(shared, spec)).duration_s > 1.3 * timing(predict(alone, spec)).duration_s


def test_the_layout_can_be_run_and_its_keys_overridden(tmp_path: Path) -> None:
    run_ = recorded(tmp_path, cluster=NOISY)
    result = command(run_.folder)
    assert result.exit_code == 0, result.output
    path = run_.folder / "cluster" / "calibrated.yaml"
    assert str(path) in result.stdout
    assert f"engine=simulated -cd {run_.folder} cluster=calibrated" in result.stdout
    written = ClusterLayout.model_validate(yaml.safe_load(path.read_text()))
    assert written == calibrate(run_).layout
    config = {**compose_job().config, "cluster": yaml.safe_load(path.read_text()), "engine": specs.ENGINES["timing"]}
    assert build_spec(config).cluster == written


def test_it_may_lie_elsewhere_under_another_name(tmp_path: Path) -> None:
    run_ = recorded(tmp_path)
    path = tmp_path / "mine" / "cluster" / "box.yaml"
    result = command(run_.folder.name, "--runs-dir", tmp_path, "--output", path)
    assert f"-cd {tmp_path / 'mine'} cluster=box" in result.stdout
    assert yaml.safe_load(path.read_text())["iteration_s"] == pytest.approx(0.02)


def test_without_runs_to_check_all_paradigms_are_predicted(tmp_path: Path) -> None:
    result = command(recorded(tmp_path).folder)
    rows = [line.split() for line in result.stdout.splitlines()]
    names = [row[0] for row in rows if row and row[0] in PARADIGMS]
    assert names == ["ssp", *PARADIGMS]


def test_runs_to_check_are_shown_beside_their_prediction(tmp_path: Path) -> None:
    runs = [recorded(tmp_path, paradigm) for paradigm in PARADIGMS]
    result = command(runs[0].folder, *(part for run_ in runs[1:] for part in ("--check", run_.folder)))
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.split(" ")[0] in PARADIGMS]
    assert [row.split()[0] for row in rows] == list(PARADIGMS)
    assert all("0.0%" in row for row in rows)


@pytest.mark.parametrize(("columns", "all_shares"), [(80, False), (120, True)])
def test_a_row_is_a_line_and_a_wide_terminal_shows_what_each_worker_waits(
    tmp_path: Path, columns: int, all_shares: bool
) -> None:
    noisy = [{**worker, "jitter": {"kind": "lognormal", "sigma": 0.05}} for worker in CLUSTER["workers"]]
    runs = [recorded(tmp_path, paradigm, cluster={**CLUSTER, "workers": noisy}) for paradigm in PARADIGMS]
    checks = [part for run_ in runs[1:] for part in ("--check", run_.folder)]
    shown = command(runs[0].folder, *checks, columns=columns).stdout
    tables, about_costs, rest = shown.partition("server: ")
    predictions = rest.partition("\n\n")[2].partition("* calibrated on")[0]
    assert about_costs
    assert [line.split()[0] for line in tables.splitlines()] == ["worker", "fast", "worker_1", "worker_2"]
    rows = predictions.splitlines()
    assert [row.split()[0] for row in rows] == ["run", *PARADIGMS]
    assert rows[1].startswith("bsp * ")
    assert all(len(line) <= columns for line in [*tables.splitlines(), *rows])
    assert ("5-95 % fitted" in tables, "(" in predictions) == (all_shares, all_shares)


def test_slow_states_are_told_in_lines_of_their_own() -> None:
    slow = SlowState(enter=0.001, leave=0.02, factor=2.0)
    assert noise(Jitter(slow_state=slow)) == "none\nslow x2.00:\n0.1% in, 2% out"
    assert noise(Jitter(kind="lognormal", sigma=0.06)) == "log-normal 0.060"


def test_a_run_that_an_accuracy_ended_is_predicted_for_as_many_pushes_as_it_made(tmp_path: Path) -> None:
    stop = {"epochs": 50, "target_accuracy": 0.4}
    run_ = recorded(tmp_path, engine="simulated", stop=stop, evaluation={"every_epochs": 3})
    assert 0 < len(run_.pushes) < 50 * 3 * 10
    assert len(predict(calibrate(run_), prediction_spec(run_))) == len(run_.pushes)


class TestRefused:
    def test_a_run_that_is_too_short(self, tmp_path: Path) -> None:
        result = command(recorded(tmp_path, stop={"epochs": 1}).folder)
        assert result.exit_code == 2
        assert "error: RUN: fast made 10 iterations, and it takes 20" in result.stderr

    def test_a_run_that_is_not_there(self, tmp_path: Path) -> None:
        result = command("nobody", "--runs-dir", tmp_path)
        assert (result.exit_code, "no run folder 'nobody'" in result.stderr) == (2, True)

    @pytest.mark.parametrize("output", ["box.yaml", "cluster/box", "cluster/box.yml"])
    def test_a_place_where_cluster_could_not_find_the_layout(self, tmp_path: Path, output: str) -> None:
        result = command(recorded(tmp_path).folder, "--output", tmp_path / output)
        assert result.exit_code == 2
        assert "error: --output: must be DIR/cluster/NAME.yaml" in result.stderr
        assert not (tmp_path / output).exists()

    def test_a_run_of_something_else_to_check(self, tmp_path: Path) -> None:
        run_, other = recorded(tmp_path), recorded(tmp_path, batch_size=4)
        with pytest.raises(ConfigurationError, match="another batch_size"):
            check_comparable(run_, other)
        result = command(run_.folder, "--check", other.folder)
        assert result.exit_code == 2
        assert "error: --check: " in result.stderr
        assert not (run_.folder / "cluster").exists()

    def test_a_local_run_that_did_not_measure_its_server(self, tmp_path: Path) -> None:
        run_ = recorded(tmp_path)
        config = run_.config
        config["engine"] = specs.ENGINES["local"]
        (run_.folder / "config.yaml").write_text(yaml.safe_dump(config))
        result = command(run_.folder)
        assert (result.exit_code, "does not say what the server's work costs" in result.stderr) == (2, True)


@pytest.mark.processes
def test_real_processes_tell_what_they_cost_and_the_slow_one_is_found_slow(tmp_path: Path) -> None:
    cluster = {"workers": [{"name": name, "device": "cpu", "slowdown": s} for name, s in (("a", 1.0), ("b", 4.0))]}
    run_ = recorded(tmp_path, "bsp", "local", cluster=cluster, stop={"epochs": 8}, model=specs.troubled(pause_s=0.002))
    assert run_.summary is not None
    server = run_.summary["server"]
    assert all(server[key] > 0 for key in ("receive_s", "update_s", "reply_s"))
    assert 0 < server["busy_share"] < 1

    calibration = calibrate(run_)
    fast, slow = calibration.layout.workers
    assert slow.slowdown > fast.slowdown == 1.0
    assert calibration.cores is not None
    assert calibration.cores.shares == (1.0, 0.25)
    predicted = predict(calibration, prediction_spec(run_))
    assert len(predicted) == len(run_.pushes)
    for pushes in (predicted, run_.pushes):  # under BSP the fast one waits for the slow one
        waiting = {worker: life.waiting_share for worker, life in lives(pushes).items()}
        assert waiting[0] > waiting[1]

    result = command(run_.folder)
    assert result.exit_code == 0, result.output
    environment = json.loads((run_.folder / "environment.json").read_text())
    environment["hardware"]["cores"] = 1
    write_json(run_.folder / "environment.json", environment)
    assert "oversubscribed" in command(run_.folder).stdout
