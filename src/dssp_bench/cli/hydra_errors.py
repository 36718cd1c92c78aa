"""What Hydra, OmegaConf and YAML complain about, said as errors of ours: the culprit, and what would be right."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import ConfigIndexError, OmegaConfBaseException

from dssp_bench.cli.errors import UsageError
from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.experiment.spec import nearest, unknown_key

CONFIG_NAME = "config"
UNDERSTOOD = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RuntimeError)
"""What composing may raise because of what the user wrote."""


def config_dir() -> Path:
    """The folder of YAML files: within the installed package, or at the root of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def in_our_words(
    error: Exception,
    overrides: Sequence[str],
    loader: ConfigLoader,
    config_name: str | None = None,
    extra: str | None = None,
) -> DsspBenchError:
    """What Hydra, OmegaConf or YAML complain about, as an error of ours: the culprit, and what would be right."""
    if isinstance(error, RecursionError):
        return UsageError("something in the configuration is nested too deeply", "or refers to itself")
    if isinstance(error, MissingConfigException):
        return _missing(error, extra)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        where = f"{_short(error.problem_mark.name)}, line {error.problem_mark.line + 1}"
        return UsageError(f"{where} is not YAML: {error.problem or error.context}", "brackets, quotes and indentation?")
    if isinstance(error, OmegaConfBaseException):
        return ConfigurationError(str(error.full_key or "configuration"), first_line(error))
    if isinstance(error, ConfigCompositionException):
        known_keys = _KnownKeys(overrides, loader, config_name or CONFIG_NAME)
        for pattern, words in _COMPOSITION_ERRORS:
            if match := re.search(pattern, str(error)):
                return words(match.group(1), error, known_keys)
    return _unexplained(error, overrides, loader, config_name or CONFIG_NAME)


def _missing(error: MissingConfigException, extra: str | None) -> DsspBenchError:
    if error.missing_cfg_file is None:
        return UsageError(" ".join(str(error).split()), "-cp DIR takes the place of conf/; -cd DIR adds to it")
    path = error.missing_cfg_file
    group, _, name = path.rpartition("/")
    if error.options is None:
        folders = [config_dir(), *([Path(extra)] if extra else [])]
        there = sorted(file.stem for folder in folders for file in folder.glob("*.yaml"))
        return UsageError(
            f"there is no configuration {path!r} for -cn", f"there is {', '.join(there)}; -cd DIR adds a folder of more"
        )
    allowed = f"allowed: {', '.join(error.options)}"
    if not name:
        return ConfigurationError(group, "must name one of its files", allowed)
    near = nearest(name, error.options)
    meant = f"did you mean {group}={near}? " if near else ""
    return ConfigurationError(group, f"there is no {group}={name}", meant + allowed)


def _unreadable(override: str) -> DsspBenchError:
    if "=" not in override:
        return UsageError(f"cannot read {override!r}: there is no = in it", "write GROUP=OPTION or KEY=VALUE")
    key, _, value = override.partition("=")
    if value.rstrip().endswith(","):
        return UsageError(f"cannot read {override!r}: nothing after the last comma", f"write {key}=a,b or {key}=a")
    return UsageError(
        f"cannot read {override!r}: its value is not closed, or needs quotes",
        f"lists and groups: '{key}=[1,2]' or '{key}={{a: 1}}'; text with =, : or brackets: '{key}=\"...\"'",
    )


def _unexplained(error: Exception, overrides: Sequence[str], loader: ConfigLoader, config_name: str) -> DsspBenchError:
    """What nobody here knows, in its own words, with the key of the first override with which it fails."""
    for i, override in enumerate(overrides):
        try:
            loader.load_configuration(config_name, [*overrides[: i + 1]], RunMode.RUN)
        except Exception as own:
            key = override.partition("=")[0].lstrip("+~")
            return ConfigurationError(key, first_line(own)) if key else _unreadable(override)
    return UsageError(first_line(error))


