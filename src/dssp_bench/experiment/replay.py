"""A recorded run through the core once more: does the same paradigm decide the same?"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.errors import ConfigurationError, DsspBenchError, RecordsError
from dssp_bench.core.messages import SECOND, Event, Joined, Left, Push
from dssp_bench.engines.engine import Limits
from dssp_bench.engines.observer import Observer, Recording
from dssp_bench.engines.options import ReplayOptions
from dssp_bench.engines.replay import ReplayEngine
from dssp_bench.engines.serve import serve
from dssp_bench.experiment.folders import folders_of
from dssp_bench.experiment.plan import make_plan
from dssp_bench.experiment.spec import RunSpec, build_spec
from dssp_bench.records.reader import RunRecords
from dssp_bench.records.writer import RecordWriter

COMPARED = ("pushes", "updates", "grants")
"""The tables that say what was decided; evaluations say how well."""


def recorded_events(records: RunRecords) -> Iterator[Event]:
    """The events of a recorded run, in the order in which its server took them up.

    Raises RecordsError if the run's summary does not say who left and joined.
    """
    membership = (records.summary or {}).get("membership")
    if membership is None:
        raise RecordsError(f"{records.folder} does not say who left when: the run was killed, or failed")
    return events_of(records.table("pushes"), membership)


def events_of(pushes: pa.Table, membership: Iterable[dict[str, Any]]) -> Iterator[Event]:
    """Pushes, and who left and joined between them."""
    membership = list(membership)
    columns = pushes.select(["worker", "arrived_s", "compute_s", "loss", "action"]).to_pydict()
    rows = zip(*columns.values(), strict=True)
    for number, (worker, arrived_s, compute_s, loss, action) in enumerate(rows):
        while membership and membership[0]["after_pushes"] <= number:
            yield _member(membership.pop(0))
        yield Push(worker, round(arrived_s * SECOND), round(compute_s * SECOND), loss, action != "skip")
    yield from (_member(entry) for entry in membership)


def _member(entry: dict[str, Any]) -> Event:
    kind = Left if entry["event"] == "left" else Joined
    return kind(entry["worker"], entry["at_ns"])


def recorded_spec(recorded: RunRecords) -> RunSpec:
    """What the run was made from, but to be replayed, so that the devices it used need not be here.

    Raises ConfigurationErrors if this version cannot read it.
    """
    config = dict(recorded.config)
    choices = {**config.pop("choices", {}), "engine": "replay"}
    config["engine"] = {"_target_": f"{ReplayOptions.__module__}.ReplayOptions", "run": str(recorded.folder)}
    return build_spec(config, choices)


def replay_records(recorded: RunRecords, spec: RunSpec, folder: Path) -> RunRecords:
    """Feed a recorded run through the core, and keep what is decided now elsewhere. Raises ProtocolViolation."""
    facts = spec.dataset.facts()
    recorder = RecordWriter(folder)
    observers: list[Observer] = [Recording(recorder)]
    coordinator = Coordinator(spec.paradigm, spec.cluster.present)
    engine, rates = ReplayEngine(recorded_events(recorded)), make_plan(spec, facts).rates
    try:
        serve(coordinator, engine, Limits(), rates, None, observers)
    finally:
        recorder.close()
    return RunRecords.open(folder)


def differences(recorded: RunRecords, replayed: RunRecords) -> dict[str, int]:
    """How many rows of each table differ; nothing differs if the decisions are the same."""
    return {name: _different_rows(recorded.table(name), replayed.table(name)) for name in COMPARED}


def _different_rows(left: pa.Table, right: pa.Table) -> int:
    common = min(left.num_rows, right.num_rows)
    different = pa.array([False] * common, pa.bool_())
    for name in left.schema.names:
        a, b = (table[name].slice(0, common).combine_chunks() for table in (left, right))
        missing = pc.and_(*(pc.is_null(column, nan_is_null=True) for column in (a, b)))  # a loss may be nan
        same = pc.or_(pc.fill_null(pc.equal(a, b), False), missing)
        different = pc.or_(different, pc.invert(same))
    return int(different.to_pylist().count(True) + abs(left.num_rows - right.num_rows))


def find_run(run: str, runs_dir: Path) -> RunRecords:
    """A recorded run by its folder, or by the folder's name under the runs folder. Raises ConfigurationError."""
    if there := folders_of(run, runs_dir):
        try:
            return RunRecords.open(there[0])
        except RecordsError as error:
            raise ConfigurationError("engine.run", str(error)) from error
    raise ConfigurationError("engine.run", f"there is no run folder {run!r}", f"runs are under {runs_dir}")


def check_replayable(recorded: RunRecords) -> None:
    """Raise ConfigurationError unless the run left all that a replay needs."""
    try:
        next(recorded_events(recorded), None)
    except DsspBenchError as error:
        raise ConfigurationError("engine.run", str(error)) from error
