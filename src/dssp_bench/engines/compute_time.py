"""How long an iteration takes in virtual time: a base, times a worker's slowdown, times noise, times a slow state.

Mini-batch times on shared clusters are correlated from one iteration to the next (about 0.96) and now and then fall
into a slow state of about twice the time (fitted to Alibaba's published PAI mini-batch times, 2020), so independent
draws would be wrong for them; and their own tail is thin, so Pareto is a stress case and not a model of them.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_BLOCK = 64  # drawn at a time; another number changes no stream
Block = NDArray[np.float64]
Fraction = Annotated[float, Field(ge=0, le=1)]


class SlowState(BaseModel):
    """A worker falls into a slow state with probability `enter` per iteration, and leaves it with `leave`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    enter: Fraction = 0.001
    leave: Annotated[float, Field(gt=0, le=1)] = 0.06
    factor: Annotated[float, Field(ge=1)] = 2.0


class Jitter(BaseModel):
    """Multiplicative noise on one worker's iteration times; the median factor is 1, except where said.

    - `constant`: none
    - `lognormal`: exp of a normal with standard deviation `sigma`, correlated by `rho` from one iteration to the next
    - `shifted_exponential`: 1 plus an exponential of mean `scale`
    - `pareto`: a Pareto of minimum 1 with exponent `alpha`
    - `trace`: the recorded `factors`, again and again
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["constant", "lognormal", "shifted_exponential", "pareto", "trace"] = "constant"
    sigma: Annotated[float, Field(ge=0, le=5)] = 0.0
    rho: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scale: Annotated[float, Field(ge=0)] = 0.1
    alpha: Annotated[float, Field(gt=0)] = 1.5
    factors: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    slow_state: SlowState | None = None

    @property
    def varies(self) -> bool:
        """Whether it does anything."""
        return self.kind != "constant" or self.slow_state is not None

    def stream(self, seed: int) -> Iterator[float]:
        """An endless stream of factors that depends on nothing but the seed."""
        for block in self.blocks(seed):
            yield from block.tolist()

    def blocks(self, seed: int) -> Iterator[Block]:
        """The same stream, cut into blocks of a fixed length."""
        blocks = self._kind_of_blocks(np.random.Generator(np.random.Philox(seed)))
        if self.slow_state:
            blocks = _with_slow_state(blocks, self.slow_state, np.random.Generator(np.random.Philox(seed + 1)))
        return blocks

    def _kind_of_blocks(self, rng: np.random.Generator) -> Iterator[Block]:
        if self.kind == "lognormal":
            yield from _autoregressive(rng, self.sigma, self.rho)
        again = cycle(self.factors)
        while True:
            if self.kind == "shifted_exponential":
                yield 1.0 + rng.exponential(self.scale, _BLOCK)
            elif self.kind == "pareto":
                yield 1.0 + rng.pareto(self.alpha, _BLOCK)
            elif self.kind == "trace":
                yield np.fromiter(again, float, _BLOCK)
            else:
                yield np.ones(_BLOCK)


PRESETS: dict[str, Jitter] = {
    # dedicated GPUs: 2 % between iterations of one worker
    "dedicated": Jitter(kind="lognormal", sigma=0.02),
    # Alibaba PAI 2020, jobs 1 to 3: sd 0.06, correlation 0.65 to 0.74 at lag 10 (0.96 each), slow state twice as slow
    "shared": Jitter(kind="lognormal", sigma=0.06, rho=0.96, slow_state=SlowState(enter=0.001, leave=0.06, factor=2.0)),
    # Alibaba PAI 2020, job 4: sd 0.25, slow for 4 % of the time
    "noisy": Jitter(kind="lognormal", sigma=0.25, rho=0.96, slow_state=SlowState(enter=0.002, leave=0.05, factor=2.3)),
    # far heavier than measured on GPUs
    "stress": Jitter(kind="pareto", alpha=1.5),
}


class Streams:
    """Every worker's stream, the next factors of all of them side by side in one piece of memory.

    With thousands of workers, nothing of a generator is in the cache when its turn comes again; taking one factor from
    each of 10,000 generators takes half of all virtual time.
    """

    def __init__(self, jitters: Sequence[Jitter], seeds: Sequence[int]) -> None:
        self._blocks = [jitter.blocks(seed) for jitter, seed in zip(jitters, seeds, strict=True)]
        self._factors = array("d", bytes(8 * _BLOCK * len(jitters)))
        self._rows = np.frombuffer(self._factors).reshape(len(jitters), _BLOCK)
        self._taken = [0] * len(jitters)  # of the row, if any

    def next(self, worker: int) -> float:
        """The worker's next factor."""
        taken = self._taken[worker]
        if taken == 0:
            self._rows[worker] = next(self._blocks[worker])
        self._taken[worker] = (taken + 1) % _BLOCK
        return self._factors[worker * _BLOCK + taken]


def _autoregressive(rng: np.random.Generator, sigma: float, rho: float) -> Iterator[Block]:
    """exp of a stationary AR(1) process."""
    state = rng.normal(0.0, sigma)
    innovation = sigma * float(np.sqrt(1.0 - rho * rho))
    while True:
        block = []  # of Python's own numbers, which are faster one by one
        for step in rng.normal(0.0, innovation, _BLOCK).tolist():
            block.append(state)
            state = rho * state + step
        yield np.exp(block)


def _with_slow_state(blocks: Iterator[Block], slow: SlowState, rng: np.random.Generator) -> Iterator[Block]:
    is_slow = False
    for block in blocks:
        draws = rng.random(len(block))
        if not is_slow and draws.min() >= slow.enter:  # as nearly always
            yield block
            continue
        factors = []
        for draw in draws.tolist():
            is_slow = draw >= slow.leave if is_slow else draw < slow.enter
            factors.append(slow.factor if is_slow else 1.0)
        yield block * factors
