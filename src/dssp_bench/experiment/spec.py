"""Everything that one run depends on, validated: from a plain mapping, as the YAML files give it, to a `RunSpec`.

Groups whose mapping has a `_target_` are built by calling what it names with the other keys, so a paradigm of one's own
needs a YAML and no registration. Every problem is collected before any is reported, under the key that the user types.
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import dssp_bench
from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.core.schedule import ScheduleClock, ScheduleScale
from dssp_bench.engines.engine import OnNan, OnWorkerLoss
from dssp_bench.engines.layout import ClusterLayout, Device
from dssp_bench.engines.options import (
    MOST_WORKERS,
    ClusterOptions,
    EngineOptions,
    FolderPath,
    LocalOptions,
    ReplayOptions,
    SimulatedOptions,
)

if TYPE_CHECKING:  # these import torch, which takes a second; whoever only needs a runs folder should not wait for it
    from dssp_bench.tasks.task import DataSource, ModelSource

DEFAULT_EPOCHS = 30.0
"""How long a run lasts if nobody says when it is over."""

_MUST_BE_GIVEN = "???"  # how a YAML marks a key without a default
_LONGEST_S = 1e6
_LONGEST_NAME = 200  # bytes, so that it fits into a folder's name beside the moment
_Positive = Annotated[float, Field(gt=0)]


class ConfigurationErrors(DsspBenchError):
    """A configuration that cannot work, with all its problems; nothing has been started."""

    def __init__(self, errors: Iterable[ConfigurationError]) -> None:
        self.errors = list(errors)
        super().__init__("; ".join(map(str, self.errors)))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OptimizerSpec(_Part):
    """Stochastic gradient descent, as in torch."""

    learning_rate: _Positive = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    nesterov: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What the update rule takes, besides the learning rate of each update."""
        return self.model_dump(exclude={"learning_rate"})

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class ScheduleSpec(_Part):
    """The learning rate over time; see `dssp_bench.core.schedule` for what its two clocks are."""

    clock: ScheduleClock = "samples"
    milestones: tuple[_Positive, ...] = ()
    gamma: _Positive = 0.1
    scale: ScheduleScale = "none"


