"""Real processes that are killed at random moments; the soak plays hundreds more of these schedules."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssp_bench.experiment.run import run
from dssp_bench.experiment.spec import build_spec
from dssp_bench.records.schema import TABLES
from tests.faults import kills
from tests.faults.audit import BadRecordsError, audit
from tests.faults.kills import Player, play_again
from tests.faults.strikes import draw, kind_of

SEEDS = [34, 92, 113, 138, 144, 145]
"""A worker dies, hangs, or dies for good; somebody interrupts the run; its server or its driver dies."""


# --- schedules --------------------------------------------------------------------------------------------------------


def test_schedules_are_of_every_kind_and_a_seed_is_the_same_one_every_time() -> None:
    counts: Counter[Any] = Counter()
    for seed in range(400):
        schedule = draw(Random(seed))
        assert schedule == draw(Random(seed))
        config = schedule.config
        build_spec({**config, "runs_dir": "nowhere"})  # which raises if it cannot be
        counts[config["paradigm"]["_target_"].rpartition(".")[2]] += 1
        counts[config["paradigm"].get("held_gradients", "apply")] += 1
        counts[config["on_worker_loss"]] += 1
        counts["for several threads"] += config["model"]["parameters"] >= 1 << 20
        counts["with checkpoints" if config["checkpoint"]["every_s"] else "without"] += 1
        counts["lives"] += len(schedule.lives)
        counts.update(f"{strike.signal} to {kind_of(strike.whom)}" for life in schedule.lives for strike in life)
    kinds = [
        "ASP", "BSP", "SSP", "DSSP", "apply", "merge_sum", "merge_mean", "continue", "stop", "restart",
        "with checkpoints", "without", "for several threads", "SIGINT to driver", "SIGTERM to driver",
        "SIGKILL to worker", "SIGKILL to server", "SIGKILL to evaluator", "SIGKILL to driver", "SIGKILL to fork server",
        "SIGSTOP to worker", "SIGSTOP to server", "SIGSTOP to evaluator", "SIGSTOP to driver", "SIGSTOP to fork server",
    ]  # fmt: skip
    assert {kind for kind in kinds if counts[kind] < 5} == set()
    assert counts["lives"] > 600


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with Player() as playing:
        yield playing


@pytest.mark.processes
@pytest.mark.parametrize("seed", SEEDS)
def test_however_a_run_ends_it_ends_well(seed: int, player: Player) -> None:
    assert player.play(seed)


@pytest.mark.processes
def test_an_end_for_which_there_was_no_reason_is_noticed_and_can_be_played_again(
    player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kills, "EXCUSES", [])
    monkeypatch.setattr(player, "keeps_in", tmp_path)
    assert play_again(player, [3]) == 1
    told = capsys.readouterr().out
    assert "SIGKILL to evaluator" in told
    assert "seed 3: failed without a reason: the evaluator died" in told
    assert "play it again with: python -m tests.faults.kills 3" in told
    assert list(tmp_path.glob("kills-failed-3-*/3/*/pushes.parquet"))


# --- the audit --------------------------------------------------------------------------------------------------------


def recorded(runs_dir: Path, seed: int) -> Path:
    """The folder of a run in virtual time, with this seed's paradigm and cluster."""
    config = draw(Random(seed)).config
    engine = {"_target_": "dssp_bench.engines.options.SimulatedOptions"}
    model = {**config["model"], "parameters": 10, "pause_s": 0.0}
    changes = {"engine": engine, "model": model, "stop": {"pushes": 200}, "runs_dir": str(runs_dir)}
    result = run(build_spec({**config, **changes}, {"engine": "simulated", "cluster": "random"}))
    assert (result.status, result.error) == ("finished", "")
    return result.folder


def test_the_audit_finds_nothing_where_nothing_is_wrong(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for seed in range(12):
        counts += audit(recorded(tmp_path, seed))
    assert counts["pushes"] == 12 * 200
    assert counts["replays"] == 12
    assert counts["evaluations"] >= 12 * 2
    assert counts["final weights"] >= 6  # of the others float32 has the means with an error


def changed(table: str, change: Callable[[dict[str, list[Any]]], None]) -> Callable[[Path], None]:
    """Rewrites one table of a run with a change to its columns."""

    def damage(folder: Path) -> None:
        path = folder / f"{table}.parquet"
        columns = pq.read_table(path).to_pydict()
        change(columns)
        pq.write_table(pa.table(columns, TABLES[table]), path)

    return damage


def summary(**changes: Any) -> Callable[[Path], None]:
    """Rewrites entries of a run's summary."""

    def damage(folder: Path) -> None:
        path = folder / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def plus(column: str, row: int, amount: float) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][row] += amount

    return change


def without(row: int) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        for rows in columns.values():
            del rows[row]

    return change


def longer(folder: Path) -> None:
    """Says that the run was to make more pushes."""
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("pushes: 200", "pushes: 300"))


JOINED = {"event": "joined", "worker": 0, "at_ns": 0, "after_pushes": 0}
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a push is missing": (changed("pushes", without(50)), r"clock \d+ of worker \d came after"),
    "a push is there twice": (changed("pushes", plus("clock", 50, -1)), r"clock \d+ of worker \d came after"),
    "a push computed on other weights": (changed("pushes", plus("loss", 50, 60)), "push 50, as it was computed"),
    "a pull of another version": (changed("pushes", plus("pulled_version", 50, -1)), "a replay decides otherwise"),
    "an update is missing": (changed("updates", without(3)), "versions do not count up"),
    "other gradients in an update": (changed("updates", plus("pushes", 3, 1)), "a replay decides otherwise"),
    "an evaluation of other weights": (changed("evaluations", plus("loss", -1, 1)), "an evaluation has weight"),
    "other weights in the end": (summary(weights_sha256="0" * 64), "the final weights are not what was pushed"),
    "a summary of fewer pushes": (summary(pushes=199), "the summary says 199"),
    "an end before its end": (longer, "finished after 200 of 300"),
    "a worker is back from the dead": (summary(lost_workers=[0], membership=[JOINED]), "have died, and are there"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_audit_finds_that(damage: str, tmp_path: Path) -> None:
    folder = recorded(tmp_path, 3)
    do, complaint = DAMAGES[damage]
    do(folder)
    with pytest.raises(BadRecordsError, match=complaint):
        audit(folder)
