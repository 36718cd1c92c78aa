"""Small files written whole or not at all: a reader sees the old content or the new one, never a part."""

import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOOKS_EVERY_S = 1.0
_log = logging.getLogger(__name__)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, keys in the order given; what is not a finite number becomes null."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def write_yaml(path: Path, value: Any) -> None:
    """Write a value as YAML, keys in the order given."""
    text = yaml.safe_dump(plain(value, finite=False), sort_keys=False, allow_unicode=True, width=120)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk and give it its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        force_to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    force_to_disk(path.parent)


def when_there_is_room(write: Callable[[], object]) -> None:
    """Let `write` write; as long as the disk is full, wait and try again, for nothing is lost meanwhile."""
    told = False
    while True:
        try:
            write()
            return
        except OSError as error:
            if error.errno not in _FULL:
                raise
            if not told:
                _log.warning("%s; waiting for room, without which the records would be lost", error)
            told = True
        time.sleep(_LOOKS_EVERY_S)


def plain(value: Any, finite: bool = True) -> Any:
    """The value made of dicts, lists, strings and numbers only; with `finite`, nan and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, finite) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return plain(value.tolist(), finite)
    if isinstance(value, float):
        return value if math.isfinite(value) or not finite else None
    return str(value)


def force_to_disk(path: Path) -> None:
    """Return when the file, or the folder's list of names, would survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
