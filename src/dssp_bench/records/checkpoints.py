"""Checkpoints on disk: each a folder that is whole, or is refused.

`checkpoints/<number>/` in a run's folder holds `tensors.safetensors`, `state.json` and `manifest.json`, which has the
size and the SHA-256 of the two others. The state names the streams of records that belong to it, with size and SHA-256
of what they held. A checkpoint is written under another name, forced to disk, and then gets its own; so a kill or a
full disk costs the new one and never an older one. Nothing is unpickled, and no tensor or state is parsed before its
hash is right.
"""

import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dssp_bench.core.errors import DsspBenchError, RecordsError
from dssp_bench.records.files import force_to_disk
from dssp_bench.records.schema import STREAMS

FOLDER = "checkpoints"
_STATE, _TENSORS, _MANIFEST = "state.json", "tensors.safetensors", "manifest.json"
_CHUNK = 1 << 20
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_PUT_AWAY = "records"  # where the streams of an interrupted run wait for it to go on

Tensors = Mapping[str, NDArray[Any]]


class Checkpoint(NamedTuple):
    """One valid checkpoint, and its state; the tensors are read when they are asked for."""

    folder: Path
    state: dict[str, Any]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors by name. Raises RecordsError if they have changed since they were checked."""
        try:
            content = (self.folder / _TENSORS).read_bytes()
        except OSError as error:
            raise RecordsError(_unread(self.folder / _TENSORS, error)) from error
        if sha256(content).hexdigest() != _manifest(self.folder)[_TENSORS]["sha256"]:
            raise RecordsError(f"{self.folder / _TENSORS} is damaged")
        from safetensors.numpy import load

        return dict(load(content))


class CheckpointStore:
    """Writes the checkpoints of one run and keeps the newest few of them; one at a time, from any thread."""

    def __init__(self, run_folder: Path, keep: int) -> None:
        self._run_folder = run_folder
        self._folder = run_folder / FOLDER
        self._keep = keep
        self._hashes = {name: _StreamHash(run_folder / f"{name}.arrows") for name in STREAMS}

    def save(self, state: Mapping[str, Any], tensors: Tensors) -> Path:
        """Write one checkpoint, whose `records` in the state say how long each stream was. Raises OSError.

        It is whole and on disk when this returns; if it raises, nothing of it is left.
        """
        from safetensors.numpy import save

        streams = {name: self._hashes[name].of_first(size) for name, size in state["records"].items()}
        content = {
            _TENSORS: save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}),
            _STATE: json.dumps({**state, "records": streams}, indent=1).encode(),
        }
        content[_MANIFEST] = _canonical({name: _facts(part) for name, part in content.items()})
        self._folder.mkdir(exist_ok=True)
        number = max(_numbers(self._folder), default=0) + 1
        unfinished = self._folder / f".{number:06}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir()
            for name, part in content.items():
                (unfinished / name).write_bytes(part)
                force_to_disk(unfinished / name)
            force_to_disk(unfinished)
            final = unfinished.rename(self._folder / f"{number:06}")
            force_to_disk(self._folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        for old in _numbers(self._folder)[: -self._keep]:
            shutil.rmtree(self._folder / f"{old:06}", ignore_errors=True)
        return final


def newest(run_folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is valid, records included, and what was wrong with those that are newer.

    Raises RecordsError if none is, but one could not be read and may be valid all the same.
    """
    refused: list[str] = []
    unread = ""
    try:
        for number in reversed(_numbers(run_folder / FOLDER)):
            folder = run_folder / FOLDER / f"{number:06}"
            try:
                return checked(folder), refused
            except DsspBenchError as error:
                refused.append(str(error))
            except OSError as error:
                refused.append(_unread(folder, error))
                unread = unread or refused[-1]
    except OSError as error:
        unread = _unread(run_folder / FOLDER, error)
    if unread:
        raise RecordsError(unread)
    return None, refused


