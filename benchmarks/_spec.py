"""Specifications for benchmarks, put together from conf/ without Hydra, so that a GPU machine does not need it."""

from pathlib import Path
from typing import Any

import yaml

from dssp_bench.experiment.spec import RunSpec, build_spec

_CONF = Path(__file__).resolve().parents[1] / "conf"
_GROUPS = {
    "paradigm": "dssp",
    "cluster": "hetero",
    "engine": "local",
    "model": "mlp",
    "dataset": "digits",
    "optimizer": "sgd",
    "schedule": "step",
    "stop": "epochs",
    "tracking": "none",
}


def specification(runs_dir: Path, choices: dict[str, str], overrides: dict[str, Any]) -> RunSpec:
    """The run that `dssp-bench run GROUP=OPTION ... KEY=VALUE ...` would make, without MLflow."""
    config = {key: value for key, value in _read("config").items() if key not in ("defaults", "hydra")}
    chosen = _GROUPS | choices
    for group, option in chosen.items():
        config[group] = config.get(group, {}) | _read(f"{group}/{option}")
    config["runs_dir"] = str(runs_dir)
    for dotted, value in overrides.items():
        *path, key = dotted.split(".")
        target = config
        for part in path:
            target = target[part]
        target[key] = value
    return build_spec(config, chosen)


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((_CONF / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    return {key: value for key, value in content.items() if key != "defaults"}
