"""Who the workers of a run are, how fast each is, what happens to them, and what network and server surround them."""

from __future__ import annotations

import itertools
import re
from math import prod
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from dssp_bench.core.messages import SECOND, Nanoseconds, WorkerId
from dssp_bench.engines.compute_time import PRESETS, Jitter

# No cost or moment is of another order than a run's: the clock, in nanoseconds, ends after 292 years.
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Slowdown = Annotated[float, Field(gt=0, le=1e12)]


Resources = dict[str, NonNegative]
"""How much of what a cluster must offer, in Ray's words."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _numbered(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), AfterValidator(_numbered)]
"""Where something lives or computes: `auto`, `cpu`, `cuda` (the first) or `cuda:N`."""


def _preset(value: Any) -> Any:
    if isinstance(value, str):
        if value not in PRESETS:
            raise ValueError(f"unknown preset {value!r}; there are {', '.join(PRESETS)}")
        return PRESETS[value]
    return value if value is not None else Jitter()


class WorkerLayout(_Part):
    """One worker: its name, how many times slower than the base it is, its device, and the noise of its times.

    `device` is `auto`, `cpu`, `cuda` or `cuda:N`. `jitter` is a preset's name or a `Jitter`; it acts in virtual time
    only. `resources` is what a cluster must offer this worker.
    """

    name: str = ""
    slowdown: Slowdown = 1.0
    device: Device = "auto"
    jitter: Annotated[Jitter, BeforeValidator(_preset)] = Jitter()
    resources: Resources = {}


class Network(_Part):
    """What a message costs on its way: `latency_s + keys * per_key_s + bytes / bandwidth_bytes_per_s`."""

    latency_s: NonNegative = 0.0
    per_key_s: NonNegative = 0.0
    bandwidth_bytes_per_s: Annotated[float, Field(ge=1)] | None = None

    def transit(self, keys: int, size: int) -> Nanoseconds:
        """Nanoseconds for one message of so many keys and bytes."""
        seconds = self.latency_s + keys * self.per_key_s
        if self.bandwidth_bytes_per_s:
            seconds += size / self.bandwidth_bytes_per_s
        return round(seconds * SECOND)


class Server(_Part):
    """What a message costs the server, which does one thing at a time: a fixed part, and a part per key.

    `receive` is spent on every push, `update` on every change of the weights, `reply` on every release. `resources` is
    what a cluster must offer each of the server's shards.
    """

    device: Device = "auto"
    resources: Resources = {}
    receive_s: NonNegative = 0.0
    receive_per_key_s: NonNegative = 0.0
    update_s: NonNegative = 0.0
    update_per_key_s: NonNegative = 0.0
    reply_s: NonNegative = 0.0
    reply_per_key_s: NonNegative = 0.0

    def costs(self, keys: int) -> tuple[Nanoseconds, Nanoseconds, Nanoseconds]:
        """Nanoseconds of receive, update and reply for messages of so many keys."""
        fixed = (self.receive_s, self.update_s, self.reply_s)
        per_key = (self.receive_per_key_s, self.update_per_key_s, self.reply_per_key_s)
        receive, update, reply = (round((f + keys * k) * SECOND) for f, k in zip(fixed, per_key, strict=True))
        return receive, update, reply


class LayoutEvent(_Part):
    """Something that happens to a worker: it is `slowdown` times slower for `for_s`, or leaves, or joins only then."""

    worker: Annotated[int, Field(ge=0)]
    at_s: NonNegative
    slowdown: Slowdown | None = None
    for_s: Positive | None = None
    leave: bool = False
    join: bool = False

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if (self.slowdown is not None) + self.leave + self.join != 1:
            raise ValueError("an event is exactly one of `slowdown: FACTOR`, `leave: true` and `join: true`")
        return self

    def lasts_at(self, at: Nanoseconds) -> bool:
        """Whether the event has begun and is not over."""
        return self.at_s * SECOND <= at and (self.for_s is None or at < (self.at_s + self.for_s) * SECOND)


class ClusterLayout(_Part):
    """A list of workers and what surrounds them; `count` repeats the list to that many workers, names included.

    `iteration_s` is the base time of an iteration in virtual time; without it the model's own is taken. `keys` and
    `message_bytes` are the size of one push or pull for the cost model; without them the model's own are taken.
    """

    workers: Annotated[tuple[WorkerLayout, ...], Field(min_length=1)]
    count: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    iteration_s: Positive | None = None
    keys: Annotated[int, Field(ge=1)] | None = None
    message_bytes: Annotated[int, Field(ge=1)] | None = None
    network: Network = Network()
    server: Server = Server()
    events: tuple[LayoutEvent, ...] = ()

    @field_validator("workers")
    @classmethod
    def _fill_in_names(cls, workers: tuple[WorkerLayout, ...]) -> tuple[WorkerLayout, ...]:
        return tuple(
            worker if worker.name else worker.model_copy(update={"name": f"worker_{i}"})
            for i, worker in enumerate(workers)
        )

    @model_validator(mode="after")
    def _repeat_and_check(self) -> Self:
        if self.count is not None:
            object.__setattr__(self, "workers", _repeat(self.workers, self.count))
        for event in self.events:
            if event.worker >= len(self.workers):
                raise ValueError(f"an event names worker {event.worker}, but workers are 0 to {len(self.workers) - 1}")
        late = {event.worker for event in self.events if event.join}
        if len(late) == len(self.workers):
            raise ValueError("at least one worker must be there from the start")
        for worker in {event.worker for event in self.events}:
            self._check_membership(worker)
        return self

    def _check_membership(self, worker: WorkerId) -> None:
        mine = [event for event in self.events if event.worker == worker]
        joins, leaves = ([e.at_s for e in mine if e.join], [e.at_s for e in mine if e.leave])
        if len(joins) > 1 or len(leaves) > 1:
            raise ValueError(f"worker {worker} can join once and leave once")
        if joins and leaves and leaves[0] <= joins[0]:
            raise ValueError(f"worker {worker} leaves at {leaves[0]:g} s, but joins only at {joins[0]:g} s")

    @property
    def present(self) -> list[WorkerId]:
        """The workers that are there from the start."""
        late = {event.worker for event in self.events if event.join}
        return [worker for worker in range(len(self.workers)) if worker not in late]

    def slowdown(self, worker: WorkerId, at: Nanoseconds) -> float:
        """How many times slower than the base this worker is at that moment."""
        factor = self.workers[worker].slowdown
        for event in self.events:
            if event.worker == worker and event.slowdown is not None and event.lasts_at(at):
                factor *= event.slowdown
        return factor

    def largest_slowdown(self, worker: WorkerId) -> float:
        """How many times slower than the base this worker can become."""
        phases = [event.slowdown for event in self.events if event.worker == worker and event.slowdown]
        return self.workers[worker].slowdown * prod(max(1.0, factor) for factor in phases)

    @property
    def has_jitter(self) -> bool:
        """Whether any worker's times vary by themselves."""
        return any(worker.jitter.varies for worker in self.workers)

    @property
    def has_costs(self) -> bool:
        """Whether messages cost anything, so that their size matters."""
        server = self.server.model_copy(update={"device": "auto", "resources": {}})
        return self.network != Network() or server != Server()


def _repeat(workers: tuple[WorkerLayout, ...], count: int) -> tuple[WorkerLayout, ...]:
    """The list again and again; from the second time on names are numbered so that they stay apart."""
    names: dict[str, int] = {}
    repeated: list[WorkerLayout] = []
    for worker in itertools.islice(itertools.cycle(workers), count):
        times = names[worker.name] = names.get(worker.name, 0) + 1
        numbered = re.sub(r"^worker_\d+$", f"worker_{len(repeated)}", worker.name)
        if numbered == worker.name and times > 1:
            numbered = f"{worker.name}_{times}"
        repeated.append(worker.model_copy(update={"name": numbered}))
    return tuple(repeated)
