"""What travels between an engine, the coordinator and the parameter server: plain values, never changed."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple

WorkerId = int
Nanoseconds = int
"""A moment on, or a span of, the engine's clock; the run starts at 0."""

SECOND: Nanoseconds = 1_000_000_000

new = tuple.__new__
"""Makes one of these from all its fields in half the time that its class takes; for what happens at every push."""


class MessageId(NamedTuple):
    """Names one gradient: who computed it, and the clock its push set."""

    worker: WorkerId
    clock: int


# --- events: what an engine tells the coordinator ---


class Push(NamedTuple):
    """A worker finished an iteration and its gradient is complete at the server.

    One that is not `finite`, with a NaN or an infinity in it, counts as a push and never changes the weights.
    """

    worker: WorkerId
    at: Nanoseconds
    compute: Nanoseconds = 0
    loss: float | None = None
    finite: bool = True


class Left(NamedTuple):
    """A worker is gone: it finished its share, was told to leave, or died."""

    worker: WorkerId
    at: Nanoseconds


class Joined(NamedTuple):
    """A new worker stands ready; it starts at the slowest clock."""

    worker: WorkerId
    at: Nanoseconds


class TimerFired(NamedTuple):
    """A moment that the paradigm asked for has come."""

    tag: str
    at: Nanoseconds


Event = Push | Left | Joined | TimerFired


# --- decisions: what a paradigm answers ---


class Use(Enum):
    """What happens to the gradient that has just been pushed."""

    APPLY = auto()
    BUFFER = auto()
    DROP = auto()
    SKIP = auto()  # the core's own answer to a gradient that is not finite, whatever the paradigm says


class Flush(Enum):
    """How all buffered gradients become one update."""

    MEAN = auto()
    SUM = auto()


class Timer(NamedTuple):
    """A moment at which the paradigm wants to be asked again."""

    tag: str
    at: Nanoseconds


class Grant(NamedTuple):
    """DSSP's controller gave the fastest worker `r_star` iterations beyond the lower bound."""

    worker: WorkerId
    at: Nanoseconds
    lead: int
    r_star: int
    predicted_wait: Nanoseconds


class Decision(NamedTuple):
    """A paradigm's whole answer to one event.

    `weight` scales the pushed gradient. `flush` turns buffered gradients (the pushed one included, if it was buffered)
    into one update: all of them by their mean or sum, or those named, each with its weight. `release` names held
    workers, and may name the pusher.
    """

    use: Use = Use.APPLY
    release: tuple[WorkerId, ...] = ()
    flush: Flush | Mapping[MessageId, float] | None = None
    weight: float = 1.0
    timers: tuple[Timer, ...] = ()
    grant: Grant | None = None


# --- evaluations: how good the weights were ---


class Evaluation(NamedTuple):
    """Loss and accuracy of one version on the full test set; an epoch is one pass over the training set."""

    at: Nanoseconds
    version: int
    samples: int
    epoch: float
    loss: float
    accuracy: float


# --- outcomes: what the coordinator tells the parameter server, the engine and the observers ---


class PushRecord(NamedTuple):
    """One push as the experiment's record keeps it; `staleness` and `held` stay None while they are not known."""

    worker: WorkerId
    clock: int
    lead: int
    pulled_version: int
    version: int
    staleness: int | None
    at: Nanoseconds
    compute: Nanoseconds
    held: Nanoseconds | None
    use: Use
    threshold: int | None
    loss: float | None


class Applied(NamedTuple):
    """A gradient became part of an update; `staleness` counts the updates since its worker's pull."""

    message: MessageId
    staleness: int
    weight: float


class Update(NamedTuple):
    """One change of the weights, made from one or more gradients; it sets `version`."""

    version: int
    at: Nanoseconds
    gradients: tuple[Applied, ...]


class Release(NamedTuple):
    """A worker may start its next iteration after `held` nanoseconds; `after` is the push that it was held at."""

    worker: WorkerId
    held: Nanoseconds
    after: MessageId


class Outcome(NamedTuple):
    """The coordinator's whole answer to one event: first the updates in order, then the releases, then the timers.

    `keep` names gradients that stay buffered although their worker is released, and so must be copied before it
    overwrites them.
    """

    at: Nanoseconds
    push: PushRecord | None = None
    updates: tuple[Update, ...] = ()
    released: tuple[Release, ...] = ()
    keep: tuple[MessageId, ...] = ()
    timers: tuple[Timer, ...] = ()
    grant: Grant | None = None
