"""The simulator's constants from a recorded run, and what they predict for it and for others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dssp_bench.analysis.calibration import ComputeFit, delays, fit_compute
from dssp_bench.analysis.waiting import lives
from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.errors import ConfigurationError
from dssp_bench.core.messages import SECOND, Outcome
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.engines.layout import ClusterLayout, Network, Server, WorkerLayout
from dssp_bench.engines.local.shared_cores import SharedCores
from dssp_bench.engines.observer import Observer
from dssp_bench.engines.serve import serve
from dssp_bench.engines.simulated import SimulatedEngine
from dssp_bench.experiment.plan import make_plan
from dssp_bench.experiment.replay import recorded_spec
from dssp_bench.experiment.spec import RunSpec
from dssp_bench.records.reader import RunRecords

_FEWEST = 20  # iterations of a worker, below which nothing is said about its times
_ROUNDS = 6  # of fitting the latency, at most
_CLOSE_S = 1e-7
SAME = ("model", "dataset", "batch_size", "cluster", "engine")
"""The keys of the configuration in which runs must agree to be predicted from each other."""


@dataclass(frozen=True)
class Cores:
    """The cores of the machine, and which part of each worker's iteration is work for one of them."""

    count: int
    shares: tuple[float, ...]
    server_share: float

    @property
    def demand(self) -> float:
        """How many cores everyone together would keep busy if nobody were ever held."""
        return sum(self.shares) + self.server_share

    @property
    def oversubscribed(self) -> bool:
        """Whether that is more than there are."""
        return self.demand > self.count


@dataclass(frozen=True)
class Calibration:
    """What was fitted: a layout for the simulator, and how well each worker's times are described by it.

    `cores` is None where workers do not share any, as in virtual time. `busy_share` is the recorded server's.
    """

    layout: ClusterLayout
    fits: dict[int, ComputeFit]
    cores: Cores | None
    busy_share: float | None


class Timing(NamedTuple):
    """A run's time in seconds, its pushes, and the share of its life for which each worker was held."""

    duration_s: float
    pushes: int
    waiting: dict[int, float]


def timing(pushes: pd.DataFrame) -> Timing:
    """What the pushes of a run, recorded or predicted, say about its time."""
    ends = pushes["arrived_s"] + pushes["held_s"].fillna(0.0)
    shares = {worker: life.waiting_share for worker, life in lives(pushes).items()}
    return Timing(float(ends.max()), len(pushes), shares)


def calibrate(recorded: RunRecords) -> Calibration:
    """Fit the constants. Raises ConfigurationError if the run cannot tell them."""
    spec = recorded_spec(recorded)
    layout = spec.cluster
    _check_length(recorded, layout)
    fits = fit_compute(recorded, layout)
    local = is_local(recorded)
    costs = _measured_server(recorded) if local else {}
    busy = costs.pop("busy_share", None)
    base = min(fit.typical_s for fit in fits.values())
    fitted = _with(
        layout,
        iteration_s=_rounded(base),
        workers=tuple(_fitted(worker, fits[w], base) for w, worker in enumerate(layout.workers)),
        server=Server(device=layout.server.device, **costs) if local else layout.server,
        network=Network(),
    )
    calibration = Calibration(fitted, fits, _cores(recorded, layout, busy or 0.0) if local else None, busy)
    return _with_latency(calibration, recorded, spec)


def predict(calibration: Calibration, spec: RunSpec, paradigm: Paradigm | None = None) -> pd.DataFrame:
    """The pushes of a timing-only run of this specification on the calibrated cluster; columns as in the records."""
    layout = calibration.layout
    plan = make_plan(replace(spec, cluster=layout), spec.dataset.facts())
    make: Callable[..., SimulatedEngine] = SimulatedEngine
    if cores := calibration.cores:
        make = partial(SharedCores, cores=cores.count, shares=cores.shares)
    engine = make(layout, plan.iteration, spec.seed, keys=plan.keys, message_bytes=plan.message_bytes)
    seen = _Pushes()
    coordinator = Coordinator(paradigm or spec.paradigm, layout.present)
    serve(coordinator, engine, plan.limits, plan.rates, None, [seen])
    return seen.table()


def prediction_spec(recorded: RunRecords) -> RunSpec:
    """What a recorded run was made from; one that an accuracy or somebody ended gets as many pushes as it made."""
    spec = recorded_spec(recorded)
    stopped = spec.stop.target_accuracy is not None or (recorded.summary or {}).get("status") != "finished"
    if not stopped:
        return spec
    made = len(recorded.pushes)
    return replace(spec, stop=spec.stop.model_copy(update={"pushes": made, "target_accuracy": None}))


