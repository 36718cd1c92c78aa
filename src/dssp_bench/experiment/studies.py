"""The paper's figures and tables as sets of runs: which arms, on which clocks, at which scale.

A study knows nothing of Hydra: its runs are lists of overrides, as one would type them after `dssp-bench run`.
"""

from dataclasses import dataclass
from typing import Literal

Scale = Literal["full", "mini", "timing"]
SCALES: tuple[Scale, ...] = ("full", "mini", "timing")
CLOCKS = ("updates", "samples")
"""The learning-rate clock as published, and the one on which every paradigm decays at the same epoch."""

_HELD = "paradigm.held_gradients=merge_sum"
_TIMING = ("engine=simulated", "engine.train=false")


@dataclass(frozen=True)
class PlannedArm:
    """One arm of a study: a name for people, what to override, and the clock."""

    label: str
    overrides: tuple[str, ...]
    clock: str


@dataclass(frozen=True)
class Study:
    """One figure of the paper; `targets` are the accuracies whose times are compared, per scale."""

    name: str
    title: str
    thresholds: tuple[int, ...]
    few_thresholds: tuple[int, ...]
    targets: dict[Scale, tuple[float, ...]]

    def overrides(self, scale: Scale) -> tuple[str, ...]:
        """What all runs of this study have in common at this scale."""
        if scale == "timing":
            return (f"experiment=paper/{self.name}", *_TIMING)
        return (f"experiment=paper/{'mini/' if scale == 'mini' else ''}{self.name}",)

    def arms(self, scale: Scale) -> list[PlannedArm]:
        """The arms in the order of the paper's legends, on both clocks.

        Without gradients the clock changes nothing but the moments at which the rate drops, so the second one gets a
        few thresholds only.
        """
        few = self.few_thresholds
        both = {"full": (self.thresholds,) * 2, "mini": (few,) * 2, "timing": (self.thresholds, few)}[scale]
        return [
            PlannedArm(f"{label}, clock of {clock}", (*overrides, f"schedule.clock={clock}"), clock)
            for clock, thresholds in zip(CLOCKS, both, strict=True)
            for label, overrides in _paradigms(thresholds).items()
        ]

    def seeds(self, scale: Scale) -> tuple[int, ...]:
        """Three, as in the paper; one where nothing is drawn."""
        return (1,) if scale == "timing" else (1, 2, 3)


def _paradigms(thresholds: tuple[int, ...]) -> dict[str, tuple[str, ...]]:
    """The paper's paradigms. A held worker's gradient joins the update that releases it, as the paper's curves tell."""
    return {
        "BSP": ("paradigm=bsp",),
        "ASP": ("paradigm=asp",),
        **{f"SSP {s}": ("paradigm=ssp", f"paradigm.threshold={s}", _HELD) for s in thresholds},
        "DSSP 3-15": ("paradigm=dssp", "paradigm.lower=3", "paradigm.upper=15", _HELD),
    }


_ALL_THRESHOLDS = tuple(range(3, 16))

STUDIES = {
    study.name: study
    for study in (
        Study(
            "fig3a",
            "Small AlexNet on CIFAR-10, four equal workers",
            _ALL_THRESHOLDS,
            (3, 6, 15),
            {"full": (0.60, 0.62), "mini": (), "timing": ()},
        ),
        Study(
            "fig3c",
            "ResNet-50 on CIFAR-100, four equal workers",
            _ALL_THRESHOLDS,
            (3, 6, 15),
            {"full": (0.63, 0.655), "mini": (), "timing": ()},
        ),
        Study(
            "fig3e",
            "ResNet-110 on CIFAR-100, four equal workers",
            _ALL_THRESHOLDS,
            (3, 6, 15),
            {"full": (0.63, 0.665), "mini": (), "timing": ()},
        ),
        Study(
            "fig4",
            "ResNet-110 on CIFAR-100, a fast and a slow worker",
            (3, 6, 15),
            (3, 6, 15),
            {"full": (0.67, 0.68), "mini": (), "timing": ()},
        ),
    )
}
"""By name; Table I of the paper is about the runs of its Fig. 4."""
