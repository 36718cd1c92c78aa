"""From what was typed to plain mappings; with `hydra_errors` the only file that knows Hydra and OmegaConf.

`launch` hands a command line to Hydra in full, sweeps and launchers included; `compose_job` only composes. A `Runner`
gets each job as plain data.
"""

import argparse
import itertools
import logging
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import hydra
import yaml
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dssp_bench.cli.errors import UsageError
from dssp_bench.cli.hydra_errors import CONFIG_NAME, UNDERSTOOD, config_dir, in_our_words
from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.experiment.spec import runs_dir_of

_VERSION_BASE = "1.3"
MOST_RUNS = 10_000
"""Of one sweep; all are checked before the first starts."""
_MOST_KEPT = 100  # a third of a megabyte each


@dataclass(frozen=True)
class Job:
    """One run as Hydra composed it, in plain values.

    `overrides` are what was typed, or what the sweep chose, for this run. In a sweep, `sweep` is the name of its
    folder, `label` tells this run from the others, `number` counts from 0, and `total` says how many there are, where
    that is known.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...] = ()
    command: str = ""
    sweep: str | None = None
    label: str = ""
    number: int = 0
    total: int | None = None


class Runner(Protocol):
    """Does what is to be done with each job; pickled by launchers that start processes."""

    def check(self, job: Job) -> None:
        """Raise a `DsspBenchError` if the job cannot work; nothing is started."""

    def run(self, job: Job) -> Any:
        """Run the job; the result is returned by `launch`."""

    def refuse(self, label: str, error: DsspBenchError) -> Any:
        """A job of a sweep cannot work; the result is returned by `launch`, and the others go on."""


@dataclass
class Launched:
    """What came of a command line: the results in order (none if it only asked for information)."""

    results: list[Any]
    is_sweep: bool = False
    interrupted: bool = False


def launch(arguments: Sequence[str], runner: Runner) -> Launched:
    """Hand a command line to Hydra; raises `DsspBenchError` if it cannot be understood or composed."""
    options = _parse(arguments)
    _register()
    task = _Task(runner, shlex.join(["dssp-bench", "run", *arguments]))
    loader = _loader(options.config_dir, options.config_path)
    try:
        # Overrides go first, because argparse takes none after an option that follows one.
        with _as_command_line(_reordered(arguments, options)):
            if not _composed_and_run(options, loader, task):
                hydra.main(version_base=_VERSION_BASE, config_path=str(config_dir()), config_name=CONFIG_NAME)(task)()
        if task.unresolved:
            raise task.unresolved
    except KeyboardInterrupt:
        return Launched(task.results, task.is_sweep, interrupted=True)
    except DsspBenchError:
        raise
    except Exception as error:
        if task.started:
            raise
        if _was_interrupt(error):
            return Launched(task.results, interrupted=True)
        if not isinstance(error, (*UNDERSTOOD, AttributeError)):  # the latter of OmegaConf, about hydra's own keys
            raise
        raise in_our_words(error, options.overrides, loader, options.config_name, options.config_dir) from error
    return Launched(task.results, task.is_sweep)


def compose_job(overrides: Sequence[str] = ()) -> Job:
    """The job that these overrides describe, without running it; raises `DsspBenchError`."""
    _register()
    loader = _loader()
    try:
        return _job(loader.load_configuration(CONFIG_NAME, [*overrides, "hydra.mode=RUN"], RunMode.RUN))
    except UNDERSTOOD as error:
        raise in_our_words(error, overrides, loader) from error


def is_as_delivered(job: Job, group: str) -> bool:
    """Whether a group of the job is one of our own files, with nothing changed in it."""
    file = config_dir() / group / f"{job.choices.get(group)}.yaml"
    return file.is_file() and yaml.safe_load(file.read_text(encoding="utf-8")) == job.config.get(group)


def completions(words: Sequence[str], incomplete: str) -> list[str]:
    """What may stand where the cursor is: options, groups and keys that begin so."""
    _register()
    line = " ".join([*words, incomplete]) if incomplete else " ".join([*words, ""])
    found: list[str] = DefaultCompletionPlugin(_loader())._query(CONFIG_NAME, line)
    return found


def console_handler() -> logging.Handler:
    """Where log lines go: above the live table on a terminal, else plain lines on stderr."""
    if not sys.stdout.isatty():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        return handler
    from rich import get_console
    from rich.logging import RichHandler

    return RichHandler(console=get_console(), show_path=False, log_time_format="%H:%M:%S")


class _Task:
    """What Hydra calls for each job; keeps the results, which Hydra does not return."""

    def __init__(self, runner: Runner, command: str) -> None:
        self.runner = runner
        self.command = command
        self.results: list[Any] = []
        self.started = False
        self.unresolved: OmegaConfBaseException | None = None
        self.is_sweep = False
        self.total: int | None = None
        self.swept: tuple[str, ...] = ()

    def label(self, overrides: Sequence[str]) -> str:
        """Those of a job's overrides that the sweep varies."""
        return " ".join([o for o in overrides if o.partition("=")[0] in self.swept] or overrides)

    def __call__(self, config: DictConfig) -> Any:
        composed = cast(DictConfig, HydraConfig.instance().cfg)  # Hydra's annotation says what is in it
        try:
            job = replace(_job(composed, config, self.command), total=self.total)
        except OmegaConfBaseException as error:  # kept, since Hydra prints what a task raises
            self.unresolved = error
            return None
        job = replace(job, label=self.label(job.overrides))
        self.started = True
        self.is_sweep = job.sweep is not None
        result = self.runner.run(job)
        self.results.append(result)
        return result


