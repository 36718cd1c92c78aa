"""The comparison page that MLflow opens with."""

import base64
import json
import zlib
from pathlib import Path

from dssp_bench.experiment.mlflow_store import EXPERIMENT, open_store
from dssp_bench.experiment.mlflow_view import VIEW_TAG, comparison_view
from tests.experiment.mlflow_runs import describe, live, logged, new_store


def test_the_saved_view_is_on_the_experiment_and_draws_metrics_that_are_logged(tmp_path: Path) -> None:
    runs = new_store(tmp_path)
    client, experiment = open_store(runs)
    tag = client.get_experiment(experiment).tags[VIEW_TAG]
    assert client.get_experiment(experiment).name == EXPERIMENT
    saved = json.loads(tag)
    assert saved["state"] == json.loads(comparison_view(0))["state"]
    view = json.loads(zlib.decompress(base64.b64decode(saved["state"].removeprefix("deflate;"))))
    sections = {section["uuid"] for section in view["compareRunSections"]}
    drawn = {chart["metricKey"] for chart in view["compareRunCharts"]}
    info = describe(runs, "20260101-120000-000008-viewed")
    live(info)
    _, run = logged(runs, info.name)
    assert drawn <= run.data.metrics.keys()
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == sections
    assert len({chart["uuid"] for chart in view["compareRunCharts"]}) == len(view["compareRunCharts"])
