"""The paper's figures and tables as sets of runs: which arms, on which clocks, at which scale."""

from dataclasses import dataclass
from typing import Any, Literal

from dssp_bench.reference.claims import published_targets

Scale = Literal["full", "mini", "timing"]
SCALES: tuple[Scale, ...] = ("full", "mini", "timing")
CLOCKS = ("updates", "samples")
"""The learning-rate clock as published, and the one on which every paradigm decays at the same epoch."""

_HELD = ("paradigm.held_gradients", "merge_sum")
_TIMING = ("engine=simulated", "engine.train=false", "tracking.figures=false")


@dataclass(frozen=True)
class PlannedArm:
    """One arm of a study: a name for people, the paradigm, and values of keys of its configuration."""

    label: str
    paradigm: str
    values: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Study:
    """One figure of the paper, and what else in the paper is about the same runs.

    `thresholds` are SSP's in the paper and `few_thresholds` those of the smaller scales. `mini_targets` stand for the
    accuracies that the paper's runs are compared at.
    """

    name: str
    figure: str
    title: str
    thresholds: tuple[int, ...]
    mini_targets: tuple[float, ...]
    few_thresholds: tuple[int, ...] = (3, 6, 15)

    @property
    def claimed(self) -> tuple[str, ...]:
        """The experiments under which the paper's claims about these runs are kept."""
        return (self.name, "table1") if self.name == "fig4" else (self.name,)

    @property
    def published_targets(self) -> tuple[float, ...]:
        """The accuracies at which the paper's runs are compared."""
        return published_targets(self.name)

    def targets(self, scale: Scale) -> tuple[float, ...]:
        """The accuracies at which these runs are compared; none without accuracies."""
        return {"full": self.published_targets, "mini": self.mini_targets, "timing": ()}[scale]

    def overrides(self, scale: Scale) -> tuple[str, ...]:
        """What all runs of this study have in common at this scale, as one would type it after `dssp-bench run`."""
        if scale == "timing":
            return (f"experiment=paper/{self.name}", *_TIMING)
        return (f"experiment=paper/{'mini/' if scale == 'mini' else ''}{self.name}",)

    def arms(self, scale: Scale) -> list[PlannedArm]:
        """The arms in the order of the paper's legends, on both clocks.

        Without gradients the clock changes nothing but the moments at which the rate drops, so one is enough.
        """
        thresholds = self.thresholds if scale == "full" else self.few_thresholds
        return [
            PlannedArm(f"{label}, clock of {clock}", paradigm, (*values, ("schedule.clock", clock)))
            for clock in (CLOCKS[:1] if scale == "timing" else CLOCKS)
            for label, paradigm, values in _paradigms(thresholds)
        ]

    def seeds(self, scale: Scale) -> tuple[int, ...]:
        """Three, as in the paper; one where nothing is drawn, since the pair's iteration times do not vary."""
        return (1,) if scale == "timing" and self.name == "fig4" else (1, 2, 3)


def _paradigms(thresholds: tuple[int, ...]) -> list[tuple[str, str, tuple[tuple[str, Any], ...]]]:
    """The paper's paradigms. A held worker's gradient joins the update that releases it, as the paper's curves tell."""
    return [
        ("BSP", "bsp", ()),
        ("ASP", "asp", ()),
        *((f"SSP {s}", "ssp", (("paradigm.threshold", s), _HELD)) for s in thresholds),
        ("DSSP 3-15", "dssp", (("paradigm.lower", 3), ("paradigm.upper", 15), _HELD)),
    ]


_ALL_THRESHOLDS = tuple(range(3, 16))

STUDIES = {
    study.name: study
    for study in (
        Study("fig3a", "Fig. 3a", "A small AlexNet on CIFAR-10, four equal workers", _ALL_THRESHOLDS, (0.9,)),
        Study("fig3c", "Fig. 3c", "ResNet-50 on CIFAR-100, four equal workers", _ALL_THRESHOLDS, (0.585,)),
        Study("fig3e", "Fig. 3e", "ResNet-110 on CIFAR-100, four equal workers", _ALL_THRESHOLDS, (0.585,)),
        Study("fig4", "Fig. 4", "ResNet-110 on CIFAR-100, a fast and a slow worker", (3, 6, 15), (0.59,)),
    )
}
"""By name; Table I of the paper is about the runs of its Fig. 4."""
