"""Small files, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from dssp_bench.records.files import write_json, write_whole, write_yaml


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"nan": float("nan"), "inf": [float("inf"), -1.5], "np": np.float64("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "inf": [None, -1.5], "np": None}


def test_numpy_paths_and_tuples_become_plain(tmp_path: Path) -> None:
    value = {1: np.int64(3), "flag": np.bool_(True), "path": Path("runs/x"), "pair": (1, 2.5), "array": np.arange(2)}
    plain = {"1": 3, "flag": True, "path": "runs/x", "pair": [1, 2.5], "array": [0, 1]}
    write_json(tmp_path / "a.json", value)
    write_yaml(tmp_path / "a.yaml", value)
    assert json.loads((tmp_path / "a.json").read_text()) == plain
    assert yaml.safe_load((tmp_path / "a.yaml").read_text()) == plain


def test_keys_keep_the_order_given(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    write_yaml(tmp_path / "a.yaml", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": 2\n}\n'
    assert (tmp_path / "a.yaml").read_text() == "b: 1\na: 2\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)

    def fail(path: Path) -> None:
        path.write_text("half of")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a.json", fail)
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]
