"""Where data sets are kept."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

DEFAULT_ROOT = "~/.cache/dssp-bench/data"


def _expands(root: str) -> str:
    try:
        expanded = os.fsencode(folder(root))
    except (RuntimeError, ValueError):  # the home of nobody, or what no file system takes
        expanded = b"\0"
    if b"\0" in expanded:
        raise ValueError(f"must do as the path of a folder, got {root[:40]!r}")
    return root


Root = Annotated[str, Field(min_length=1), AfterValidator(_expands)]
"""The path of a folder, which need not be there; `~` is a home."""


def folder(root: str) -> Path:
    """The absolute folder that a `root` option means; `~` is the home folder."""
    return Path(root).expanduser().absolute()
