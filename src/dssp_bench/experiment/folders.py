"""Where the folder is that somebody means by a path or by a run's name."""

import os
from pathlib import Path


def folders_of(run: str, *parents: Path) -> list[Path]:
    """The folders that are there by this path, in which `~` is a home, or by this name beneath one of the parents.

    A path that can be none, as one in the home of nobody, is none.
    """
    places = [expanded(run), *(parent / run for parent in parents)]
    return [place for place in places if os.path.isdir(place)]


def expanded(path: str) -> Path:
    """The path with its home, if there is one."""
    return Path(os.path.expanduser(path))  # pathlib's raises for the home of nobody


def is_there(path: str) -> bool:
    """Whether there is something; no if the system takes no such path."""
    return os.path.exists(expanded(path))
