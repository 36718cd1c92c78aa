"""Whether the records of a run over `telltale` are whole: each push counted once, and the weights their sum.

What a run records of its decisions is played once more by a coordinator and seen by a referee, who adds up what was
applied; weights that were pulled, evaluated, checkpointed and kept must be exactly what comes out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dssp_bench.core.coordinator import Coordinator
from dssp_bench.core.messages import SECOND, Event, Joined, Left, MessageId, Outcome, Push, WorkerId
from dssp_bench.experiment.plan import make_plan
from dssp_bench.experiment.replay import differences, recorded_spec, replay_records
from dssp_bench.experiment.spec import RunSpec, build_spec
from dssp_bench.records.checkpoints import Checkpoint, newest
from dssp_bench.records.reader import RunRecords
from tests.faults.telltale import gradient_of, weight_in
from tests.scenario import PromiseError, Referee, promise_of

_EXACT = {1, 2, 4}
"""How many gradients of `telltale` have a mean without rounding."""


class BadRecordsError(AssertionError):
    """Records that contradict each other, or the weights."""


@dataclass
class Told:
    """What a run's folder says; the columns of each table, as lists."""

    folder: Path
    spec: RunSpec
    records: RunRecords
    tables: dict[str, dict[str, list[Any]]]
    checkpoint: Checkpoint | None
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def pushes(self) -> int:
        """How many were recorded."""
        return len(self.tables["pushes"]["worker"])

    @property
    def summary(self) -> dict[str, Any]:
        """What was said at the end; nothing if nobody was there to say it."""
        return self.records.summary or {}


def audit(folder: Path) -> Counter[str]:
    """Check all that a run has left, however it ended, and count what there was to check. Raises BadRecordsError."""
    told = _read(folder)
    _check_columns(told)
    _check_summary(told)
    membership, replacements = told.summary.get("membership"), told.summary.get("replacements")
    if membership is not None:
        _check_replay(told)
    elif told.checkpoint is not None:
        state = told.checkpoint.state
        membership, replacements = state["membership"], dict(state.get("replaced", []))
        told = _as_of(told, state["pushes"], state["version"])
    outcomes = None
    if membership is not None:
        outcomes = _decide_again(told, membership)
        _check_decisions(told, outcomes)
    places = _places(told, replacements)
    if places is None or (outcomes is None and told.spec.paradigm.held_gradients != "apply"):
        told.counts["records without weights to compare"] += 1
    else:
        _check_weights(told, _weights(told, _gradients(told, places), outcomes))
    return told.counts


def _read(folder: Path) -> Told:
    records = RunRecords.open(folder)
    config = dict(records.config)
    spec = build_spec(config, config.pop("choices", {}))
    checkpoint, refused = newest(folder)
    _check(not refused, f"checkpoints are damaged: {refused}")
    tables = {name: records.table(name).to_pydict() for name in ("pushes", "updates", "evaluations", "grants")}
    told = Told(folder, spec, records, tables, checkpoint)
    told.counts["pushes"] += told.pushes
    return told


def _check(holds: object, complaint: str) -> None:
    if not holds:
        raise BadRecordsError(complaint)


# --- each table for itself ---


def _check_columns(told: Told) -> None:
    pushes, updates = told.tables["pushes"], told.tables["updates"]
    clocks: dict[WorkerId, int] = {}
    for worker, clock in zip(pushes["worker"], pushes["clock"], strict=True):
        before = clocks.get(worker, 0 if worker in told.spec.cluster.present else clock - 1)
        _check(clock == before + 1, f"clock {clock} of worker {worker} came after {before}")
        clocks[worker] = clock
    versions = updates["version"]
    _check(versions == list(range(1, len(versions) + 1)), f"versions do not count up by one: {versions[:20]}...")
    for name, column in (("pushes", "arrived_s"), ("pushes", "version"), ("updates", "at_s"), ("grants", "at_s")):
        rows = told.tables[name][column]
        _check(all(a <= b for a, b in pairwise(rows)), f"{column} of {name} goes back")
    promise = promise_of(told.spec.paradigm)
    if promise.push_lead is not None:
        _check(max(pushes["lead"], default=0) <= promise.push_lead, f"a lead of {max(pushes['lead'], default=0)}")
    _check(set(pushes["action"]) <= {"apply", "buffer"}, f"actions: {set(pushes['action'])}")
    for version, pulled in zip(pushes["version"], pushes["pulled_version"], strict=True):
        _check(pulled <= version, f"a push pulled version {pulled} before version {version}")


