"""Where data sets are kept."""

from pathlib import Path

DEFAULT_ROOT = "~/.cache/dssp-bench/data"


def folder(root: str) -> Path:
    """The absolute folder that a `root` option means; `~` is the home folder."""
    return Path(root).expanduser().absolute()