def check_comparable(run: RunRecords, other: RunRecords) -> None:
    """Raise ConfigurationError unless the two differ in nothing but paradigm, seed and length."""
    for key in SAME:
        if run.config.get(key) != other.config.get(key):
            hint = "runs predict each other if they differ in paradigm, seed and length only"
            raise ConfigurationError("--check", f"{other.folder.name} has another {key} than {run.folder.name}", hint)


def is_local(recorded: RunRecords) -> bool:
    """Whether the run was made of real processes."""
    return str(recorded.config.get("engine", {}).get("_target_", "")).endswith("LocalOptions")


class _Pushes(Observer):
    """Keeps of a run's pushes what its timing is made of."""

    def __init__(self) -> None:
        self._rows: list[list[Any]] = []
        self._row: dict[tuple[int, int], int] = {}

    def on_outcome(self, outcome: Outcome, learning_rates: Sequence[float]) -> None:
        """Keep the push, and note whom it released."""
        if push := outcome.push:
            self._row[push.worker, push.clock] = len(self._rows)
            self._rows.append([push.worker, push.clock, push.at / SECOND, push.compute / SECOND, None])
        for release in outcome.released:
            if (row := self._row.pop(release.after, None)) is not None:
                self._rows[row][-1] = release.held / SECOND

    def table(self) -> pd.DataFrame:
        """The pushes in the order in which they were handled; `held_s` is nan for a worker never released."""
        columns = ["worker", "clock", "arrived_s", "compute_s", "held_s"]
        return pd.DataFrame(self._rows, columns=columns).astype({"held_s": float})


def _check_length(recorded: RunRecords, layout: ClusterLayout) -> None:
    if (recorded.summary or {}).get("replacements"):
        problem = "workers of it died and were replaced"
        raise ConfigurationError("RUN", problem, "record one whose workers all live")
    counts = recorded.pushes["worker"].value_counts()
    for worker, described in enumerate(layout.workers):
        if (made := int(counts.get(worker, 0))) < _FEWEST:
            problem = f"{described.name} made {made} iterations, and it takes {_FEWEST} to say what they cost"
            raise ConfigurationError("RUN", problem, "record a longer run")


def _measured_server(recorded: RunRecords) -> dict[str, float]:
    """What the server measured of itself."""
    measured = (recorded.summary or {}).get("server")
    if not measured:
        hint = "it is written at the end of a run, by versions that measure it"
        raise ConfigurationError("RUN", "its summary does not say what the server's work costs", hint)
    return {key: value if key == "busy_share" else _rounded(value) for key, value in measured.items() if value}


def _cores(recorded: RunRecords, layout: ClusterLayout, server_share: float) -> Cores | None:
    """Who computes on this machine's cores: all workers that do not have a GPU; None if that is not known."""
    environment = recorded.environment or {}
    count, devices = environment.get("hardware", {}).get("cores"), environment.get("devices", {}).get("workers")
    if not count or not devices:
        return None
    pairs = zip(layout.workers, devices, strict=True)
    shares = tuple(1.0 / worker.slowdown if device == "cpu" else 0.0 for worker, device in pairs)
    return Cores(count, shares, server_share)


def _fitted(worker: WorkerLayout, fit: ComputeFit, base: float) -> WorkerLayout:
    return worker.model_copy(update={"slowdown": _rounded(fit.typical_s / base), "jitter": fit.jitter})


def _with_latency(calibration: Calibration, recorded: RunRecords, spec: RunSpec) -> Calibration:
    """Choose the latency with which the worker that is delayed least is delayed as much as it was."""
    real = {worker: times for worker, times in delays(recorded.pushes).items() if np.isfinite(times).any()}
    worker = min(real, key=lambda w: float(np.nanmedian(real[w])))
    wanted, latency = float(np.nanmean(real[worker])), 0.0
    spec = prediction_spec(recorded)
    for _ in range(_ROUNDS):
        missing = wanted - float(np.nanmean(delays(predict(calibration, spec))[worker]))
        if abs(missing) < _CLOSE_S:
            break
        latency = max(0.0, latency + missing / 2)  # once on the way there, once on the way back
        network = Network(latency_s=round(latency, 9))
        calibration = replace(calibration, layout=_with(calibration.layout, network=network))
    return calibration


def _with(layout: ClusterLayout, **changes: Any) -> ClusterLayout:
    """The layout with other parts; its list of workers is complete, so that nothing is left to repeat."""
    return layout.model_copy(update={"count": None, **changes})


def _rounded(value: float) -> float:
    """As many digits as a measurement deserves."""
    return float(f"{value:.6g}")
