"""Which runs are meant: by folder, name, sweep or MLflow's id, and by what their configuration and summary say."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dssp_bench.analysis.arms import Condition, flat, shown
from dssp_bench.core.errors import ConfigurationError, RecordsError
from dssp_bench.experiment.folders import folders_of, is_there
from dssp_bench.experiment.mlflow_store import name_by_id
from dssp_bench.experiment.spec import nearest, unknown_key
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.schema import TABLES

SWEEPS = "sweeps"
_MOST_VALUES = 12


class Selection(NamedTuple):
    """Finished runs in the order of their folders' names, and how many of those meant were left out, by the reason."""

    runs: list[RunRecords]
    left_out: dict[str, int]


def select(selectors: Sequence[str], runs_dir: Path) -> Selection:
    """The finished runs that are meant. Raises ConfigurationError if there are none, or a selector is not understood.

    A selector is one of

    - a run's folder, or its name under `runs_dir`
    - a folder that contains runs
    - a sweep: its folder, or its name under `runs_dir/sweeps`
    - the id of a run in MLflow, 32 hexadecimal digits
    - `KEY=VALUE[,VALUE...]`, where the key is a group (`paradigm=ssp`), a key of the configuration
      (`paradigm.threshold=3`), one of the summary (`engine=local`) or a tag (`sweep=...`)

    Several of the first four add up; without any, all runs under `runs_dir` are meant. Of them, those are taken for
    which all conditions hold. Replays are left out, as they are what another run was.
    """
    conditions = list(filter(None, map(_condition, selectors)))
    names = [selector for selector in selectors if _condition(selector) is None]
    folders = _unique(folder for name in names for folder in _named(name, runs_dir)) if names else _all(runs_dir)
    meant = [run for run in map(_Run, folders) if all(run.fulfils(condition) for condition in conditions)]
    if not meant:
        raise _nothing(conditions, [_Run(folder) for folder in folders], runs_dir)
    left_out = Counter(filter(None, (run.reason_to_leave_it_out for run in meant)))
    runs = [run.records for run in meant if not run.reason_to_leave_it_out]
    if not runs:
        raise ConfigurationError(
            "RUNS", f"none of them can be compared: {in_words(left_out)}", "see their summary.json"
        )
    return Selection(sorted(runs, key=lambda run: run.folder.name), dict(left_out))


