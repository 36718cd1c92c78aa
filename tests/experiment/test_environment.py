"""What is written down about the machine; it must never keep a run from starting."""

import json
import subprocess
from pathlib import Path

import pytest

import dssp_bench.experiment.environment as module
from dssp_bench.experiment.environment import environment


def test_it_can_be_written_as_json_and_names_what_matters() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["torch"]
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_bytes"] > 0
    assert isinstance(found["hardware"]["gpus"], list)
    assert found["git"].keys() == {"commit", "dirty"}


def test_a_package_that_is_not_installed_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", ("no-such-package",))
    assert environment()["packages"] == {"no-such-package": None}


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10), PermissionError()])
def test_without_git_the_commit_is_unknown(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fails)
    assert environment()["git"] == {"commit": None, "dirty": None}


def test_outside_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    assert environment()["git"] == {"commit": None, "dirty": None}