def _check_summary(told: Told) -> None:
    summary = told.summary
    if not summary:
        return
    _check(told.records.finished, "there is a summary, but the records are not finished")
    _check(summary["pushes"] == told.pushes, f"{told.pushes} pushes, and the summary says {summary['pushes']}")
    updates = len(told.tables["updates"]["version"])
    _check(summary["updates"] == updates, f"{updates} updates, and the summary says {summary['updates']}")
    latest = {event["worker"]: event["event"] for event in summary["membership"] or []}
    back = [worker for worker in summary["lost_workers"] if latest.get(worker) == "joined"]
    _check(not back, f"workers {back} have died, and are there")
    if summary["status"] == "finished":
        _check_is_over(told)
        _check(not (told.folder / "checkpoints").exists(), "the run has finished and still has checkpoints")
        _check(not list(told.folder.glob("*.arrows")), "the run has finished and still has streams")


def _check_is_over(told: Told) -> None:
    """A run that finished has come to one of its limits."""
    stop, pushes = told.spec.stop, told.tables["pushes"]
    gone = {event["worker"] for event in told.summary["membership"] if event["event"] == "left"}
    nobody_left = set(told.spec.cluster.present) | set(pushes["worker"]) <= gone
    if stop.pushes is not None:
        at_its_end = told.pushes == stop.pushes or (nobody_left and told.pushes < stop.pushes)
        _check(at_its_end, f"finished after {told.pushes} of {stop.pushes} pushes")
    share = make_plan(told.spec, told.spec.dataset.facts()).limits.iterations
    if share is not None:
        reached = max(pushes["clock"], default=0)
        _check(reached <= share, f"clock {reached} is beyond everyone's share, {share}")
        _check(nobody_left or reached == share, f"finished at clock {reached} of {share}, and not everyone has left")


# --- decisions ---


def _as_of(told: Told, pushes: int, version: int) -> Told:
    """What was recorded up to the checkpoint, which is as far as anybody knows who was there."""
    tables = {name: dict(table) for name, table in told.tables.items()}
    _check(pushes <= told.pushes, f"a checkpoint after {pushes} pushes, of which {told.pushes} were recorded")
    for name, size in (("pushes", pushes), ("updates", version)):
        tables[name] = {column: rows[:size] for column, rows in tables[name].items()}
    evaluated = [row for row, seen in enumerate(tables["evaluations"]["version"]) if seen <= version]
    tables["evaluations"] = {name: [rows[row] for row in evaluated] for name, rows in tables["evaluations"].items()}
    return replace(told, tables=tables)


def _events(told: Told, membership: list[dict[str, Any]]) -> Iterator[Event]:
    rows = [told.tables["pushes"][name] for name in ("worker", "arrived_s", "compute_s", "loss")]
    news = list(membership)
    for number, (worker, arrived_s, compute_s, loss) in enumerate(zip(*rows, strict=True)):
        while news and news[0]["after_pushes"] <= number:
            yield _member(news.pop(0))
        yield Push(worker, round(arrived_s * SECOND), round(compute_s * SECOND), loss)
    yield from map(_member, news)


def _member(entry: dict[str, Any]) -> Event:
    return (Left if entry["event"] == "left" else Joined)(entry["worker"], entry["at_ns"])


def _decide_again(told: Told, membership: list[dict[str, Any]]) -> list[Outcome]:
    coordinator = Coordinator(told.spec.paradigm, told.spec.cluster.present)
    outcomes = [coordinator.start()]
    referee = Referee(promise_of(told.spec.paradigm), outcomes[0])
    try:
        for event in _events(told, membership):
            outcomes.append(coordinator.handle(event))
            referee.saw(event, outcomes[-1])
    except PromiseError as error:
        raise BadRecordsError(f"the referee: {error}") from error
    told.counts["decisions"] += len(outcomes)
    return outcomes


def _check_decisions(told: Told, outcomes: list[Outcome]) -> None:
    pushes = told.tables["pushes"]
    decided = [outcome.push for outcome in outcomes if outcome.push]
    _check(len(decided) == told.pushes, f"{told.pushes} pushes were recorded, and {len(decided)} decided")
    for name in ("worker", "clock", "lead", "pulled_version", "version", "threshold"):
        again = [getattr(push, name) for push in decided]
        row = next((n for n, (a, b) in enumerate(zip(again, pushes[name], strict=True)) if a != b), None)
        _check(row is None, f"push {row}: {name} is not as it is decided again")
    _check([push.use.name.lower() for push in decided] == pushes["action"], "actions are not as they are decided again")
    again = [len(update.gradients) for outcome in outcomes for update in outcome.updates]
    _check(again == told.tables["updates"]["pushes"], "updates are not as they are decided again")
    applied = Counter(g.message for outcome in outcomes for update in outcome.updates for g in update.gradients)
    _check(max(applied.values(), default=1) == 1, f"applied twice: {applied.most_common(1)}")


