"""The saved view with which MLflow's comparison page opens.

It is the one thing that MLflow does not document; if a future MLflow cannot read it, its comparison page opens with its
own choice of charts.
"""

import base64
import json
import zlib
from typing import Any

VIEW_KEY = "dsspbench1"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"


def comparison_view(now_ms: int) -> str:
    """The saved view with which MLflow's comparison page opens, as the tag `VIEW_TAG` of the experiment holds it."""
    view = base64.b64encode(zlib.compress(json.dumps(_view(), sort_keys=True).encode())).decode()
    saved = {"name": "Paradigms compared", "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{view}"}
    return json.dumps(saved)


_PROGRESS, _TIMING = "dssp-progress", "dssp-timing"


def _view() -> dict[str, Any]:
    sections = {_PROGRESS: "Accuracy", _TIMING: "Throughput, lead, staleness, waiting"}
    charts = [
        _chart("Accuracy over time (s)", "accuracy", _PROGRESS),
        _chart("Accuracy over epochs", "accuracy", _PROGRESS, "metric", "epoch"),
        _chart("Accuracy over updates", "accuracy", _PROGRESS, "step"),
        _chart("Loss over time (s)", "loss", _PROGRESS),
        _chart("Pushes per second over time (s)", "throughput", _TIMING),
        _chart("Largest lead over time (s)", "max_lead", _TIMING),
        _chart("Mean staleness over time (s)", "mean_staleness", _TIMING),
        _chart("Waiting, share of time, mean of workers", "waiting/mean", _TIMING),
    ]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": _columns(),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            {
                "uuid": uuid,
                "name": name,
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
                "columns": 2,
            }
            for uuid, name in sections.items()
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "time-relative", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _columns() -> list[str]:
    tags = ("paradigm", "cluster", "dataset", "model", "seed")
    metrics = ("final_accuracy", "best_accuracy", "duration_s", "pushes_per_s", "max_lead", "mean_staleness")
    params = ("paradigm.threshold", "paradigm.lower", "paradigm.upper")
    return [
        *(f"tags.`{tag}`" for tag in tags),
        *(f"params.`{param}`" for param in params),
        *(f"metrics.`summary/{metric}`" for metric in metrics),
    ]


def _chart(title: str, metric: str, section: str, x_axis: str = "time-relative", x_metric: str = "") -> dict[str, Any]:
    return {
        "uuid": f"{section}-{metric.replace('/', '-')}-{x_axis}",
        "type": "LINE",
        "runsCountToCompare": 20,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
        "metricKey": metric,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": x_axis,
        "selectedXAxisMetricKey": x_metric,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
    }
