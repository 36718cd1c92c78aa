"""A run as a timeline: what the format wants, and what the records say."""

import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.analysis.trace import trace_events, write_trace
from dssp_bench.experiment.run import run
from dssp_bench.paradigms.asp import ASP
from dssp_bench.paradigms.bsp import BSP
from dssp_bench.paradigms.dssp import DSSP
from dssp_bench.records.files import write_yaml
from dssp_bench.records.reader import RunRecords
from tests.experiment import specs
from tests.records import fake_run

Event = dict[str, Any]


def events_of(records: RunRecords, begin_s: float = 0.0, end_s: float = float("inf")) -> list[Event]:
    file = io.StringIO()
    count = write_trace(records, file, begin_s, end_s)
    events: list[Event] = json.loads(file.getvalue())["traceEvents"]
    assert count == len(events)
    return events


def phase(events: list[Event], ph: str, name: str = "") -> list[Event]:
    return [event for event in events if event["ph"] == ph and event["name"].startswith(name)]


def spans_by_track(events: list[Event]) -> dict[int, list[Event]]:
    tracks = defaultdict(list)
    for event in phase(events, "X"):
        tracks[event["tid"]].append(event)
    return tracks


def test_every_event_has_what_the_format_asks_of_its_phase(tmp_path: Path) -> None:
    events = events_of(fake_run.finished(tmp_path, DSSP(3, 15), pushes=200))
    assert {event["ph"] for event in events} == {"M", "X", "C", "i"}
    for event in events:
        assert {"ph", "name", "pid", "args"} <= event.keys()
        if event["ph"] != "M":
            assert isinstance(event["ts"], int)
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert isinstance(event["dur"], int)
            assert event["dur"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
        if event["ph"] == "i":
            assert event["s"] == "t"
            assert event["tid"] != event["pid"]


def test_a_worker_computes_until_its_push_and_is_held_until_its_release(tmp_path: Path) -> None:
    tracks = spans_by_track(events_of(fake_run.finished(tmp_path, BSP(), slowdowns=(1.0, 2.0), pushes=4)))
    fast, slow = tracks.values()
    assert [(s["name"], s["ts"], s["dur"]) for s in fast] == [
        ("computing", 0, 1_000_000),
        ("held", 1_000_000, 1_000_000),
        ("computing", 2_000_000, 1_000_000),
        ("held", 3_000_000, 1_000_000),
    ]
    assert [(s["name"], s["ts"], s["dur"]) for s in slow] == [
        ("computing", 0, 2_000_000),
        ("computing", 2_000_000, 2_000_000),
    ]


@pytest.mark.parametrize("paradigm", ["bsp", "asp", "ssp", "dssp"])
def test_spans_of_a_track_never_overlap(tmp_path: Path, paradigm: str) -> None:
    cluster = {
        "workers": [{"slowdown": 1.0, "jitter": "noisy"}, {"slowdown": 1.7, "jitter": "shared"}, {"slowdown": 0.9}],
        "server": {"receive_s": 0.000_123_4, "update_s": 0.000_056_7, "reply_s": 0.000_001_9},
        "network": {"latency_s": 0.000_077_7},
        "events": [{"worker": 2, "at_s": 0.005_55, "join": True}],
    }
    result = run(specs.spec(tmp_path, paradigm, "timing", cluster=cluster, stop={"epochs": 4}))
    for spans in spans_by_track(events_of(RunRecords.open(result.folder))).values():
        ends = [span["ts"] + span["dur"] for span in spans]
        assert all(end <= following["ts"] for end, following in zip(ends, spans[1:], strict=False))


def test_what_is_empty_is_the_push_on_its_way_and_in_the_queue(tmp_path: Path) -> None:
    cluster = {"workers": [{}], "network": {"latency_s": 0.25}, "iteration_s": 1.0, "server": {"receive_s": 0.5}}
    result = run(specs.spec(tmp_path, "asp", "timing", cluster=cluster, stop={"pushes": 2}))
    (first, second) = phase(events_of(RunRecords.open(result.folder)), "X")
    assert second["ts"] - (first["ts"] + first["dur"]) == 500_000  # from the first pull to the first push


def test_a_worker_that_joins_computes_from_then_on(tmp_path: Path) -> None:
    events = [{"worker": 1, "at_s": 0.01, "join": True}]
    cluster = {"workers": [{}, {"name": "late"}], "iteration_s": 0.001, "events": events}
    result = run(specs.spec(tmp_path, "asp", "timing", cluster=cluster, stop={"pushes": 30}))
    trace = events_of(RunRecords.open(result.folder))
    (track,) = [e["tid"] for e in phase(trace, "M", "thread_name") if e["args"] == {"name": "late"}]
    assert spans_by_track(trace)[track][0]["ts"] == 10_000
    assert [(e["name"], e["ts"]) for e in phase(trace, "i", "joined")] == [("joined", 10_000)]


def test_tracks_are_called_as_the_workers_are(tmp_path: Path) -> None:
    records = fake_run.finished(tmp_path, ASP())
    names = [e["args"]["name"] for e in phase(events_of(records), "M", "thread_name")]
    assert names == ["worker_0", "worker_1", "evaluations", "learning rate"]
    write_yaml(tmp_path / "config.yaml", {"cluster": {"workers": [{"name": "fast"}], "count": 2}})
    names = [e["args"]["name"] for e in phase(events_of(RunRecords.open(tmp_path)), "M", "thread_name")]
    assert names == ["fast", "fast_2", "evaluations", "learning rate"]


def test_counters_and_grants_are_those_of_the_tables(tmp_path: Path) -> None:
    records = fake_run.finished(tmp_path, DSSP(3, 15), pushes=200)
    events = events_of(records)
    pushes = records.pushes
    assert [next(iter(e["args"].values())) for e in phase(events, "C", "lead")] == pushes["lead"].tolist()
    versions = [e["args"]["version"] for e in phase(events, "C", "weights")]
    assert versions == records.updates["version"].tolist()
    grants = phase(events, "i", "grant of")
    assert len(grants) == len(records.grants) > 0
    assert [e["args"]["r_star"] for e in grants] == records.grants["r_star"].tolist()
    assert len(phase(events, "i", "accuracy")) == len(records.evaluations)
    assert [e["name"] for e in phase(events, "i", "learning rate")] == ["learning rate 0.1"]  # it never changes


def test_a_window_keeps_whatever_touches_it(tmp_path: Path) -> None:
    records = fake_run.finished(tmp_path, BSP(), slowdowns=(1.0, 2.0), pushes=40)
    within = events_of(records, 10.5, 12.5)
    assert 0 < len(within) < len(events_of(records))
    spans = [(e["name"], e["ts"] / 1e6) for e in phase(within, "X") if e["tid"] == min(spans_by_track(within))]
    assert spans == [("computing", 10.0), ("held", 11.0), ("computing", 12.0)]


def test_a_run_without_pushes_still_has_its_tracks(tmp_path: Path) -> None:
    assert {event["ph"] for event in trace_events(fake_run.finished(tmp_path, ASP(), pushes=0))} <= {"M", "i", "C"}


def test_losses_that_are_no_numbers_leave_the_file_readable(tmp_path: Path) -> None:
    cluster: dict[str, Any] = {"workers": [{}, {}]}
    diverging = {"learning_rate": 1e9, "momentum": 0.0}
    result = run(specs.spec(tmp_path, "asp", cluster=cluster, optimizer=diverging, stop={"epochs": 3}))
    records = RunRecords.open(result.folder)
    assert records.pushes["loss"].isna().any()
    assert any(event["args"]["loss"] is None for event in phase(events_of(records), "X", "computing"))