def checked(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, if every byte of it and of its records is as it was written.

    Raises RecordsError, or OSError if that cannot be seen.
    """
    manifest = _manifest(folder)
    for name, facts in manifest.items():
        if _facts_of_first(folder / name, facts["bytes"], whole=True) != facts:
            raise RecordsError(f"{folder / name} is damaged")
    state: dict[str, Any] = json.loads((folder / _STATE).read_bytes())
    for name, facts in state["records"].items():
        stream = stream_of(folder.parents[1], name)
        if _facts_of_first(stream, facts["bytes"]) != facts:
            raise RecordsError(f"{stream} is damaged, or is not of {folder}")
    return Checkpoint(folder, state)


def stream_of(run_folder: Path, name: str) -> Path:
    """Where a stream of records is: in the run's folder while it goes on, or beside its checkpoints."""
    away = run_folder / FOLDER / _PUT_AWAY / f"{name}.arrows"
    return away if away.exists() else run_folder / f"{name}.arrows"


def put_streams_away(run_folder: Path) -> None:
    """The run is over: its streams are kept beside its checkpoints, if there are any, and else removed."""
    away = run_folder / FOLDER / _PUT_AWAY
    if keeps := bool(_numbers(run_folder / FOLDER)):
        away.mkdir(exist_ok=True)
    for name in STREAMS:
        stream = run_folder / f"{name}.arrows"
        if keeps and stream.exists():
            stream.replace(away / stream.name)
        else:
            stream.unlink(missing_ok=True)


def bring_streams_back(run_folder: Path) -> None:
    """The run goes on: its streams are where they grow, and what was made of them is gone."""
    for name in STREAMS:
        (run_folder / f"{name}.parquet").unlink(missing_ok=True)
        if (away := stream_of(run_folder, name)) != (stream := run_folder / f"{name}.arrows"):
            away.replace(stream)


def remove_checkpoints(run_folder: Path) -> None:
    """The run has finished: nothing will go on from here."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)


class _StreamHash:
    """The SHA-256 of a growing file's first bytes, of which each is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = sha256()
        self._size = 0

    def of_first(self, size: int) -> dict[str, Any]:
        """Of so many bytes, never fewer than the last time; they are on disk when this returns."""
        with self._path.open("rb") as file:
            os.fsync(file)
            file.seek(self._size)
            while self._size < size and (part := file.read(min(_CHUNK, size - self._size))):
                self._hash.update(part)
                self._size += len(part)
        return {"bytes": self._size, "sha256": self._hash.hexdigest()}


def _facts(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": sha256(content).hexdigest()}


def _facts_of_first(path: Path, size: int, whole: bool = False) -> dict[str, Any] | None:
    """Size and hash of a file's first bytes; None if it is not there, shorter, or longer and should not be."""
    try:
        with path.open("rb") as file:
            there = os.fstat(file.fileno()).st_size
            if there < size or (whole and there > size):
                return None
    except _NOT_THERE:
        return None
    return _StreamHash(path).of_first(size)


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each file. Raises RecordsError if a single bit is not as it was written, and OSError."""
    path = folder / _MANIFEST
    try:
        content = path.read_bytes()
        manifest: dict[str, dict[str, Any]] = json.loads(content)
        right = _canonical(manifest) == content and sorted(manifest) == sorted((_STATE, _TENSORS))
        right = right and all(
            sorted(facts) == ["bytes", "sha256"] and type(facts["bytes"]) is int for facts in manifest.values()
        )
    except (*_NOT_THERE, ValueError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise RecordsError(f"{path} is damaged, or is not there")
    return manifest


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def _unread(path: Path, error: OSError) -> str:
    return f"{error.filename or path} cannot be read: {error.strerror or error}"


def _numbers(folder: Path) -> list[int]:
    """The numbers of the checkpoints; none if there is no such folder. Raises OSError, which glob would swallow."""
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdecimal() and name.isascii())
    except _NOT_THERE:
        return []
