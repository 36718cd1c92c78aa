"""Runs of several paradigms and seeds without an engine, with the configuration and summary that a comparison needs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dssp_bench.analysis.arms import Arm, arms_of
from dssp_bench.analysis.summary import summarise
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.records.files import write_json, write_yaml
from dssp_bench.records.reader import RunRecords
from tests.records import fake_run


def arms(
    folder: Path,
    paradigms: Sequence[Paradigm],
    seeds: int = 1,
    trained: bool = True,
    workers: int = 2,
    pushes: int = 60,
) -> list[Arm]:
    """An arm for each paradigm, with so many seeds; a later seed has slower workers."""
    cases = [(paradigm, seed) for paradigm in paradigms for seed in range(1, seeds + 1)]
    return arms_of(
        finished(folder / str(number), paradigm, seed, trained, workers, pushes)
        for number, (paradigm, seed) in enumerate(cases)
    )


def finished(
    folder: Path, paradigm: Paradigm, seed: int = 1, trained: bool = True, workers: int = 2, pushes: int = 60
) -> RunRecords:
    """One finished run; the rate drops in its middle."""
    slowdowns = tuple(1 + worker * (0.5 + 0.1 * seed) for worker in range(workers))
    folder.mkdir(parents=True)
    options: dict[str, Any] = asdict(paradigm)  # type: ignore[call-overload]
    fake_run.finished(folder, paradigm, slowdowns, pushes)
    _rewrite(folder, "updates", _with_a_drop)
    if not trained:
        _rewrite(folder, "evaluations", lambda table: table.slice(0, 0))
    name = type(paradigm).__name__.lower()
    write_yaml(folder / "config.yaml", config(name, seed, workers, **options))
    identity = {"paradigm": name, "engine": "simulated", "seed": seed, "workers": workers, "batch_size": 32}
    summary = summarise(RunRecords.open(folder), identity=identity, status="finished", startup_s=0.0, targets=())
    write_json(folder / "summary.json", summary)
    return RunRecords.open(folder)


def config(paradigm: str, seed: int = 1, workers: int = 2, **options: Any) -> dict[str, Any]:
    """What matters to figures of a resolved configuration."""
    return {
        "paradigm": {"_target_": paradigm, **options},
        "seed": seed,
        "schedule": {"clock": "samples"},
        "cluster": {"workers": [{"name": "fast"}, {"name": "slow"}], "count": workers},
        "choices": {"paradigm": paradigm, "engine": "simulated"},
    }


def _rewrite(folder: Path, name: str, change: Any) -> None:
    path = folder / f"{name}.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def _with_a_drop(updates: pa.Table) -> pa.Table:
    rates = [0.1 if row < len(updates) // 2 else 0.01 for row in range(len(updates))]
    return updates.set_column(updates.schema.get_field_index("learning_rate"), "learning_rate", pa.array(rates))
