"""The watchers that a run's specification asks for."""

from dssp_bench.engines.options import ReplayOptions
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.experiment.watcher import Watcher


def tracking(spec: RunSpec) -> list[Watcher]:
    """Who draws the run's figures and who logs it, in this order, since what was drawn is logged too."""
    watchers: list[Watcher] = []
    if spec.tracking.figures:
        from dssp_bench.experiment.figures import Figures

        watchers.append(Figures())
    if spec.tracking.mlflow and not isinstance(spec.engine, ReplayOptions):  # it would be the same curve again
        from dssp_bench.experiment.mlflow_log import MlflowLog

        watchers.append(MlflowLog())
    return watchers
