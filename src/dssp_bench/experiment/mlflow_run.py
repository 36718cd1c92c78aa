"""One run in MLflow: found there or made, and given what it lacks, never twice."""

import json
import math
import platform
import time
import zlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

from dssp_bench.experiment.mlflow_content import (
    Point,
    artifacts_of,
    flatten,
    name_of,
    note_of,
    points_of,
    summary_points,
    tags_of,
)
from dssp_bench.experiment.mlflow_store import WHOLE_TAG, alone, open_store, stored_runs
from dssp_bench.experiment.watcher import RunInfo
from dssp_bench.records.files import plain
from dssp_bench.records.reader import RunRecords

_NOTE = "mlflow.note.content"
_PARAMS_AT_ONCE, _POINTS_AT_ONCE = 100, 1000


class MlflowRun:
    """A run in the store of its folder of runs; `points` and `files` say how much it was given, `made` that it is new.

    A point's time stamp is the run's start plus the engine's seconds, so that MLflow's relative time axis shows the
    engine's clock. What raises may be tried again, with an object of its own, which asks MLflow anew what is there.
    """

    def __init__(self, client: Any, experiment: str, info: RunInfo) -> None:
        self.client = client
        self.info = info
        self.points = self.files = 0
        self._logged: set[tuple[str, int, int]] = set()
        with alone(info.runs_dir):
            stored = stored_runs(info.runs_dir, "name.value = ?", info.name).get(info.name)
            self.made = stored is None
            if stored is None:
                run = client.create_run(experiment, _started_at_ms(info), tags_of(info), name_of(info))
            else:
                run = client.get_run(stored.run_id)
        self.run_id: str = run.info.run_id
        self.started_at_ms: int = run.info.start_time
        self._ask_what_is_there(run)
        self._say_what_it_is(run)

    @classmethod
    def of(cls, info: RunInfo) -> Self:
        """The run as it is in MLflow, or as it is made there. Raises whatever MLflow and SQLite raise."""
        return cls(*open_store(info.runs_dir), info)

    def go_on(self) -> None:
        """The run goes on, as it does when it starts and when it is resumed."""
        run = None if self.made else self.client.get_run(self.run_id)
        if run is None or run.info.status == "RUNNING":
            return
        for tag in (WHOLE_TAG, *([_NOTE] if run.info.status == "FAILED" else [])):
            if tag in run.data.tags:
                self.client.delete_tag(self.run_id, tag)
        self.client.set_tag(self.run_id, "dssp.host", platform.node())
        self.client.update_run(self.run_id, "RUNNING")

    def log(self, points: Iterable[Point], at_most: int | None = None) -> None:
        """Log the finite ones that are not there yet, or so many; MLflow is slow with those that it has already."""
        from mlflow.entities import Metric

        new: dict[tuple[str, int, int], Metric] = {}
        for key, at_s, version, value in points:
            known_by = key, self.started_at_ms + round(at_s * 1000), version
            if math.isfinite(value) and known_by not in self._logged:
                new[known_by] = Metric(key, value, *known_by[1:])
        todo = list(new.items())[:at_most]
        for begin in range(0, len(todo), _POINTS_AT_ONCE):
            batch = dict(todo[begin : begin + _POINTS_AT_ONCE])
            self.client.log_batch(self.run_id, list(batch.values()))
            self._logged |= batch.keys()
            self.points += len(batch)

    def end(
        self,
        status: str,
        records: RunRecords | None,
        summary: dict[str, Any] | None,
        error: str = "",
        ended_at_ms: int | None = None,
    ) -> None:
        """Log the rest, the summary and the files; the run is over, and last of all it is said that this is all."""
        if records is not None:
            self.log(points_of(records, over=True))
        if summary is not None:
            self.log(summary_points(summary))
        for file, place in artifacts_of(self.info.folder):
            self.client.log_artifact(self.run_id, str(file), place)
            self.files += 1
        if error:
            self.client.set_tag(self.run_id, _NOTE, note_of(error))
        self.client.set_terminated(self.run_id, status.upper(), ended_at_ms)
        if records is not None:
            self.client.set_tag(self.run_id, WHOLE_TAG, "all")

    def _ask_what_is_there(self, run: Any) -> None:
        for key in run.data.metrics:
            for point in self.client.get_metric_history(self.run_id, key):
                self._logged.add((key, point.timestamp, point.step))

    def _say_what_it_is(self, run: Any) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param

        params = [Param(k, v) for k, v in flatten(self.info.config).items() if k not in run.data.params]
        for begin in range(0, len(params), _PARAMS_AT_ONCE):
            self.client.log_batch(self.run_id, params=params[begin : begin + _PARAMS_AT_ONCE])
        if (name := tags_of(self.info).get("dataset")) is not None and not run.inputs.dataset_inputs:
            config = json.dumps(plain(self.info.config.get("dataset")), sort_keys=True)
            dataset = Dataset(name, f"{zlib.crc32(config.encode()):08x}", "code", json.dumps({"dataset": name}))
            self.client.log_inputs(self.run_id, [DatasetInput(dataset)])


def _started_at_ms(info: RunInfo) -> int:
    said = info.environment.get("started_at")
    return round((datetime.fromisoformat(said).timestamp() if said else time.time()) * 1000)