class _Sweep:
    """Does what Hydra's basic sweeper does, but checks every job before the first starts, and none stops another.

    Hydra's refuses a whole sweep for one job that does not compose, and reports only the first job that failed, at the
    end. And it takes sweepers from packages named `hydra_plugins` only, so this one is no plugin.
    """

    def __init__(self, config: DictConfig, loader: "_Loader", callbacks: Callbacks, task: _Task) -> None:
        self._config = config
        self._loader = loader
        context = HydraContext(config_loader=loader, callbacks=callbacks)
        self._launcher = Plugins.instance().instantiate_launcher(context, task, config)
        self._task = task

    def run(self) -> None:
        """Refuse the jobs that cannot work, and run the others."""
        jobs, task = self._jobs(), self._task
        problems = [self._problem(job) for job in jobs]
        task.is_sweep, task.total = True, problems.count(None)
        if task.total:
            self._save()
        task.started = True
        results = {
            i: task.runner.refuse(task.label(job), problem)
            for i, (job, problem) in enumerate(zip(jobs, problems, strict=True))
            if problem
        }
        task.results = [results[i] for i in sorted(results)]
        accepted = [i for i in range(len(jobs)) if i not in results]
        if accepted:
            returned = self._launcher.launch([jobs[i] for i in accepted], initial_job_idx=0)
            results |= {i: job.return_value for i, job in zip(accepted, returned, strict=True)}
        task.results = [results[i] for i in range(len(jobs))]

    def _jobs(self) -> list[list[str]]:
        params = self._config.hydra.sweeper.params or {}
        arguments = [*(f"{key}={value}" for key, value in params.items()), *self._config.hydra.overrides.task]
        values: dict[str, list[str]] = {}
        for override in OverridesParser.create(self._loader).parse_overrides(arguments):
            key = override.get_key_element()
            if override.is_sweep_override():
                if not override.is_discrete_sweep():
                    raise UsageError(
                        f"cannot sweep over {override.input_line}", f"write {key}=a,b or {key}=range(1,10)"
                    )
                few = itertools.islice(override.sweep_string_iterator(), MOST_RUNS + 1)
                values[key] = [f"{key}={value}" for value in few]
                self._task.swept += (key,)
            else:
                values[key] = [f"{key}={override.get_value_element_as_str()}"]
        if math.prod(map(len, values.values())) > MOST_RUNS:
            raise UsageError(f"this sweep has more than {MOST_RUNS} runs", "take fewer values, or several sweeps")
        return [list(job) for job in itertools.product(*values.values())]

    def _problem(self, overrides: list[str]) -> DsspBenchError | None:
        try:
            composed = self._loader.load_sweep_config(self._config, overrides)
            self._task.runner.check(_job(composed))
            self._loader.keep(overrides, composed)
        except DsspBenchError as error:
            return error
        except UNDERSTOOD as error:
            return in_our_words(error, overrides, self._loader, self._config.hydra.job.config_name)
        return None

    def _save(self) -> None:
        folder = Path(self._config.hydra.sweep.dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self._config, folder / "multirun.yaml")
        except OSError as error:
            raise ConfigurationError("runs_dir", f"cannot write to {folder}: {error.strerror}") from error