class _KnownKeys:
    """What keys there are, given the groups that were chosen."""

    def __init__(self, overrides: Sequence[str], loader: ConfigLoader, config_name: str) -> None:
        self._overrides = overrides
        self._loader = loader
        self._config_name = config_name

    def unknown(self, key: str) -> DsspBenchError:
        """The error for a key that does not exist."""
        node: Any = self._config()
        parent: list[str] = []
        for part in key.split("."):
            if isinstance(node, ListConfig) and part.isdecimal() and int(part) < len(node):
                node = node._get_node(int(part))
                parent.append(part)
                continue
            if not isinstance(node, DictConfig):
                return ConfigurationError(key, f"{'.'.join(parent)} holds a value and has no keys of its own")
            if part not in node:
                break
            parent.append(part)
            node = node._get_node(part)
        if len(parent) > key.count("."):
            return ConfigurationError(key, "something in its value has no place there", f"++{key}=... puts it there")
        name = key.split(".")[len(parent)]
        known = [str(k) for k in node if not str(k).startswith("_") and (parent or k != "hydra")]
        return self._in_other_option(parent, name, known) or unknown_key(".".join([*parent, name]), known)

    def _in_other_option(self, parent: list[str], name: str, known: list[str]) -> DsspBenchError | None:
        """If the key, or a near one, belongs to another option of the group than the one chosen."""
        if len(parent) != 1 or nearest(name, known):
            return None
        group = parent[0]
        for file in sorted((config_dir() / group).glob("*.yaml")):
            values = yaml.safe_load(file.read_text())
            near = nearest(name, [key for key in values if key != "_target_"]) if isinstance(values, dict) else None
            if near:
                listed = f"allowed: {', '.join(known)}" if known else f"the {group} chosen has no options"
                owner = f"of {group}={file.stem}"
                hint = (
                    f"it is one {owner}; {listed}"
                    if near == name
                    else f"did you mean {group}.{near}, {owner}? {listed}"
                )
                return ConfigurationError(f"{group}.{name}", f"the {group} chosen has no such key", hint)
        return None

    def _config(self) -> DictConfig:
        chosen = [o for o in self._overrides if self._loader.get_group_options(o.partition("=")[0].lstrip("+"))]
        try:
            return self._loader.load_configuration(self._config_name, chosen, RunMode.RUN)
        except Exception:  # only for a suggestion, so without the overrides that make it fail
            return self._loader.load_configuration(CONFIG_NAME, [], RunMode.RUN)


def _several_values(override: str, error: Exception, keys: _KnownKeys) -> DsspBenchError:
    key, _, values = override.partition("=")
    a_list = "" if "(" in values else f"; a list is written '{key}=[{values}]'"
    return ConfigurationError(key, "several values", f"-m runs once for each{a_list}")


def _bad_value(override: str, error: Exception, keys: _KnownKeys) -> DsspBenchError:
    key = override.partition("=")[0]
    if isinstance(error.__cause__, ConfigIndexError):
        return ConfigurationError(key, "the list has no such entry", "entries count from 0")
    return ConfigurationError(key, first_line(error.__cause__ or error))


_COMPOSITION_ERRORS: list[tuple[str, Callable[[str, Exception, _KnownKeys], DsspBenchError]]] = [
    (r"Could not override '([^']+)'\.\nTo append", lambda key, error, keys: keys.unknown(key)),
    (r"Ambiguous value for argument '(.+)'", _several_values),
    (r"Sweep parameters '(.+)' requires --multirun", _several_values),
    (r"Error merging override (.+)", _bad_value),
    (
        r"Multiple values for (\S+)\. To override",
        lambda key, error, keys: ConfigurationError(
            key, "is chosen already", "leave out the +; in a file: override /..."
        ),
    ),
    (
        r"Could not append to config. An item is already at '([^']+)'",
        lambda key, error, keys: ConfigurationError(key, "is there already", "leave out the +"),
    ),
    (
        r"Could not delete from config. '([^']+)' does not exist",
        lambda key, error, keys: ConfigurationError(key, "is not there, so ~ cannot delete it"),
    ),
]


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
