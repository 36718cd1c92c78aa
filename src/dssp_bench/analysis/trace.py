"""A run as a timeline for Perfetto (https://ui.perfetto.dev) or chrome://tracing.

The format is the JSON object form of the Trace Event Format. Moments are whole microseconds, so that neighbouring spans
never overlap by a rounding error. Events may come in any order, so nothing is kept back to be sorted.
"""

import json
import math
from collections.abc import Iterator
from typing import IO, Any

from dssp_bench.analysis.names import worker_names
from dssp_bench.analysis.summary import by_time
from dssp_bench.core.messages import SECOND
from dssp_bench.records.reader import RunRecords

Event = dict[str, Any]

_WORKERS, _SERVER = 1, 2  # as processes, each with tracks of its own
_EVALUATIONS, _RATES = 3, 4
_FIRST_WORKER = 10
_ROWS = 8192  # of a table, in memory as Python objects at a time
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def write_trace(records: RunRecords, file: IO[str], begin_s: float = 0.0, end_s: float = math.inf) -> int:
    """Write what happened between two moments of the engine's clock, in seconds; returns how many events that were."""
    count = 0
    file.write('{"displayTimeUnit":"ms","traceEvents":[')
    for count, event in enumerate(trace_events(records, begin_s, end_s), start=1):
        file.write("\n" if count == 1 else ",\n")
        file.write(_encode(event))
    file.write("\n]}\n")
    return count


def trace_events(records: RunRecords, begin_s: float = 0.0, end_s: float = math.inf) -> Iterator[Event]:
    """The events of a trace: names of tracks first, then whatever touches the time from `begin_s` to `end_s`.

    A worker's track has its computing and how long it was held; what is empty between the two is its push on the way
    and in the server's queue. The records say how long a worker computed, not when it began, which is taken to be its
    release.
    """
    pushed = records.table("pushes")
    count = max(pushed["worker"].unique().to_pylist(), default=-1) + 1
    names = list(worker_names(records)) or [f"worker_{worker}" for worker in range(count)]
    yield from _tracks(names)
    first, last = _microseconds(begin_s), _microseconds(end_s) if math.isfinite(end_s) else math.inf
    parts = (_pushes(records, names), _updates(records), _evaluations(records), _grants(records), _members(records))
    for part in parts:
        for event in part:
            if event["ts"] <= last and event["ts"] + event.get("dur", 0) >= first:
                yield event


def _tracks(names: list[str]) -> Iterator[Event]:
    for process, name in ((_WORKERS, "workers"), (_SERVER, "server")):
        yield {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}}
    server = [(_SERVER, _EVALUATIONS, "evaluations"), (_SERVER, _RATES, "learning rate")]
    for process, track, name in [(_WORKERS, _FIRST_WORKER + w, name) for w, name in enumerate(names)] + server:
        place = {"pid": process, "tid": track}
        yield {"ph": "M", "name": "thread_name", **place, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", **place, "args": {"sort_index": track}}


def _pushes(records: RunRecords, names: list[str]) -> Iterator[Event]:
    joined = {entry["worker"]: entry["at_ns"] / SECOND for entry in _membership(records) if entry["event"] == "joined"}
    released: dict[int, float] = dict(joined)
    thresholds: dict[int, int | None] = {}
    for row in _rows(records, "pushes"):
        worker, arrived, compute = row["worker"], row["arrived_s"], row["compute_s"]
        latest = arrived - compute
        began = min(released.get(worker, 0.0 if row["clock"] == 1 else latest), latest)
        what = {key: row[key] for key in ("clock", "pulled_version", "version", "staleness", "action", "threshold")}
        loss = row["loss"]
        what["loss"] = loss if loss is not None and math.isfinite(loss) else None
        yield _span("computing", worker, began, began + compute, what)
        held = row["held_s"]
        released[worker] = arrived + (held or 0.0)
        if held and (span := _span("held", worker, arrived, arrived + held, {"clock": row["clock"]}))["dur"]:
            yield span
        yield _counter(_WORKERS, "lead", names[worker], arrived, row["lead"])
        if row["staleness"] is not None:
            yield _counter(_WORKERS, "staleness", names[worker], arrived, row["staleness"])
        if row["threshold"] is not None and row["threshold"] != thresholds.get(worker):
            thresholds[worker] = row["threshold"]
            yield _counter(_WORKERS, "threshold", names[worker], arrived, row["threshold"])


def _updates(records: RunRecords) -> Iterator[Event]:
    rate = None
    for row in _rows(records, "updates"):
        yield _counter(_SERVER, "weights", "version", row["at_s"], row["version"])
        if row["learning_rate"] != rate:
            rate = row["learning_rate"]
            yield _instant(_SERVER, _RATES, f"learning rate {rate:g}", row["at_s"], {"version": row["version"]})


def _evaluations(records: RunRecords) -> Iterator[Event]:
    for row in by_time(records.evaluations).to_dict("records"):
        finite = {str(key): value for key, value in row.items() if math.isfinite(value)}
        yield _instant(_SERVER, _EVALUATIONS, f"accuracy {row['accuracy']:.4f}", row["at_s"], finite)
        yield _counter(_SERVER, "test", "accuracy", row["at_s"], row["accuracy"])


def _grants(records: RunRecords) -> Iterator[Event]:
    for row in _rows(records, "grants"):
        what = {key: row[key] for key in ("r_star", "predicted_wait_s", "lead")}
        yield _instant(_WORKERS, _FIRST_WORKER + row["worker"], f"grant of {row['r_star']}", row["at_s"], what)


def _members(records: RunRecords) -> Iterator[Event]:
    for entry in _membership(records):
        what = {"after_pushes": entry["after_pushes"]}
        yield _instant(_WORKERS, _FIRST_WORKER + entry["worker"], entry["event"], entry["at_ns"] / SECOND, what)


def _membership(records: RunRecords) -> list[dict[str, Any]]:
    """Who left and joined; nobody, as far as a run that was killed can tell."""
    return (records.summary or {}).get("membership") or []


def _rows(records: RunRecords, table: str) -> Iterator[dict[str, Any]]:
    for batch in records.table(table).to_batches(max_chunksize=_ROWS):
        yield from batch.to_pylist()


def _span(name: str, worker: int, began_s: float, ended_s: float, args: dict[str, Any]) -> Event:
    began, ended = _microseconds(began_s), _microseconds(ended_s)
    place = {"pid": _WORKERS, "tid": _FIRST_WORKER + worker}
    return {"ph": "X", "name": name, **place, "ts": began, "dur": ended - began, "args": args}


def _instant(process: int, track: int, name: str, at_s: float, args: dict[str, Any]) -> Event:
    at = _microseconds(at_s)
    return {"ph": "i", "s": "t", "name": name, "pid": process, "tid": track, "ts": at, "args": args}


def _counter(process: int, name: str, series: str, at_s: float, value: float) -> Event:
    """One value; Perfetto calls the track by `name` and `series` together."""
    return {"ph": "C", "name": name, "pid": process, "ts": _microseconds(at_s), "args": {series: value}}


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