def in_words(left_out: dict[str, int]) -> str:
    """As in `2 failed, 1 not finished`."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items()))


# --- folders ---


def _condition(selector: str) -> Condition | None:
    return None if is_there(selector) else Condition.parsed(selector)


def _all(runs_dir: Path) -> list[Path]:
    folders = _runs_in(runs_dir)
    if not folders:
        raise ConfigurationError(
            "runs_dir", f"there are no runs under {runs_dir}", "start some with `dssp-bench run`, or say --runs-dir"
        )
    return folders


def _named(name: str, runs_dir: Path) -> list[Path]:
    """The folders of the runs that a name or a path stands for. Raises ConfigurationError."""
    there = folders_of(name, runs_dir, runs_dir / SWEEPS)
    for place in there:
        if folders := _runs_at(place.absolute()):
            return folders
    if re.fullmatch("[0-9a-f]{32}", name):
        return [_of_mlflow(name, runs_dir)]
    if there:
        raise ConfigurationError(name, "holds no runs", "give a run's folder, or one that contains such folders")
    near = nearest(name, [folder.name for place in (runs_dir, runs_dir / SWEEPS) for folder in _folders_in(place)])
    hint = f"did you mean {near}?" if near else f"runs are under {runs_dir}; --runs-dir says others"
    raise ConfigurationError("RUNS", f"there is no run, sweep or folder {name!r}", hint)


def _runs_at(place: Path) -> list[Path]:
    if _is_run(place):
        return [place]
    if place.parent.name == SWEEPS:
        runs = _runs_in(place.parent.parent)
        return [folder for folder in runs if _tags(RunRecords(folder)).get("sweep") == place.name]
    return _runs_in(place)


def _of_mlflow(run_id: str, runs_dir: Path) -> Path:
    hint = "give the run's folder instead"
    try:
        name = name_by_id(runs_dir, run_id)
    except RecordsError as error:
        raise ConfigurationError("RUNS", str(error), hint) from error
    if name is None or not _is_run(runs_dir / name):
        raise ConfigurationError("RUNS", f"MLflow knows no run {run_id} whose folder is under {runs_dir}", hint)
    return runs_dir / name


def _runs_in(folder: Path) -> list[Path]:
    return sorted(filter(_is_run, _folders_in(folder)))


def _folders_in(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from (folder / entry.name for entry in entries if entry.is_dir())
    except OSError:
        return


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() or (folder / "pushes.parquet").exists()


def _unique(folders: Iterable[Path]) -> list[Path]:
    return list({folder.resolve(): folder for folder in folders}.values())


def _tags(records: RunRecords) -> dict[str, Any]:
    try:
        return dict((records.environment or {}).get("tags", {}))
    except RecordsError:
        return {}


# --- what a run says of itself ---


class _Run:
    """One folder, of which no more is read than the question needs: the configuration takes longer than the summary."""

    def __init__(self, folder: Path) -> None:
        self.records = RunRecords(folder)

    def fulfils(self, condition: Condition) -> bool:
        """Whether the condition holds; it does not if the run says nothing of its key."""
        value = self.value(condition.key)
        return value is not None and condition.holds(value)

    def value(self, key: str) -> str | None:
        """What the run says of a key, as one would type it; None if it says nothing.

        One source after the other is asked, and most often the first one knows.
        """
        return next((shown(facts[key]) for facts in self._facts() if key in facts), None)

    @property
    def keys(self) -> set[str]:
        """All that it says something of."""
        return {key for facts in self._facts() for key in facts}

    @cached_property
    def reason_to_leave_it_out(self) -> str:
        """Why it cannot be compared, in a word or two; empty if it can."""
        try:
            summary = self.records.summary
            if summary is None:
                return "not finished"
            if summary["status"] != "finished":
                return str(summary["status"])
            if summary["engine"] == "replay":
                return "replayed"
            if not self.records.finished or "seed" not in self.records.config:
                return "incomplete"
            for part in ("environment", *TABLES):
                getattr(self.records, part)  # which keeps what it has read
        except (RecordsError, LookupError, TypeError):
            return "unreadable"
        return ""

    def _facts(self) -> Iterator[dict[str, Any]]:
        yield self._summary
        yield self._choices
        yield self._settings
        yield _tags(self.records)

    @cached_property
    def _summary(self) -> dict[str, Any]:
        try:
            summary = self.records.summary or {}
        except RecordsError:
            return {}
        return {key: value for key, value in summary.items() if not isinstance(value, dict | list)}

    @cached_property
    def _config(self) -> dict[str, Any]:
        try:
            return dict(self.records.config)
        except (RecordsError, TypeError, ValueError):
            return {}

    @property
    def _choices(self) -> dict[str, Any]:
        return {"experiment": None, **self._config.get("choices", {})}

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return flat({key: value for key, value in self._config.items() if key != "choices"})


def _nothing(conditions: Sequence[Condition], runs: Sequence[_Run], runs_dir: Path) -> ConfigurationError:
    """Why no run fulfils the conditions: a key or a value that no run has, or none has all of them."""
    for condition in conditions:
        if any(run.fulfils(condition) for run in runs):
            continue
        values = sorted({value for run in runs if (value := run.value(condition.key)) is not None})
        if not values:
            return _unknown(condition.key, {key for run in runs for key in run.keys})
        near = nearest(condition.values[0], values)
        listed = ", ".join(values[:_MOST_VALUES]) + (", ..." if len(values) > _MOST_VALUES else "")
        hint = (f"did you mean {near}? " if near else "") + f"there are: {listed}"
        return ConfigurationError(condition.key, f"no run has {' or '.join(condition.values)}", hint)
    wanted = " and ".join(map(str, conditions))
    return ConfigurationError("RUNS", f"no run under {runs_dir} has {wanted}", "each alone has some")


def _unknown(key: str, known: set[str]) -> ConfigurationError:
    prefix = key.rpartition(".")[0]
    beside = {other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == prefix}
    if beside:
        return unknown_key(key, sorted(beside))
    near = nearest(key, known)
    return ConfigurationError(key, "there is no such key", f"did you mean {near}?" if near else "")
