"""What TAB offers, in shells that split words at `=` and in shells that do not."""

import os
import subprocess
import sys

import pytest

from dssp_bench.cli.completion import complete, join_words_of_bash


@pytest.mark.parametrize(
    ("words", "typed", "offered"),
    [
        ([], "parad", ["paradigm.", "paradigm="]),
        ([], "paradigm=", ["paradigm=asp", "paradigm=bsp", "paradigm=dssp", "paradigm=ssp"]),
        ([], "paradigm=d", ["paradigm=dssp"]),
        (["paradigm=ssp"], "paradigm.th", ["paradigm.threshold=3"]),
        ([], "cluster.server.rep", ["cluster.server.reply_per_key_s=", "cluster.server.reply_s="]),
        ([], "nothing.like.this", []),
        (["seed=["], "see", []),
    ],
)
def test_groups_options_and_keys_are_offered(words: list[str], typed: str, offered: list[str]) -> None:
    assert complete(words, typed) == offered


@pytest.mark.parametrize(
    ("words", "current", "joined"),
    [
        (["dssp-bench", "run", "paradigm", "=", "d"], 4, (["dssp-bench", "run"], "paradigm=d")),
        (["dssp-bench", "run", "paradigm", "="], 3, (["dssp-bench", "run"], "paradigm=")),
        (["dssp-bench", "run", "a", "=", "1", "see"], 5, (["dssp-bench", "run", "a=1"], "see")),
        (["dssp-bench", "run", ""], 2, (["dssp-bench", "run"], "")),
    ],
)
def test_bash_makes_three_words_of_one(words: list[str], current: int, joined: tuple[list[str], str]) -> None:
    assert join_words_of_bash(words, current) == joined


def test_bash_gets_only_what_follows_the_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "dssp-bench\nrun\nparadigm\n=\nd")
    monkeypatch.setenv("COMP_CWORD", "4")
    assert complete([], "d") == ["dssp"]


def test_zsh_is_told_keys_of_the_option_already_chosen() -> None:
    environment = {
        **os.environ,
        "_DSSP_BENCH_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": "dssp-bench run paradigm=ssp paradigm.th",
    }
    result = subprocess.run(
        [sys.executable, "-c", "from dssp_bench.cli.main import app; app(prog_name='dssp-bench')"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "paradigm.threshold=3" in result.stdout
