"""What the paper says, as data: a claim compares two selections of arms under one measure. `claims.yaml` has them."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dssp_bench.reference.measures import MEASURES, Bounds, Measure, MeasureName

Selection = Literal["bsp", "asp", "ssp", "ssp_average", "dssp"]
"""The arms of one paradigm: `ssp` is every SSP arm by itself, `ssp_average` the mean over them."""

Experiment = Literal["fig3a", "fig3c", "fig3e", "fig4", "table1"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Selections = Annotated[tuple[Selection, ...], BeforeValidator(_as_list), Field(min_length=1)]


class Claim(BaseModel):
    """One comparison: the left arms' measure is less than, greater than, or similar to the right arms'.

    Every left arm is compared with every right one; all comparisons must hold, or all but one. `least` is the smallest
    effect that the words allow, as a factor or a difference in accuracy; `tolerance` how far apart similar values may
    be: with 0.1, by a factor of 1.1, or by an accuracy of 0.1. `target` is the first or the second of the accuracies
    that an experiment names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    by: Literal["authors", "reading"]
    where: str
    experiment: Experiment
    says: str
    measure: MeasureName
    target: Literal["first", "second"] | None = None
    left: Selections
    direction: Literal["less", "greater", "similar"]
    right: Selections
    quantifier: Literal["all", "all_but_one"] = "all"
    least: Annotated[float, Field(gt=0)] | None = None
    tolerance: Annotated[float, Field(gt=0)] | None = None
    contradicted: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.measure == "time_to_target") != (self.target is not None):
            raise ValueError("time_to_target needs a target, and nothing else has one")
        if (self.direction == "similar") != (self.tolerance is not None):
            raise ValueError("similar needs a tolerance, and nothing else has one")
        if self.direction == "similar" and self.least is not None:
            raise ValueError("similar has no least effect")
        if set(self.left) & set(self.right):
            raise ValueError("an arm cannot be compared with itself")
        return self

    @property
    def compared(self) -> Measure:
        """The measure."""
        return MEASURES[self.measure]

    @property
    def exceptions(self) -> int:
        """How many comparisons may fail."""
        return 1 if self.quantifier == "all_but_one" else 0

    @property
    def bar(self) -> str:
        """What an effect must be for the claim to hold, in words."""
        if self.direction == "similar":
            low, high = self.compared.unscaled(-self._allowed), self.compared.unscaled(self._allowed)
            return f"between {low:.4g} and {high:.4g}"
        need = self.compared.unscaled(self._sign * self._need + 0.0)
        return f"{'above' if self._sign > 0 else 'below'} {need:.4g}"

    def margin(self, effect: float) -> float:
        """How far an effect is beyond the bar; positive where the claim holds. On the measure's scale."""
        scaled = self.compared.scaled(effect)
        return self._allowed - abs(scaled) if self.direction == "similar" else self._sign * scaled - self._need

    def margins(self, effects: Bounds) -> Bounds:
        """The smallest and the largest margin of all effects between two."""
        ends = self.margin(effects.low), self.margin(effects.high)
        scaled = self.compared.scaled(effects.low), self.compared.scaled(effects.high)
        has_none = self.direction == "similar" and scaled[0] <= 0 <= scaled[1]
        return Bounds(min(ends), self._allowed if has_none else max(ends))

    @property
    def _sign(self) -> int:
        """1 if the effect must be large, -1 if it must be small."""
        return 1 if (self.direction == "less") == (self.compared.kind == "time") else -1

    @property
    def _need(self) -> float:
        return self.compared.scaled(self.compared.resolution if self.least is None else self.least)

    @property
    def _allowed(self) -> float:
        tolerance = self.tolerance or 0.0
        return tolerance if self.compared.kind == "accuracy" else self.compared.scaled(1 + tolerance)


def claims(experiment: str | None = None) -> tuple[Claim, ...]:
    """The claims about one experiment, or all, in the order of the file."""
    return tuple(claim for claim in _claims() if experiment in (None, claim.experiment))


def published_targets(experiment: str) -> tuple[float, ...]:
    """The accuracies at which the paper's runs of this experiment are compared: the first and the second."""
    return tuple(_file()["targets"][experiment])


@cache
def _claims() -> tuple[Claim, ...]:
    return tuple(Claim.model_validate(item) for item in _file()["claims"])


@cache
def _file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
    return content