def _check_replay(told: Told) -> None:
    """The way of `engine=replay`, through files."""
    with TemporaryDirectory(prefix="replay-") as folder:
        replayed = replay_records(told.records, recorded_spec(told.records), Path(folder))
        different = differences(told.records, replayed)
    _check(not any(different.values()), f"a replay decides otherwise: {different} rows differ")
    told.counts["replays"] += 1


# --- weights ---


def _places(told: Told, replacements: Mapping[Any, int] | None) -> dict[WorkerId, WorkerId] | None:
    """Where in the layout each worker stands; None if that is not known."""
    places = {worker: worker for worker in range(len(told.spec.cluster.workers))}
    for worker, former in sorted((int(w), f) for w, f in (replacements or {}).items()):
        places[worker] = places[former]
    return places if set(told.tables["pushes"]["worker"]) <= places.keys() else None


def _gradients(told: Told, places: Mapping[WorkerId, WorkerId]) -> dict[MessageId, int]:
    """The gradient of each push; a worker that takes another's place goes on with its iterations."""
    made: Counter[WorkerId] = Counter()
    gradients = {}
    pushes = told.tables["pushes"]
    for worker, clock in zip(pushes["worker"], pushes["clock"], strict=True):
        place = places[worker]
        gradients[MessageId(worker, clock)] = gradient_of(told.spec.seed, place, made[place])
        made[place] += 1
    return gradients


@dataclass
class Weights:
    """What every weight is, by version, and up to which version float32 has that exactly."""

    of: list[Fraction]
    exact: int

    def check(self, version: int, seen: float, where: str) -> None:
        """Raise BadRecordsError unless this is what was to be seen."""
        _check(version < len(self.of), f"{where} is of version {version}, and there are {len(self.of)}")
        error = abs(float(self.of[version]) - seen)
        _check(
            error == 0 if version <= self.exact else error <= 1.5,
            f"{where} has weight {seen} at version {version}, where the sum of what was pushed is {self.of[version]}",
        )


def _weights(told: Told, gradients: Mapping[MessageId, int], outcomes: list[Outcome] | None) -> Weights:
    """Each version's, at a learning rate of 1 and without momentum."""
    weights = Weights([Fraction(0)], exact=10**9)
    if outcomes is None:  # nobody knows who left when, but every gradient was applied alone
        for gradient in gradients.values():
            weights.of.append(weights.of[-1] - gradient)
        return weights
    for outcome in outcomes:
        for update in outcome.updates:
            count = len(update.gradients)
            mean = update.gradients[0].weight != 1.0
            total = sum(gradients[gradient.message] for gradient in update.gradients)
            weights.of.append(weights.of[-1] - (Fraction(total, count) if mean else total))
            if mean and count not in _EXACT:
                weights.exact = min(weights.exact, update.version - 1)
    return weights


def _check_weights(told: Told, weights: Weights) -> None:
    pushes, evaluations = told.tables["pushes"], told.tables["evaluations"]
    for number, (pulled, loss) in enumerate(zip(pushes["pulled_version"], pushes["loss"], strict=True)):
        weights.check(pulled, weight_in(loss), f"push {number}, as it was computed,")
    for version, loss in zip(evaluations["version"], evaluations["loss"], strict=True):
        weights.check(version, weight_in(loss), "an evaluation")
    told.counts["evaluations"] += len(evaluations["version"])
    if told.checkpoint is not None:
        _check_checkpoint(told, told.checkpoint, weights)
    final = told.summary.get("weights_sha256")
    last = len(told.tables["updates"]["version"])
    if final is not None and last <= weights.exact:
        size = told.spec.model.parameters  # type: ignore[attr-defined]
        expected = np.full(size, float(weights.of[last]), np.float32)
        _check(sha256(expected.data).hexdigest() == final, "the final weights are not what was pushed")
        told.counts["final weights"] += 1


def _check_checkpoint(told: Told, checkpoint: Checkpoint, weights: Weights) -> None:
    state, tensors = checkpoint.state, checkpoint.tensors()
    for name, version in [("weights", state["version"])]:
        smallest, largest = float(tensors[name].min()), float(tensors[name].max())
        _check(smallest == largest, f"the checkpoint's {name} are from {smallest} to {largest}")
        weights.check(version, largest, f"the checkpoint's {name}")
    told.counts["checkpoints"] += 1
