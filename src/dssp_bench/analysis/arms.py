"""Runs that belong together: those that differ in nothing but their seed are one arm of a comparison."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dssp_bench.records.reader import RunRecords

_WITHOUT_EFFECT = ("seed", "name", "runs_dir", "tracking", "choices")
_FIRST = ("bsp", "asp", "ssp", "dssp")


@dataclass(frozen=True)
class Arm:
    """Runs with the same settings, in the order of their seeds.

    `settings` are flat, with dotted keys as on the command line; `label` says what tells this arm from those that it is
    compared with, and `choices` which file of each group was chosen.
    """

    label: str
    paradigm: str
    settings: dict[str, Any]
    choices: dict[str, str]
    runs: tuple[RunRecords, ...]

    @property
    def clock(self) -> str:
        """What the learning-rate schedule counts: `samples` or `updates`."""
        return str(self.settings.get("schedule.clock"))

    @property
    def median_run(self) -> RunRecords:
        """The run with the median final accuracy, or the middle one without accuracies; of two, the lower."""
        ranked = sorted(self.runs, key=lambda run: (run.summary or {}).get("final_accuracy") or 0.0)
        return ranked[(len(ranked) - 1) // 2]


def arms_of(runs: Iterable[RunRecords]) -> list[Arm]:
    """The arms that these runs form, by paradigm and its options. Each run needs a summary and a configuration."""
    groups: dict[str, list[RunRecords]] = {}
    for run in runs:
        groups.setdefault(_canonical(settings_of(run.config)), []).append(run)
    members = [sorted(group, key=lambda run: (seed_of(run), run.folder.name)) for group in groups.values()]
    settings = [settings_of(group[0].config) for group in members]
    choices = [dict(group[0].config.get("choices", {})) for group in members]
    paradigms = [_paradigm(group[0]) for group in members]
    labels = _labels(paradigms, settings, choices)
    arms = [Arm(*parts) for parts in zip(labels, paradigms, settings, choices, map(tuple, members), strict=True)]
    return sorted(arms, key=_rank)


def seed_of(run: RunRecords) -> int:
    """The run's seed."""
    return int(run.config.get("seed", 0))


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says that can change a run's numbers, except the seed; flat, with dotted keys."""
    return dict(_flat({key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}))


def fingerprint(config: Mapping[str, Any], version: str) -> str:
    """Sixteen hex digits that are equal for runs with the same settings and seed, made by the same version."""
    content = {"settings": settings_of(config), "seed": config.get("seed"), "version": version}
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:16]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple) and value:
        items = enumerate(value)
    else:
        yield prefix, value
        return
    for key, item in items:
        yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))


def _paradigm(run: RunRecords) -> str:
    summary: Mapping[str, Any] = run.summary or {}
    return str(summary.get("paradigm") or run.config.get("choices", {}).get("paradigm"))


def _labels(
    paradigms: Sequence[str], settings: Sequence[dict[str, Any]], choices: Sequence[dict[str, str]]
) -> list[str]:
    """Paradigm and options, then whatever else differs between the arms."""
    groups = sorted(_varying(choices) - {"paradigm", "experiment"})
    others = [
        key
        for key in sorted(_varying(settings))
        if not key.startswith("paradigm.") and key.partition(".")[0] not in groups
    ]
    labels = []
    for paradigm, arm_settings, arm_choices in zip(paradigms, settings, choices, strict=True):
        relatives = [s for p, s in zip(paradigms, settings, strict=True) if p == paradigm]
        words = [paradigm.upper(), *_options(arm_settings, _varying(relatives))]
        words += [str(arm_choices.get(group)) for group in groups]
        words += [f"{_short(key)}={_shown(arm_settings[key])}" for key in others if key in arm_settings]
        labels.append(" ".join(filter(None, words)))
    return labels


def _varying(mappings: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys that are not the same in all of them."""
    keys = set().union(*mappings)
    return {key for key in keys if len({_canonical(mapping.get(key)) for mapping in mappings}) > 1}


def _options(settings: Mapping[str, Any], varying: set[str]) -> list[str]:
    """A paradigm's numbers, as in `3-15`, and those of its other options that differ between its arms."""
    options = {key: value for key, value in settings.items() if key.startswith("paradigm.") and "_target_" not in key}
    numbers = [str(value) for value in options.values() if _is_whole(value)]
    words = [_shown(value) for key, value in options.items() if key in varying and not _is_whole(value)]
    return ["-".join(numbers), *words]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(key: str) -> str:
    """The end of a dotted key, from its last name on: `workers.1.slowdown` says more than `slowdown`."""
    parts = key.split(".")
    numbered = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbered[-1] - 1 :] if numbered else parts[-1:])


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rank(arm: Arm) -> tuple[Any, ...]:
    known = _FIRST.index(arm.paradigm) if arm.paradigm in _FIRST else len(_FIRST)
    options = [value for key, value in arm.settings.items() if key.startswith("paradigm.") and _is_whole(value)]
    return known, arm.paradigm, options, arm.label
