"""Errors as the user sees them: at most four lines, without a traceback."""

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.experiment.spec import ConfigurationErrors

USAGE = 2
"""The exit code of a command that could not be understood."""

FAILED = 1
"""The exit code when a run failed."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells count it."""

_LINES = 4
_LEAST_WIDTH = 40


class UsageError(DsspBenchError):
    """A command line that cannot be understood; `hint` says what would be right."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


def show_error(error: DsspBenchError, title: str = "error") -> None:
    """Print the error to stderr."""
    console = Console(stderr=True, highlight=False)
    width = max(console.width, _LEAST_WIDTH)
    for i, line in enumerate(error_lines(error, width, title)):
        text = Text(line)  # no markup: messages may contain square brackets
        if i == 0:
            text.stylize("bold red", 0, len(title) + 1)
        console.print(text, soft_wrap=True)


def error_lines(error: DsspBenchError, width: int = 100, title: str = "error") -> list[str]:
    """What to print: each problem with its key, and what would be right; never more than four lines of that width."""
    errors = error.errors if isinstance(error, ConfigurationErrors) else [error]
    if len(errors) == 1:
        return _one(errors[0], width, title)
    return _several(errors, width, title)


def problem_line(error: DsspBenchError) -> str:
    """The first problem in one line, for tables and lists."""
    first = error.errors[0] if isinstance(error, ConfigurationErrors) else error
    if isinstance(first, ConfigurationError):
        return f"{first.key}: {first.problem}"
    return " ".join(str(first).split())


def _one(error: DsspBenchError, width: int, title: str) -> list[str]:
    hint = getattr(error, "hint", "")
    hint_lines = _wrap(hint, width, "  ", 2)
    return _wrap(f"{title}: {problem_line(error)}", width, "", _LINES - len(hint_lines)) + hint_lines


def _several(errors: Sequence[DsspBenchError], width: int, title: str) -> list[str]:
    shown = errors if len(errors) < _LINES else errors[: _LINES - 2]
    lines = [f"{title}: {len(errors)} problems in the configuration"]
    for error in shown:
        hint = getattr(error, "hint", "").partition(" allowed: ")[0]
        lines += _wrap(problem_line(error) + (f" ({hint})" if hint else ""), width, "  ", 1)
    if len(shown) < len(errors):
        lines.append(f"  and {len(errors) - len(shown)} more")
    return lines


def _wrap(text: str, width: int, indent: str, most: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent or "  ",
        max_lines=most,
        placeholder=" ...",
        break_long_words=True,
        break_on_hyphens=False,
    )
