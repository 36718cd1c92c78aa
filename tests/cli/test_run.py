"""The command line, in this process, with a run that does nothing: what is asked for, and what is said."""

import copy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError
from typer.testing import CliRunner, Result

from dssp_bench.cli.compose import _loader
from dssp_bench.cli.errors import error_lines
from dssp_bench.cli.main import app
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment import run as experiment
from dssp_bench.experiment.run import RunResult
from dssp_bench.experiment.spec import ConfigurationErrors, RunSpec

pytestmark = pytest.mark.usefixtures("logging_as_before")
CONF = Path(__file__).resolve().parents[2] / "conf"


class FakeRuns:
    """Stands in for `experiment.run`: remembers what it was given; seeds in `failing` fail.

    `forking` is what the process that forks others was told to import, each time it was started early.
    """

    def __init__(self) -> None:
        self.specs: list[RunSpec] = []
        self.failing: set[int] = set()
        self.forking: list[Sequence[str]] = []
        self.raising: BaseException | None = None

    def __call__(self, spec: RunSpec, watchers: Sequence[Any] = ()) -> RunResult:
        self.specs.append(spec)
        if self.raising:
            raise self.raising
        if spec.seed in self.failing:
            return RunResult("failed", spec.runs_dir / "run", None, "worker 1 died")
        return RunResult("finished", spec.runs_dir / "run", {"final_accuracy": 0.5, "waiting_share": {"0": 0.25}})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuns:
    fake = FakeRuns()
    monkeypatch.setattr(experiment, "run", fake)
    monkeypatch.setattr("dssp_bench.cli.run.start_fork_server", fake.forking.append)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def run(runs: FakeRuns, tmp_path: Path) -> Callable[[str], Result]:
    def invoke(line: str) -> Result:
        result = CliRunner(env={"COLUMNS": "80"}).invoke(
            app, ["run", *shlex.split(line), "tracking=none", f"runs_dir={tmp_path}/runs"]
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


Run = Callable[[str], Result]


class TestOneRun:
    def test_it_gets_what_was_typed(self, run: Run, runs: FakeRuns, tmp_path: Path) -> None:
        assert run("paradigm=ssp paradigm.threshold=6 cluster=hetero4 seed=7").exit_code == 0
        (spec,) = runs.specs
        assert vars(spec.paradigm)["threshold"] == 6
        assert (spec.choices["cluster"], spec.seed, spec.runs_dir) == ("hetero4", 7, tmp_path / "runs")
        assert spec.tags == {
            "command": "dssp-bench run paradigm=ssp paradigm.threshold=6 cluster=hetero4 seed=7 tracking=none "
            f"runs_dir={tmp_path}/runs"
        }

    def test_two_thousand_pushes_are_two_thousand(self, run: Run, runs: FakeRuns) -> None:
        line = "engine=simulated engine.train=false paradigm=dssp 'cluster.workers=[{slowdown: 1.0},{slowdown: 1.7}]'"
        assert run(f"{line} cluster.iteration_s=1.0 stop.pushes=2000").exit_code == 0
        assert (runs.specs[0].stop.pushes, runs.specs[0].stop.epochs) == (2000, None)

    def test_nothing_is_left_in_the_current_folder(self, run: Run, tmp_path: Path) -> None:
        assert run("").exit_code == 0
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_run_is_exit_code_1(self, run: Run, runs: FakeRuns) -> None:
        runs.failing = {1}
        assert run("").exit_code == 1

    def test_ctrl_c_is_exit_code_130(self, run: Run, runs: FakeRuns) -> None:
        runs.raising = KeyboardInterrupt()
        assert run("").exit_code == 130

    def test_what_the_run_refuses_before_it_starts_is_exit_code_2(self, run: Run, runs: FakeRuns) -> None:
        runs.raising = ConfigurationError("batch_size", "is more than there is", "take less")
        result = run("")
        assert result.exit_code == 2
        assert result.stderr == "error: batch_size: is more than there is\n  take less\n"

    def test_options_may_stand_anywhere(self, run: Run, runs: FakeRuns) -> None:
        assert run("paradigm=bsp -m seed=1,2").exit_code == 0
        assert [spec.seed for spec in runs.specs] == [1, 2]

    def test_a_preset_overrides_groups_and_the_command_line_overrides_the_preset(
        self, run: Run, runs: FakeRuns
    ) -> None:
        assert run("experiment=smoke cluster=hetero4").exit_code == 0
        assert (runs.specs[0].choices["engine"], runs.specs[0].choices["cluster"]) == ("simulated", "hetero4")
        assert runs.specs[0].stop.epochs == 2

    def test_a_folder_of_ones_own_adds_options(self, run: Run, runs: FakeRuns, tmp_path: Path) -> None:
        (tmp_path / "mine" / "cluster").mkdir(parents=True)
        (tmp_path / "mine" / "cluster" / "lab.yaml").write_text("workers: [{name: only}]\n")
        (tmp_path / "mine" / "lab.yaml").write_text("defaults: [config, _self_]\nseed: 9\n")
        assert run("-cd mine -cn lab cluster=lab").exit_code == 0
        assert (runs.specs[0].choices["cluster"], runs.specs[0].seed) == ("lab", 9)
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_a_folder_of_ones_own_takes_the_place_of_ours(self, run: Run, runs: FakeRuns, tmp_path: Path) -> None:
        shutil.copytree(CONF, tmp_path / "mine")
        (tmp_path / "mine" / "config.yaml").write_text(
            (CONF / "config.yaml").read_text(encoding="utf-8").replace("\nseed: 1 ", "\nseed: 7 "), encoding="utf-8"
        )
        assert run("-cp mine").exit_code == 0
        assert run("-m -cp mine batch_size=1,2").exit_code == 0
        assert [spec.seed for spec in runs.specs] == [7, 7, 7]
        assert "\nseed: 7\n" in run("-cp mine --cfg job").stdout


class TestSweep:
    def test_every_combination_runs_and_says_which_it_is(self, run: Run, runs: FakeRuns) -> None:
        result = run("-m paradigm=bsp,asp seed=1,2 batch_size=16")
        assert result.exit_code == 0
        assert [(spec.choices["paradigm"], spec.seed) for spec in runs.specs] == [
            ("bsp", 1), ("bsp", 2), ("asp", 1), ("asp", 2),
        ]  # fmt: skip
        assert "run 3 of 4: paradigm=asp seed=1\n" in result.stdout

    def test_what_was_composed_to_be_checked_is_not_composed_again(
        self, run: Run, runs: FakeRuns, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        composed = []
        of_hydra = ConfigLoaderImpl.load_sweep_config

        def counted(loader: ConfigLoaderImpl, master: DictConfig, overrides: list[str]) -> DictConfig:
            composed.append(overrides[0])
            return of_hydra(loader, master, overrides)

        monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", counted)
        run("-m seed=1,2,1")
        assert [spec.seed for spec in runs.specs] == [1, 2, 1]
        assert composed == ["seed=1", "seed=2", "seed=1"]

    def test_other_processes_are_not_sent_what_is_kept(self) -> None:
        loader = _loader()
        loader.keep(["seed=1"], OmegaConf.create())
        assert not copy.deepcopy(loader)._kept

    def test_the_runs_of_a_sweep_share_its_name(self, run: Run, runs: FakeRuns, tmp_path: Path) -> None:
        run("-m seed=1,2")
        (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
        assert {spec.tags["sweep"] for spec in runs.specs} == {folder.name}
        assert [spec.tags["job"] for spec in runs.specs] == ["0", "1"]
        assert [path.name for path in folder.iterdir()] == ["multirun.yaml"]
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    def test_a_table_compares_its_runs(self, run: Run) -> None:
        lines = run("-m seed=1,2").stdout.splitlines()
        assert lines[-3].split() == ["run", "accuracy", "best", "time", "s", "pushes/s", "waiting", "max", "lead"]
        assert lines[-1].split() == ["seed=2", "0.5000", "-", "-", "-", "25%", "-"]

    def test_a_failing_run_is_named_at_once_and_the_others_go_on(self, run: Run, runs: FakeRuns) -> None:
        runs.failing = {2}
        result = run("-m seed=1,2,3")
        assert result.exit_code == 1
        assert [spec.seed for spec in runs.specs] == [1, 2, 3]
        assert result.stderr.splitlines() == [
            "failed seed=2: worker 1 died",
            "1 of 3 runs failed: seed=2 (worker 1 died)",
        ]

    def test_a_bug_in_one_run_does_not_stop_the_others(self, run: Run, runs: FakeRuns) -> None:
        runs.raising = ZeroDivisionError("division by zero")
        result = run("-m seed=1,2")
        assert result.exit_code == 1
        assert len(runs.specs) == 2
        assert result.stderr.splitlines()[-1].startswith("2 of 2 runs failed: seed=1 (ZeroDivisionError: division by")

    def test_what_cannot_work_is_said_before_anything_starts(self, run: Run, runs: FakeRuns) -> None:
        result = run("-m paradigm=ssp,dssp,dsp paradigm.threshold=3,-1")
        assert result.exit_code == 1
        assert [vars(spec.paradigm)["threshold"] for spec in runs.specs] == [3]
        assert result.stderr.count("refused ") == 5
        assert "5 of 6 runs failed: " in result.stderr

    def test_if_nothing_can_work_it_is_an_error_of_usage(self, run: Run, runs: FakeRuns) -> None:
        assert run("-m seed=-1,-2").exit_code == 2
        assert runs.specs == []

    def test_a_preset_may_sweep_by_itself(self, run: Run, runs: FakeRuns, tmp_path: Path) -> None:
        (tmp_path / "mine" / "experiment").mkdir(parents=True)
        (tmp_path / "mine" / "experiment" / "fig.yaml").write_text(
            "# @package _global_\ndefaults: [{override /paradigm: '???'}]\n"
            "hydra: {mode: MULTIRUN, sweeper: {params: {paradigm: 'bsp,asp', seed: '1,2'}}}\n"
        )
        assert run("-cd mine experiment=fig").exit_code == 0
        made = [(spec.choices["paradigm"], spec.seed) for spec in runs.specs]
        assert made == [("bsp", 1), ("bsp", 2), ("asp", 1), ("asp", 2)]

    def test_ctrl_c_ends_the_sweep(self, run: Run, runs: FakeRuns) -> None:
        runs.raising = KeyboardInterrupt()
        assert run("-m seed=1,2").exit_code == 130
        assert len(runs.specs) == 1


def test_ctrl_c_is_no_mistake_in_the_configuration(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: Any, **_options: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise ConfigKeyError("something is half made")  # as OmegaConf does where it cleans up

    monkeypatch.setattr("dssp_bench.cli.compose._Loader.load_configuration", interrupted)
    result = run("seed=1")
    assert (result.exit_code, result.stderr.strip()) == (130, "interrupted")


PANELS = [
    ("paradigm=dsp", ["paradigm=dsp", "did you mean paradigm=dssp?", "allowed: asp, bsp, dssp, ssp"]),
    ("paradigm.treshold=3", ["paradigm.treshold", "paradigm.threshold, of paradigm=ssp", "lower, upper"]),
    ("paradigm=ssp paradigm.treshold=3", ["paradigm.treshold", "did you mean paradigm.threshold?"]),
    ("paradgm=ssp", ["paradgm", "did you mean paradigm?"]),
    ("paradigm.lower=-1", ["paradigm.lower", "must be at least 0, got -1"]),
    ("paradigm.upper=1 paradigm.lower=3", ["paradigm", "upper (1) must not be below lower (3)"]),
    ("cluster.workers=abc", ["cluster.workers", "must be a list, got abc"]),
    ("cluster.workers=[]", ["cluster.workers", "must not be empty"]),
    ("'cluster.workers=[{device: cuda:77}]'", ["cluster.workers.0.device", "cuda:77", "CUDA device"]),
    ("cluster.workers.7.slowdown=2", ["cluster.workers.7.slowdown", "no such entry"]),
    ("batch_size=0", ["batch_size", "must be at least 1, got 0"]),
    ("seed=x", ["seed", "must be a whole number, got x"]),
    ("seed=1,2", ["seed", "-m runs once for each"]),
    ("stop.epochs=-1", ["stop.epochs", "must be above 0, got -1"]),
    ("paradigm=", ["paradigm", "allowed: asp, bsp, dssp, ssp"]),
    ("foo", ["'foo'", "KEY=VALUE"]),
    ("-m paradigm=bsp,", ["'paradigm=bsp,'", "comma"]),
    ("-m 'seed=interval(1,3)'", ["seed=interval(1,3)", "range(1,10)"]),
    ("+x=1", ["x: there is no such key", "batch_size"]),
    ("+paradigm.lower=1", ["paradigm.lower", "leave out the +"]),
    ("+paradigm=ssp", ["paradigm", "leave out the +"]),
    ("'batch_size=${nothing}'", ["batch_size", "nothing"]),
    ("engine=replay", ["engine.run", "must be given"]),
    ("-cn nope", ["'nope'", "config", "-cd"]),
    ("-cd nowhere", ["nowhere", "not found"]),
    ("-m -cd nowhere seed=1,2", ["nowhere", "not found"]),
    ("-cp /nowhere", ["/nowhere", "not found", "-cd"]),
    ("-cp pkg://nowhere", ["nowhere", "not found", "-cd"]),
    ("-cd ''", ["-cd", "not found"]),
    ("-m -cp /nowhere", ["/nowhere", "not found", "-cd"]),
    ("-cd mine -cn broken", ["broken.yaml, line", "not YAML"]),
    ("-m --cfg job", ["-m and --cfg exclude each other"]),
    ("--cfg everything", ["everything", "job"]),
    ("--nonsense", ["--nonsense", "--help"]),
    ("-sc query=bash", ["--install-completion"]),
]


@pytest.mark.parametrize(("line", "words"), PANELS, ids=[line for line, _ in PANELS])
def test_what_is_wrong_is_said_in_four_lines(
    line: str, words: list[str], run: Run, runs: FakeRuns, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.yaml").write_text("a: [1, {\n")
    result = run(line)
    said = " ".join(result.stderr.split())
    assert result.exit_code == 2
    assert runs.specs == []
    assert result.stdout == ""
    assert 1 <= len(result.stderr.splitlines()) <= 4
    assert all(len(row) <= 80 for row in result.stderr.splitlines())
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert "append to your config" not in said
    assert [word for word in words if word not in said] == []


def test_many_problems_take_four_lines_too() -> None:
    many = ConfigurationErrors(ConfigurationError(f"key{i}", "is " + "very " * 40 + "wrong") for i in range(9))
    lines = error_lines(many, width=60)
    assert lines[0] == "error: 9 problems in the configuration"
    assert lines[-1] == "  and 7 more"
    assert len(lines) == 4


ODD = st.text(alphabet="=,[]{}:.+~'\"$ab1 -", max_size=12)
KEYS = st.sampled_from(
    ["paradigm", "cluster.workers", "seed", "stop.epochs", "name", "hydra.sweep.dir", "paradigm.lower"]
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(override=ODD | st.builds("{}={}".format, KEYS, ODD))
def test_whatever_is_typed_there_is_no_traceback(override: str, run: Run) -> None:
    result = run(shlex.join([override]))  # asserts that nothing but an exit is raised
    assert result.exit_code in (0, 2)


class TestHydraInFull:
    def test_the_configuration_can_be_shown(self, run: Run, runs: FakeRuns) -> None:
        result = run("paradigm=ssp --cfg job -p paradigm")
        assert result.exit_code == 0
        assert "threshold: 3" in result.stdout
        assert runs.specs == []

    @pytest.mark.parametrize("line", ["--help", "-h"])
    def test_help_lists_groups_and_keys(self, line: str, run: Run, runs: FakeRuns) -> None:
        text = run(line).stdout
        assert "paradigm: asp, bsp, dssp, ssp" in text
        assert "batch_size: 32" in text
        assert runs.specs == []

    def test_where_things_come_from_can_be_shown(self, run: Run) -> None:
        assert str(CONF) in run("--info searchpath").stdout


HEAVY = ("torch", "mlflow", "matplotlib", "pandas", "sklearn", "hydra")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dssp_bench.cli.main import app; app(['--help'], standalone_mode=False)\n"
        f"assert not set(sys.modules) & {set(HEAVY)!r}, set(sys.modules) & {set(HEAVY)!r}"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "run" in result.stdout


def test_only_real_processes_are_prepared_for(run: Run, runs: FakeRuns) -> None:
    assert run("engine=simulated").exit_code == 0
    assert runs.forking == []
    assert run("").exit_code == 0
    (imported,) = runs.forking
    assert all(find_spec(name) for name in imported)  # the process that forks passes over what it does not find


def test_showing_the_configuration_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys; from dssp_bench.cli.run import run; assert run(['--cfg', 'job']) == 0\n"
        "assert not set(sys.modules) & {'torch', 'pandas', 'mlflow'}"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_version_is_shown() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("dssp-bench 0.")


def test_a_replay_takes_everything_but_the_engine_from_the_record(run: Run, runs: FakeRuns) -> None:
    result = run("engine=replay engine.run=somewhere paradigm=asp")
    assert result.exit_code == 2
    assert "paradigm: has no place in a replay" in result.stderr
    assert run("engine=replay engine.run=somewhere").exit_code == 0


def test_a_sweep_that_cannot_write_where_its_runs_go_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["run", "-m", "seed=1,2", f"runs_dir={tmp_path}/file"])
    assert (result.exit_code, "runs_dir: cannot write to" in result.stderr) == (2, True)


SHOWN = [
    line.strip().partition("#")[0]
    for page in (CONF.parent / "README.md", CONF / "config.yaml")
    for line in page.read_text(encoding="utf-8").splitlines()
    if line.strip().startswith("dssp-bench run ") and "[" not in line.partition("cluster.workers")[0]
]


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_that_is_shown_can_be_typed(line: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    result = run(line.removeprefix("dssp-bench run "))
    assert result.exit_code == 0, result.stderr