class StopSpec(_Part):
    """When the run is over: whichever comes first of the rules that are given.

    Without any rule that is sure to end the run, `epochs: auto` means `DEFAULT_EPOCHS`; with one it means none.
    """

    epochs: _Positive | None = None
    pushes: Annotated[int, Field(ge=1)] | None = None
    updates: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve_auto(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("epochs", "auto") != "auto":
            return values
        ends = any(values.get(rule) is not None for rule in ("pushes", "updates", "seconds"))
        return {**values, "epochs": None if ends else DEFAULT_EPOCHS}

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if (self.epochs, self.pushes, self.updates, self.seconds) == (None, None, None, None):
            raise ValueError("the run might never end; give epochs, pushes, updates or seconds")
        return self


class TrackingSpec(_Part):
    """Who is told about the run, beyond the records in its folder, and whether figures are drawn there."""

    mlflow: bool = True
    figures: bool = True


class CheckpointSpec(_Part):
    """How often a run's whole state is written down, so that it can go on after whatever ends it, and how many stay.

    `every_s` is of wall time, in virtual time too; null means never, not even when the run is interrupted.
    """

    every_s: _Positive | None = 60.0
    keep: Annotated[int, Field(ge=1)] = 3


class EvaluationSpec(_Part):
    """How often the weights are evaluated, and where; `every_epochs: null` means at the start and at the end only."""

    every_epochs: _Positive | None = 1.0
    batch_size: Annotated[int, Field(ge=1)] = 1024
    device: Device = "auto"


class _General(_Part):
    """The keys that belong to no group."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    on_nan: OnNan = "stop"
    on_worker_loss: OnWorkerLoss = "continue"
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    runs_dir: FolderPath | None = None

    @field_validator("name", mode="before")
    @classmethod
    def _names_a_folder(cls, name: Any) -> Any:
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)
        if isinstance(name, str) and (name.startswith((".", "-")) or not name.isprintable() or {*"/\\"} & {*name}):
            raise ValueError(f"must do as the name of a folder, got {name!r}")
        if isinstance(name, str) and len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"must have at most {_LONGEST_NAME} bytes, got {len(name.encode())}")
        return name


@dataclass(frozen=True)
class RunSpec:
    """One experiment; `run(spec)` does the rest.

    `choices` says which file of each group was chosen, and `config` is the whole configuration as plain values, as it
    is written into the run's folder. `tags` says where the run came from, such as the sweep and the command.
    """

    paradigm: Paradigm
    cluster: ClusterLayout
    engine: EngineOptions
    model: ModelSource
    dataset: DataSource
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    stop: StopSpec
    tracking: TrackingSpec
    checkpoint: CheckpointSpec
    evaluation: EvaluationSpec
    batch_size: int
    seed: int
    on_nan: OnNan
    on_worker_loss: OnWorkerLoss
    name: str | None
    runs_dir: Path
    choices: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """Whether gradients are computed, for which the data must be there."""
        engine = self.engine
        return engine.train if isinstance(engine, SimulatedOptions) else isinstance(engine, LocalOptions)


def build_spec(config: Mapping[str, Any], choices: Mapping[str, str] | None = None) -> RunSpec:
    """The validated specification; raises `ConfigurationErrors` with every problem that it finds."""
    builder = _Builder(config)
    general, parts = _light_parts(builder)
    parts |= {group: builder.call(group, kinds()) for group, kinds in _HEAVY_GROUPS.items()}
    if not builder.errors:
        builder.errors += _contradictions(config, parts)
    if builder.errors:
        raise ConfigurationErrors(builder.errors)

    runs_dir = runs_dir_of(general.runs_dir)
    resolved = {
        **config,
        "runs_dir": str(runs_dir),
        "stop": {**config.get("stop", {}), "epochs": parts["stop"].epochs},
    }
    return RunSpec(
        **parts,
        batch_size=general.batch_size,
        seed=general.seed,
        on_nan=general.on_nan,
        on_worker_loss=general.on_worker_loss,
        name=general.name,
        runs_dir=runs_dir,
        choices=dict(choices or {}),
        config=resolved,
    )


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker that runs somewhere else has to know of an experiment."""

    cluster: ClusterLayout
    engine: ClusterOptions
    model: ModelSource
    dataset: DataSource
    batch_size: int
    seed: int


def build_worker_spec(config: Mapping[str, Any]) -> WorkerSpec:
    """A worker's part of a configuration; raises `ConfigurationErrors` with every problem that it finds."""
    builder = _Builder(config)
    general = builder.check(_General, "")
    parts = {
        "cluster": builder.check(ClusterLayout, "cluster"),
        "engine": builder.call("engine", (ClusterOptions,)),
        **{group: builder.call(group, kinds()) for group, kinds in _HEAVY_GROUPS.items()},
    }
    if builder.errors:
        raise ConfigurationErrors(builder.errors)
    return WorkerSpec(**parts, batch_size=general.batch_size, seed=general.seed)


def is_right_so_far(config: Mapping[str, Any], examples: int) -> bool:
    """Whether nothing is wrong with a run in real processes that can be seen without torch, on so many examples.

    That is all but model, data set and CUDA devices. False if a CUDA device is named, as nobody knows then.
    """
    builder = _Builder(config)
    general, parts = _light_parts(builder)
    if builder.errors or any(_named_devices(config, parts["cluster"], parts["evaluation"])):
        return False
    workers = len(parts["cluster"].workers)
    if workers > MOST_WORKERS or general.batch_size > examples // workers:
        return False
    return not any(_impossible_speeds(parts["cluster"])) and _can_be_made(runs_dir_of(general.runs_dir))


def _can_be_made(folder: Path) -> bool:
    """Whether nothing is in the way of a folder, as far as can be seen without making it."""
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def runs_dir_of(given: str | None) -> Path:
    """The folder of runs that a configuration means."""
    return Path(given).expanduser().absolute() if given else default_runs_dir()


def default_runs_dir() -> Path:
    """`runs/` of the source checkout that this package runs from, else of the current directory."""
    checkout = Path(dssp_bench.__file__).resolve().parents[2]
    is_checkout = (checkout / "pyproject.toml").is_file() and (checkout / "src" / "dssp_bench").is_dir()
    return (checkout if is_checkout else Path.cwd()) / "runs"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, if one is near enough."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _models() -> tuple[type, ...]:
    from dssp_bench.tasks.task import ModelSource

    return (ModelSource,)


def _datasets() -> tuple[type, ...]:
    from dssp_bench.tasks.task import DataSource

    return (DataSource,)


_CHECKED_GROUPS: dict[str, type[BaseModel]] = {
    "cluster": ClusterLayout,
    "optimizer": OptimizerSpec,
    "schedule": ScheduleSpec,
    "stop": StopSpec,
    "tracking": TrackingSpec,
    "checkpoint": CheckpointSpec,
    "evaluation": EvaluationSpec,
}
_MAY_BE_MISSING = ("checkpoint",)  # in configurations that were recorded before there was such a group
_CALLED_GROUPS: dict[str, Callable[[], tuple[type, ...]]] = {
    "paradigm": lambda: (Paradigm,),
    "engine": lambda: typing.get_args(EngineOptions),
}
_HEAVY_GROUPS: dict[str, Callable[[], tuple[type, ...]]] = {"model": _models, "dataset": _datasets}
"""Those whose classes import torch."""


def _light_parts(builder: _Builder) -> tuple[Any, dict[str, Any]]:
    """The keys that belong to no group, and all groups that are built without torch."""
    general = builder.check(_General, "")
    parts = {group: builder.check(schema, group) for group, schema in _CHECKED_GROUPS.items()}
    return general, parts | {group: builder.call(group, kinds()) for group, kinds in _CALLED_GROUPS.items()}


class _Builder:
    """Builds the parts of a configuration one by one and keeps the problems."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.errors: list[ConfigurationError] = []

    def check(self, schema: type[BaseModel], group: str) -> Any:
        """What the schema makes of a group, or of the keys that belong to none; None if there were problems."""
        if group:
            values = self._mapping(group)
        else:
            self._refuse_unknown(
                self.config, [*_CALLED_GROUPS, *_HEAVY_GROUPS, *_CHECKED_GROUPS, *schema.model_fields], ""
            )
            values = {key: self.config[key] for key in schema.model_fields if key in self.config}
        return None if values is None else self._build(schema, values, group)

    def call(self, group: str, kinds: tuple[type, ...]) -> Any:
        """What the group's `_target_` builds from the other keys; None if there were problems."""
        values = self._mapping(group)
        if values is None:
            return None
        target = self._locate(f"{group}._target_", values.get("_target_"), kinds)
        if target is None:
            return None
        return self._build(target, {key: value for key, value in values.items() if key != "_target_"}, group)

    def _mapping(self, group: str) -> Mapping[str, Any] | None:
        values = self.config.get(group, {} if group in _MAY_BE_MISSING else None)
        if isinstance(values, Mapping):
            return values
        if group in self.config:
            self._refuse(group, f"must be a group of keys, got {_shown(values)}")
        else:
            self._refuse(group, "is missing", f"choose one: {group}=...")
        return None

    def _locate(self, key: str, path: Any, kinds: tuple[type, ...]) -> Any:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        if not isinstance(path, str) or "." not in path:
            self._refuse(key, f"must name a {wanted}, got {_shown(path)}", "such as package.module.Class")
            return None
        module_name, _, name = path.rpartition(".")
        target = None
        if path.partition(".")[0] not in sys.stdlib_module_names:  # where none is, and whose import may do something
            try:
                target = getattr(import_module(module_name), name)
            except (Exception, SystemExit) as error:  # importing somebody's module may raise anything
                self._refuse(key, f"cannot import {_shown(path)}: {_first_line(error)}")
                return None
        if not (isinstance(target, type) and issubclass(target, kinds)):
            self._refuse(key, f"must name a {wanted}, and {_shown(path)} is none")
            return None
        return target

    def _build(self, target: Callable[..., Any], values: Mapping[str, Any], group: str) -> Any:
        prefix = f"{group}." if group else ""
        known, required = _parameters(target)
        problems = len(self.errors)
        for key in required:
            if values.get(key, _MUST_BE_GIVEN) == _MUST_BE_GIVEN:
                self._refuse(prefix + key, "must be given", f"as {prefix}{key}=...")
        if known is not None and group:
            self._refuse_unknown(values, known, prefix)
        values = {str(key): value for key, value in values.items() if known is None or key in known}
        try:
            built = target(**values) if len(self.errors) == problems else None
        except ValidationError as error:
            self.errors += _explain(error, group, target)
            return None
        except ConfigurationError as error:
            self.errors.append(error)
            return None
        except (DsspBenchError, TypeError, ValueError) as error:
            self._refuse(group or "configuration", _first_line(error))
            return None
        except Exception as error:  # somebody's own class may raise anything
            self._refuse(group, f"{type(error).__name__}: {_first_line(error)}")
            return None
        for key, value in values.items():
            self._refuse_odd_numbers(getattr(built, key, None), value, prefix + key)
        return built

    def _refuse_unknown(self, values: Mapping[str, Any], known: Iterable[str], prefix: str) -> None:
        for key in values:
            if key not in known:
                self.errors.append(unknown_key(f"{prefix}{key}", known))

    def _refuse_odd_numbers(self, built: Any, value: Any, key: str) -> None:
        """Refuse true and false where a number is wanted, which Python takes them for, infinities and the endless."""
        if isinstance(value, Mapping):
            for name, item in value.items():
                inner = built.get(name) if isinstance(built, Mapping) else getattr(built, str(name), None)
                self._refuse_odd_numbers(inner, item, f"{key}.{name}")
        elif isinstance(value, list | tuple) and isinstance(built, list | tuple):
            for i, (inner, item) in enumerate(zip(built, value, strict=False)):  # `count` may have cut a list short
                self._refuse_odd_numbers(inner, item, f"{key}.{i}")
        elif isinstance(value, bool) and type(built) in (int, float):
            self._refuse(key, f"must be a number, got {_shown(value)}")
        elif isinstance(built, float) and not isfinite(built):
            self._refuse(key, f"must be a finite number, got {_shown(value)}")
        elif type(built) is int and built.bit_length() > 63:
            self._refuse(key, f"must be less than 2 to the power of 63, got {_shown(value)}")

    def _refuse(self, key: str, problem: str, hint: str = "") -> None:
        self.errors.append(ConfigurationError(key, problem, hint))


def unknown_key(key: str, known: Iterable[str]) -> ConfigurationError:
    """The error for a key that nobody knows; `known` are the last parts of the keys that there are beside it."""
    prefix, _, name = key.rpartition(".")
    known = list(dict.fromkeys(known))
    if not known:
        return ConfigurationError(key, "there is no such key", f"{prefix} has no options")
    near = nearest(name, known)
    listed = f"allowed: {', '.join(known)}"
    if near:
        return ConfigurationError(key, "there is no such key", f"did you mean {_join(prefix, near)}? {listed}")
    return ConfigurationError(key, "there is no such key", listed)


def _parameters(target: Callable[..., Any]) -> tuple[list[str] | None, list[str]]:
    """The names of what a constructor takes (None: anything), and of what it cannot do without."""
    parameters = inspect.signature(target).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if takes_anything else [p.name for p in named], [p.name for p in named if p.default is p.empty]


def _explain(error: ValidationError, group: str, target: Any) -> Iterator[ConfigurationError]:
    for details in error.errors(include_url=False):
        location = details["loc"]
        if details["type"] == "too_short" and details["input"]:
            continue  # only because its items were refused, which is said anyway
        key = ".".join(map(str, (group, *location) if group else location)) or "configuration"
        if details["type"] == "extra_forbidden":
            yield unknown_key(key, _fields_at(target, location[:-1]))
        else:
            yield ConfigurationError(key, *_in_plain_words(details, key))


def _fields_at(schema: Any, location: Iterable[int | str]) -> Iterable[str]:
    """The keys that a schema has at a place inside it."""
    for part in location:
        if isinstance(part, str) and part in getattr(schema, "model_fields", {}):
            schema = _schema_in(schema.model_fields[part].annotation)
    return getattr(schema, "model_fields", ())


def _schema_in(annotation: Any) -> Any:
    """The schema that an annotation is about, such as that of the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_schema_in, typing.get_args(annotation))), None)


_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a group of keys",
    "model": "a group of keys",
    "dataclass": "a group of keys",
}


def _in_plain_words(details: Any, key: str) -> tuple[str, str]:
    """What is wrong, and what would be right."""
    kind: str = details["type"]
    context: dict[str, Any] = details.get("ctx", {})
    got = f"got {_shown(details['input'])}"
    if details["input"] == _MUST_BE_GIVEN or kind == "missing":
        return "must be given", ""
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"must be {words} {context[bound]:g}, {got}", ""
    if kind == "literal_error":
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        near = nearest(_shown(details["input"]), allowed)
        return f"must be one of {', '.join(allowed)}, {got}", f"did you mean {near}?" if near else ""
    if kind == "too_short" or kind == "string_too_short":
        return f"must not be empty, {got}", ""
    if kind == "string_pattern_mismatch" and key.endswith("device"):
        return f"must be auto, cpu, cuda or cuda:N, {got}", ""
    if kind == "value_error":
        return _first_line(context.get("error", details["msg"])), ""
    for prefix, words in _KINDS.items():
        if kind.startswith(prefix) and kind.endswith(("_type", "_parsing", "_number", "_from_float", "_size")):
            return f"must be {words}, {got}", "or auto" if key == "stop.epochs" else ""
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}, {got}", ""


def _contradictions(config: Mapping[str, Any], parts: Mapping[str, Any]) -> Iterator[ConfigurationError]:
    """What no part can see for itself."""
    engine = parts["engine"]
    times_only = isinstance(engine, ReplayOptions) or (isinstance(engine, SimulatedOptions) and not engine.train)
    if not times_only:
        yield from _missing_devices(config, parts["cluster"], parts["evaluation"])
    if isinstance(engine, LocalOptions):
        yield from _impossible_speeds(parts["cluster"])
    if getattr(parts["model"], "iteration_s", 0) > _LONGEST_S:
        yield ConfigurationError("model.iteration_s", f"must be at most {_LONGEST_S:g}")
    if isinstance(engine, SimulatedOptions) and not engine.train and parts["stop"].target_accuracy is not None:
        yield ConfigurationError(
            "stop.target_accuracy", "there is no accuracy without training", "set engine.train=true, or leave it out"
        )


def _impossible_speeds(cluster: ClusterLayout) -> Iterator[ConfigurationError]:
    """Real workers can be slowed down by sleeping, but not sped up."""
    hint = "real workers can only be slowed down; make the others slower, or take engine=simulated"
    factors = {f"cluster.workers.{i}.slowdown": worker.slowdown for i, worker in enumerate(cluster.workers)}
    factors |= {f"cluster.events.{i}.slowdown": event.slowdown or 1 for i, event in enumerate(cluster.events)}
    for key, factor in factors.items():
        if factor < 1:
            yield ConfigurationError(key, f"must be at least 1, got {factor:g}", hint)


def _missing_devices(
    config: Mapping[str, Any], cluster: ClusterLayout, evaluation: EvaluationSpec
) -> Iterator[ConfigurationError]:
    wanted = _named_devices(config, cluster, evaluation)
    if not wanted:
        return
    import torch

    there = torch.cuda.device_count()
    for key, device in wanted.items():
        if int(device.partition(":")[2] or 0) >= there:
            yield ConfigurationError(key, f"this machine has no {device}", _devices(there))


def _named_devices(config: Mapping[str, Any], cluster: ClusterLayout, evaluation: EvaluationSpec) -> dict[str, str]:
    """The CUDA devices that are asked for, by the key that asks for them."""
    wanted = {"evaluation.device": evaluation.device, "cluster.server.device": cluster.server.device}
    if "ClusterOptions" in str(config["engine"].get("_target_")):
        return {key: device for key, device in wanted.items() if device.startswith("cuda")}  # workers have their own
    listed = len(config["cluster"]["workers"])  # `count` may have repeated the list, or cut it short
    for i, worker in enumerate(cluster.workers[:listed]):
        wanted[f"cluster.workers.{i}.device"] = worker.device
    return {key: device for key, device in wanted.items() if device.startswith("cuda")}


def _devices(count: int) -> str:
    if count == 0:
        return "it has no CUDA device; allowed: auto, cpu"
    last = f" to cuda:{count - 1}" if count > 1 else ""
    return f"it has {count} CUDA device{'s' if count > 1 else ''}; allowed: auto, cpu, cuda:0{last}"


def _shown(value: Any) -> str:
    """A value as the user would write it, not too long."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    try:
        text = value if isinstance(value, str) and value.isalnum() else repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        return "something endless"
    return text if len(text) <= 40 else text[:37] + "..."


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
