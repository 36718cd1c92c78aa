"""A run that came to no end: what it was, and where it was left."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dssp_bench.core.errors import ConfigurationError, RecordsError
from dssp_bench.core.messages import SECOND, Event
from dssp_bench.engines.checkpoints import FORMAT, Past
from dssp_bench.engines.options import ReplayOptions
from dssp_bench.experiment.replay import events_of
from dssp_bench.experiment.spec import RunSpec, build_spec
from dssp_bench.records.checkpoints import Checkpoint, bring_streams_back, newest
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.schema import PUSHES, STREAMS, TABLES
from dssp_bench.records.streams import read_stream

_log = logging.getLogger(__name__)


def left_spec(folder: Path) -> RunSpec:
    """What the run in this folder was made from; its folder is what it says now. Raises ConfigurationError."""
    recorded = RunRecords(folder)
    try:
        config, status = recorded.config, (recorded.summary or {}).get("status")
        surroundings = recorded.environment or {}
    except RecordsError as error:
        raise ConfigurationError("RUN", str(error)) from error
    if status == "finished":
        raise ConfigurationError("RUN", f"{folder.name} has finished", "nothing is left to be done")
    config = {**config, "runs_dir": str(folder.parent)}
    spec = build_spec(config, config.pop("choices", {}))
    if isinstance(spec.engine, ReplayOptions):
        raise ConfigurationError("RUN", f"{folder.name} is a replay", "start it again")
    tags = {"command": str(surroundings.get("command", "")), **_texts(surroundings.get("tags"))}
    return replace(spec, name=folder.name, tags=tags)


def _texts(tags: object) -> dict[str, str]:
    return {str(key): str(tag) for key, tag in tags.items()} if isinstance(tags, dict) else {}


def left_state(folder: Path) -> Past | None:
    """Where the run was left, as its newest valid checkpoint has it; None if it must begin again.

    From now on the folder is that of a run that goes on: what was made at its end is gone. If the run begins again, all
    that it had made is put aside. Raises ConfigurationError if a checkpoint may be valid but cannot be read, or is
    another version's.
    """
    try:
        checkpoint, refused = newest(folder)
    except RecordsError as error:
        hint = f"make it readable; without {folder.name}/checkpoints the run begins again"
        raise ConfigurationError("RUN", str(error), hint) from error
    for reason in refused:
        _log.warning("%s; the checkpoint before it is tried", reason)
    if checkpoint is None:
        aside = _put_aside(folder)
        kept = f"; what it had made is in {aside}" if aside else ""
        _log.warning("%s has no checkpoint to go on from; it begins again%s", folder.name, kept)
        return None
    _check_format(checkpoint)
    (folder / "summary.json").unlink(missing_ok=True)
    bring_streams_back(folder)
    pushes = folder / "pushes.arrows"
    return Past(checkpoint.state, partial(_tensors, checkpoint), partial(_events, pushes, checkpoint.state))


def _put_aside(folder: Path) -> Path | None:
    """Move what a run has made into a folder of its own beneath the run's, and say which; None if there is nothing."""
    names = ["checkpoints", "summary.json", *(f"{name}.arrows" for name in STREAMS)]
    there = [path for name in (*names, *(f"{name}.parquet" for name in TABLES)) if (path := folder / name).exists()]
    if not there:
        return None
    aside = folder / f"before-{datetime.now(UTC):%Y%m%dT%H%M%S-%fZ}"
    aside.mkdir()
    for path in there:
        path.rename(aside / path.name)
    return aside


def _check_format(checkpoint: Checkpoint) -> None:
    if (found := checkpoint.state.get("format")) != FORMAT:
        problem = f"{checkpoint.folder} has format {found!r}, and this version reads {FORMAT}"
        raise ConfigurationError("RUN", problem, "go on with the version that made it")


def where_it_was_left(past: Past | None) -> dict[str, Any]:
    """The same for people."""
    return {"after_pushes": past.state["pushes"] if past else 0, "at_s": past.left_at / SECOND if past else 0.0}


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in checkpoint.tensors().items()}


def _events(stream: Path, state: dict[str, Any]) -> Iterator[Event]:
    pushes = read_stream(stream, PUSHES).slice(0, state["pushes"])
    return events_of(pushes, state["membership"])
