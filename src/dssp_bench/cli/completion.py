"""What TAB offers after `dssp-bench run`: groups and their options, keys and their values."""

import os
from collections.abc import Sequence


def complete(words: Sequence[str], incomplete: str) -> list[str]:
    """Candidates for the word under the cursor; never raises, as a traceback would end up in the user's prompt."""
    try:
        return _candidates(words, incomplete)
    except Exception:
        return []


def _candidates(words: Sequence[str], incomplete: str) -> list[str]:
    from dssp_bench.cli.compose import completions

    skip = 0
    if "COMP_CWORD" in os.environ:
        words, incomplete = join_words_of_bash(os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"]))
        skip = incomplete.rfind("=") + 1  # bash completes only what follows
    overrides = [word for word in words if "=" in word or word == "-m"]
    found = completions(overrides, incomplete)
    if len(found) == 1 and found[0].endswith((".", "=")):
        # The shell adds a space after a lone candidate, which would be wrong here: go one level deeper.
        found = completions(overrides, found[0]) or found
    return [candidate[skip:] for candidate in found if candidate.startswith(incomplete)]


def join_words_of_bash(words: Sequence[str], current: int) -> tuple[list[str], str]:
    """The words before the cursor and the one under it; bash makes three words of `key=value`."""
    joined: list[str] = []
    for word in words[: current + 1]:
        if joined and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    return joined[:-1], joined[-1] if joined else ""
