"""A recorded run, fed back through the core: nothing differs, unless somebody changed the record or the paradigm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.experiment.run import RunResult, run
from dssp_bench.records.reader import RunRecords
from tests.experiment.specs import PARADIGMS, spec
from tests.experiment.watching import Watched

NOISY = {
    "workers": [{"jitter": "noisy"}, {"jitter": "noisy", "slowdown": 1.4}, {}],
    "events": [{"worker": 2, "at_s": 0.011, "join": True}, {"worker": 0, "at_s": 0.014, "leave": True}],
}


def recorded(runs_dir: Path, paradigm: str = "dssp", **changes: Any) -> RunResult:
    result = run(spec(runs_dir, paradigm, "timing", **{"cluster": NOISY, "stop": {"epochs": 3}, **changes}))
    assert result.status == "finished"
    return result


def replayed(runs_dir: Path, name: str | Path) -> RunResult:
    return run(spec(runs_dir, "asp", str(name)))


@pytest.mark.parametrize("merge", ["apply", "merge_mean"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_the_same_paradigm_decides_the_same(paradigm: str, merge: str, tmp_path: Path) -> None:
    own = {"held_gradients": merge} if merge != "apply" and paradigm != "asp" else {}
    first = run(spec(tmp_path, paradigm, paradigm_options=own, cluster=NOISY, stop={"epochs": 2}))
    again = replayed(tmp_path, first.folder)
    assert (again.status, again.error) == ("finished", "")
    for name in ("pushes", "updates", "grants"):
        file = f"{name}.parquet"
        assert pq.read_table(first.folder / file).equals(pq.read_table(again.folder / file))


def test_a_replay_is_a_run_of_its_own_that_says_what_it_replayed(tmp_path: Path) -> None:
    first = recorded(tmp_path)
    watched = Watched()
    again = run(spec(tmp_path, "asp", first.folder.name), [watched])
    assert again.folder != first.folder
    assert again.summary is not None
    assert first.summary is not None
    assert again.summary["replayed"] == str(first.folder)
    assert (again.summary["engine"], again.summary["paradigm"]) == ("replay", "dssp")
    same = ("pushes", "updates", "grants", "max_lead", "mean_staleness", "membership", "waiting_share")
    assert {key: again.summary[key] for key in same} == {key: first.summary[key] for key in same}
    config = yaml.safe_load((again.folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["engine"]["run"] == str(first.folder)
    assert [status for status, *_ in watched.finished] == ["finished"]


def test_a_replay_can_be_replayed(tmp_path: Path) -> None:
    again = replayed(tmp_path, replayed(tmp_path, recorded(tmp_path).folder).folder)
    assert (again.status, again.error) == ("finished", "")


def test_a_run_on_devices_that_are_not_here_can_be_replayed(tmp_path: Path) -> None:
    first = recorded(tmp_path)
    config = yaml.safe_load((first.folder / "config.yaml").read_text(encoding="utf-8"))
    config["cluster"]["workers"][0]["device"] = "cuda:7"
    config["engine"] = {"_target_": "dssp_bench.engines.options.LocalOptions"}
    (first.folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert replayed(tmp_path, first.folder).error == ""


def tamper(folder: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    path = folder / f"{table}.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def with_column(name: str, change: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    def changed_table(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        return table.set_column(
            index, table.schema.field(index), change(table[name]).cast(table.schema.field(index).type)
        )

    return changed_table


def first_rows(rows: int, value: Any) -> Callable[[Any], Any]:
    return lambda column: pa.chunked_array([[value] * rows + column.to_pylist()[rows:]], column.type)


@pytest.mark.parametrize(
    ("table", "column", "change", "rows"),
    [
        ("pushes", "staleness", first_rows(3, 77), 3),
        ("pushes", "held_s", first_rows(1, 99.0), 1),
        ("pushes", "action", first_rows(2, "drop"), 2),
        ("pushes", "version", lambda column: pc.add(column, 1), 90),
        ("updates", "learning_rate", first_rows(4, 7.0), 4),
        ("grants", "r_star", first_rows(1, 123), 1),
    ],
)
def test_a_record_that_was_changed_fails_with_the_number_of_rows_that_differ(
    table: str, column: str, change: Callable[[Any], Any], rows: int, tmp_path: Path
) -> None:
    first = run(spec(tmp_path, "dssp", "timing", cluster={"workers": [{}, {"slowdown": 2.9}]}, stop={"epochs": 3}))
    tamper(first.folder, table, with_column(column, change))
    again = replayed(tmp_path, first.folder)
    assert again.status == "failed"
    assert f"'{table}': {rows}" in again.error
    assert again.summary is not None
    assert again.summary["different_rows"][table] == rows
    assert (again.folder / "summary.json").exists()


def test_rows_that_are_missing_or_too_many_count_as_different(tmp_path: Path) -> None:
    first = recorded(tmp_path, "asp", cluster={"workers": [{}]})
    tamper(first.folder, "updates", lambda table: table.slice(0, table.num_rows - 4))
    assert "'updates': 4" in replayed(tmp_path, first.folder).error


def test_another_paradigm_does_not_pass_for_the_recorded_one(tmp_path: Path) -> None:
    first = recorded(tmp_path, "asp")
    config = yaml.safe_load((first.folder / "config.yaml").read_text(encoding="utf-8"))
    config["paradigm"] = PARADIGMS["bsp"]
    (first.folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    again = replayed(tmp_path, first.folder)
    assert again.status == "failed"
    assert "the record does not fit its paradigm: worker" in again.error
    assert "pushed while held" in again.error


def test_what_cannot_be_replayed_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no run folder 'nothing'"):
        replayed(tmp_path, "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="holds no records"):
        replayed(tmp_path, "empty")
    first = recorded(tmp_path)
    (first.folder / "summary.json").unlink()
    with pytest.raises(ConfigurationError, match="does not say who left when"):
        replayed(tmp_path, first.folder)
    assert {folder.name for folder in tmp_path.iterdir()} == {"empty", first.folder.name}


def test_a_run_that_was_killed_at_once_does_not_say_who_left_and_is_refused(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec(tmp_path), [Watched(interrupt, after_pushes=0)])
    (folder,) = tmp_path.iterdir()
    assert RunRecords.open(folder).summary
    with pytest.raises(ConfigurationError, match="was killed, or failed"):
        replayed(tmp_path, folder)
