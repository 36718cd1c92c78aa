"""Many runs at once: each is made once, one that dies fails alone, and an interrupted batch goes on where it was."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.core.errors import DataNotFound
from dssp_bench.experiment.batch import BatchProgress, Item, carry_out, finished_runs
from dssp_bench.records.files import write_json
from dssp_bench.tasks.task import Data, DataFacts, DataSource
from tests.experiment.specs import spec, troubled


class Heard(BatchProgress):
    """Remembers what it heard, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.shares: list[float] = []

    def started(self, item: Item) -> None:
        self.events.append(("started", item.label))

    def moved(self, item: Item, share: float) -> None:
        self.shares.append(share)

    def ended(self, item: Item, error: str) -> None:
        self.events.append((error or "done", item.label))


def timing(runs_dir: Path, paradigm: str, **changes: Any) -> Item:
    return Item(paradigm, spec(runs_dir, paradigm, "timing", **changes))


@pytest.mark.processes
def test_all_runs_are_made_and_found_again_by_their_configuration(tmp_path: Path) -> None:
    items = [timing(tmp_path, paradigm) for paradigm in ("bsp", "asp", "ssp", "dssp")]
    heard = Heard()
    assert finished_runs(tmp_path) == {}
    assert carry_out(items, heard, processes=2) == {}
    finished = finished_runs(tmp_path)
    assert finished.keys() == {item.fingerprint for item in items}
    for item in items:
        summary = json.loads((finished[item.fingerprint] / "summary.json").read_text(encoding="utf-8"))
        assert summary["paradigm"] == item.label
        assert heard.events.index(("started", item.label)) < heard.events.index(("done", item.label))


class Absent(DataSource):
    """Data that is not on this machine."""

    def load(self) -> Data:
        raise DataNotFound("no such images")

    def facts(self) -> DataFacts:
        return DataFacts(1500, (1, 8, 8), 10)


def test_data_that_is_missing_is_said_once_and_before_anything_starts(tmp_path: Path) -> None:
    lacking = [Item(name, replace(spec(tmp_path, name), dataset=Absent())) for name in ("asp", "bsp")]
    heard = Heard()
    with pytest.raises(DataNotFound, match="no such images"):
        carry_out([timing(tmp_path, "bsp"), *lacking], heard)
    assert heard.events == []
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
def test_a_run_whose_process_dies_fails_alone(tmp_path: Path) -> None:
    dying = Item("dying", spec(tmp_path, "asp", model=troubled(built="dies")))
    raising = Item("raising", spec(tmp_path, "asp", model=troubled(built="raises")))
    errors = carry_out([dying, raising, timing(tmp_path, "bsp"), timing(tmp_path, "asp")], Heard(), processes=1)
    assert errors.keys() == {"dying", "raising"}
    assert "exit code 7" in errors["dying"]
    assert "the network is in trouble" in errors["raising"]
    assert len(finished_runs(tmp_path)) == 2


@pytest.mark.processes
def test_an_interrupted_batch_keeps_what_is_finished_and_leaves_no_process(tmp_path: Path) -> None:
    class Impatient(Heard):
        def started(self, item: Item) -> None:
            super().started(item)
            if item.label == "endless":
                os.kill(os.getpid(), signal.SIGINT)

    endless = Item("endless", spec(tmp_path, "asp", model=troubled(pause_s=0.2), stop={"epochs": 1000}))
    heard = Impatient()
    with pytest.raises(KeyboardInterrupt):
        carry_out([timing(tmp_path, "bsp"), endless, timing(tmp_path, "asp")], heard, processes=1)
    assert heard.events == [("started", "bsp"), ("done", "bsp"), ("started", "endless")]
    assert len(finished_runs(tmp_path)) == 1


@pytest.mark.processes
def test_runs_in_real_processes_are_made_too_and_say_how_far_they_are(tmp_path: Path) -> None:
    heard = Heard()
    real = Item("real", spec(tmp_path, "dssp", "local"))
    assert carry_out([real], heard) == {}
    assert finished_runs(tmp_path).keys() == {real.fingerprint}
    assert heard.shares[-1] <= 1.0


def test_only_finished_runs_count_and_of_several_the_oldest(tmp_path: Path) -> None:
    for name, status, configuration in (
        ("1", "killed", "a"), ("2", "finished", "b"), ("3", "finished", "b"), ("4", "failed", "c"),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "summary.json", {"status": status, "configuration": configuration})
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "summary.json").write_text("{broken", encoding="utf-8")
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "summary.json").write_text("[1]", encoding="utf-8")
    assert finished_runs(tmp_path) == {"b": tmp_path / "2"}


def test_what_cannot_change_the_numbers_is_not_in_the_fingerprint_and_all_else_is(tmp_path: Path) -> None:
    item = timing(tmp_path, "dssp")
    same = Item("other", spec(tmp_path / "elsewhere", "dssp", "timing", name="mine", tracking={"figures": False}))
    others = [
        timing(tmp_path, "dssp", seed=2),
        timing(tmp_path, "dssp", batch_size=9),
        timing(tmp_path, "ssp"),
        Item("", spec(tmp_path, "dssp", "timing", paradigm_options={"upper": 6})),
        Item("", spec(tmp_path, "dssp", "simulated")),
    ]
    assert same.fingerprint == item.fingerprint
    assert len({item.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