def _was_interrupt(error: BaseException | None) -> bool:
    """Whether it came of Ctrl-C: in the middle of its work OmegaConf makes an error of its own of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _composed_and_run(options: argparse.Namespace, loader: "_Loader", task: _Task) -> bool:
    """Run one job, or a sweep, as Hydra's own run and multirun do; False for what only Hydra's own main does.

    That is to show something, to run something again, or another sweeper. It composes a job twice before it is run.
    """
    if options.cfg or options.info or options.help or options.hydra_help or options.run or options.experimental_rerun:
        return False
    name = options.config_name or CONFIG_NAME
    overrides = [*options.overrides, *["hydra.mode=MULTIRUN"] * options.multirun]
    GlobalHydra.instance().initialize(Hydra("dssp-bench", loader))
    try:
        config = _composed(name, overrides, loader, options.multirun)
        if config.hydra.mode == RunMode.MULTIRUN:
            if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
                return False
            callbacks = Callbacks(config)
            callbacks.on_multirun_start(config=config, config_name=name)
            _Sweep(config, loader, callbacks, task).run()
            callbacks.on_multirun_end(config=config, config_name=name)
        else:
            _refuse_several_values(overrides, loader)
            _run_one(config, name, loader, task)
    finally:
        GlobalHydra.instance().clear()
    return True


def _composed(name: str, overrides: list[str], loader: ConfigLoader, in_sweep: bool) -> DictConfig:
    """That of one job, unless a sweep is asked for here or in a file."""
    try:
        mode = RunMode.MULTIRUN if in_sweep else RunMode.RUN
        return loader.load_configuration(name, overrides, mode, validate_sweep_overrides=False)
    except HydraException:  # for a sweep there may be groups of which only its jobs say which option is theirs
        if not in_sweep:
            with suppress(*UNDERSTOOD):
                config = _composed(name, overrides, loader, in_sweep=True)
                if config.hydra.mode == RunMode.MULTIRUN:
                    return config
        raise


def _refuse_several_values(overrides: list[str], loader: ConfigLoader) -> None:
    parsed = OverridesParser.create(loader).parse_overrides(overrides)
    ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)


def _run_one(config: DictConfig, name: str, loader: ConfigLoader, task: _Task) -> None:
    """As Hydra's run does with what it composes itself, without telling how; raises what the task raises."""
    config.hydra.mode = RunMode.RUN
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    callbacks = Callbacks(config)
    callbacks.on_run_start(config=config, config_name=name)
    context = HydraContext(config_loader=loader, callbacks=callbacks)
    done = run_job(task, config, job_dir_key="hydra.run.dir", job_subdir_key=None, hydra_context=context)
    callbacks.on_run_end(config=config, config_name=name, job_return=done)
    _ = done.return_value


def _register() -> None:
    """Make known to Hydra what conf/ refers to."""
    OmegaConf.register_new_resolver("dssp_bench.runs_dir", lambda given: str(runs_dir_of(given)), replace=True)
    OmegaConf.register_new_resolver("dssp_bench.scratch", tempfile.gettempdir, replace=True)
    setup_globals()
    version.setbase(_VERSION_BASE)


