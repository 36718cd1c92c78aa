"""What TAB offers after `dssp-bench run`: groups and their options, keys, Hydra's flags."""

import os
from collections.abc import Sequence


def complete(incomplete: str, words: Sequence[str]) -> list[str]:
    """Candidates for the word under the cursor; never raises, as a traceback would end up in the user's prompt."""
    try:
        from dssp_bench.cli.compose import completions

        word, typed = _rejoin(incomplete)
        candidates = completions([w for w in words if "=" in w], word)
        if len(candidates) == 1 and candidates[0].endswith((".", "=")):
            # A lone candidate gets a space from the shell, which would be wrong after these: go one level deeper.
            candidates = completions([w for w in words if "=" in w], candidates[0]) or candidates
        return [candidate[len(word) - len(typed) :] for candidate in candidates if candidate.startswith(word)]
    except Exception:
        return []


def _rejoin(incomplete: str) -> tuple[str, str]:
    """The whole word under the cursor, and the part of it that the shell takes for the word: bash splits at `=`."""
    words = os.environ.get("COMP_WORDS", "").split()
    if not words or "=" not in words or "_TYPER_COMPLETE_ARGS" in os.environ:
        return incomplete, incomplete
    word = words.pop() if words[-1] != "=" else ""
    while words and "=" in (words[-1], word[:1]):
        word = words.pop() + word
    if "=" in words[-1:]:
        word = words.pop() + word
    return word, incomplete.rpartition("=")[2]