def _job(composed: DictConfig, config: DictConfig | None = None, command: str = "") -> Job:
    settings = composed.hydra
    if config is None:
        config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    overrides = tuple(settings.overrides.task)
    in_sweep = settings.mode == RunMode.MULTIRUN
    return Job(
        config={str(key): value for key, value in values.items()},
        choices=_choices(settings.runtime.choices),
        overrides=overrides,
        command=command or shlex.join(["dssp-bench", "run", *overrides]),
        sweep=Path(settings.sweep.dir).name if in_sweep else None,
        number=settings.job.num if in_sweep and not OmegaConf.is_missing(settings.job, "num") else 0,
    )


def _choices(choices: Mapping[Any, Any]) -> dict[str, str]:
    return {
        str(group): str(option)
        for group, option in choices.items()
        if option is not None and not str(group).startswith("hydra/")
    }


class _Parser(argparse.ArgumentParser):
    """Hydra's options; says what is wrong in one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, "dssp-bench run --help shows groups and keys, --hydra-help all options")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    parser.__class__ = _Parser  # Hydra offers no other way to its options
    options = parser.parse_intermixed_args(list(arguments))
    modes = {
        "-m": options.multirun,
        "--cfg": options.cfg,
        "--info": options.info,
        "--run": options.run,
        "--shell-completion": options.shell_completion,
    }
    given = [name for name, value in modes.items() if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", "a sweep has as many configurations as runs")
    if options.resolve and not (options.cfg or options.help):
        raise UsageError("--resolve goes with --cfg job", "it shows the configuration with all references resolved")
    if options.shell_completion:
        raise UsageError("-sc does not work here", "dssp-bench --install-completion installs completion for this shell")
    if options.config_dir is not None and not os.path.isdir(options.config_dir):
        raise UsageError(f"-cd {options.config_dir}: not found, or no folder", "it holds more YAML, as conf/ does")
    if options.config_path is not None and not _is_there(options.config_path):
        raise UsageError(f"-cp {options.config_path}: not found, or no folder", "it takes the place of conf/; -cd adds")
    return options


def _is_there(folder: str) -> bool:
    return os.path.isdir(folder) or "://" in folder  # the latter as in hydra.searchpath


def _absolute(folder: str) -> str:
    return folder if "://" in folder else os.path.abspath(folder)


def _reordered(arguments: Sequence[str], options: argparse.Namespace) -> list[str]:
    """With overrides first, and with a folder that is not relative to that of this module."""
    rest = list(arguments)
    for override in options.overrides:
        rest.remove(override)
    if options.config_path is not None:
        rest += ["-cp", _absolute(options.config_path)]  # the last one counts
    return [*options.overrides, *rest]


@contextmanager
def _as_command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads nothing but sys.argv, and gives its errors to nobody unless told to by the environment."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["dssp-bench run", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


class _Loader(ConfigLoaderImpl):
    """Hydra's, which composes every job of a sweep again where it is run; of this one the first are kept until then."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._kept: dict[tuple[str, ...], DictConfig] = {}

    def keep(self, overrides: Sequence[str], composed: DictConfig) -> None:
        """This is what a job with these overrides is."""
        if len(self._kept) < _MOST_KEPT:
            self._kept[tuple(overrides)] = composed

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """As Hydra's."""
        if (kept := self._kept.pop(tuple(sweep_overrides), None)) is None:
            return super().load_sweep_config(master_config, sweep_overrides)
        OmegaConf.copy_cache(from_config=master_config, to_config=kept)  # what time it is, for one
        return kept

    def __getstate__(self) -> dict[str, Any]:
        """For launchers that start processes, where it is composed again."""
        return {**self.__dict__, "_kept": {}}


def _loader(extra: str | None = None, instead: str | None = None) -> _Loader:
    search_path = create_config_search_path(str(config_dir()) if instead is None else _absolute(instead))
    if extra:
        folder = f"file://{Path(extra).absolute()}"
        search_path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    return _Loader(search_path)
