"""Runs that belong together: those that differ in nothing but their seed are one arm of a comparison."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dssp_bench.records.reader import RunRecords

_WITHOUT_EFFECT = ("seed", "name", "runs_dir", "tracking", "checkpoint", "choices", "dataset.root")
_UNLESS_SAID = {"on_nan": "stop", "on_worker_loss": "continue"}  # keys that older records do not have
_NUMBER_OR_TEXT = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?|\D+"
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
    in_order = [group for _, group in sorted(groups.items())]  # so that the order of the runs changes no label
    members = [sorted(group, key=lambda run: (seed_of(run), run.folder.name)) for group in in_order]
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
    return {key: value for key, value in flat(config).items() if _counts(key, value)}


def _counts(key: str, value: Any) -> bool:
    by_default = key in _UNLESS_SAID and value == _UNLESS_SAID[key]
    return not (by_default or {key, key.partition(".")[0]} & {*_WITHOUT_EFFECT})


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration with dotted keys, as on the command line; an item of a list has its number for a name.

    Lists of plain values stay whole, as they can only be given as a whole.
    """
    return dict(_flat(config))


def shown(value: Any) -> str:
    """A plain value as one would type it: `null`, `true`, `0.05`, `[200,250]`; equal numbers look the same."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return str(value)


class Condition(NamedTuple):
    """`KEY=VALUE[,VALUE...]`: a key has one of these values."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parsed(cls, text: str) -> "Condition | None":
        """What was typed; None if it is no condition. A list is one value: `schedule.milestones=[200,250]`."""
        key, equals, values = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            return None
        return cls(key, tuple(re.findall(r"\[[^\]]*\]|[^,]+", values)) or ("",))

    def holds(self, value: Any) -> bool:
        """Whether the value is one of those wanted, however a number was typed."""
        return shown(value) in {*self.values, *map(_as_shown, self.values)}

    def __str__(self) -> str:
        return f"{self.key}={','.join(self.values)}"


def _as_shown(typed: str) -> str:
    text = typed.strip()
    if text.startswith("["):
        return f"[{','.join(map(_as_shown, text.strip('[]').split(',')))}]"
    try:
        return shown(float(text))
    except ValueError:
        return text.lower() if text.lower() in ("null", "true", "false") else text


def fingerprint(config: Mapping[str, Any], version: str) -> str:
    """Sixteen hex digits that are equal for runs with the same settings and seed, made by the same version."""
    content = {"settings": settings_of(config), "seed": config.get("seed"), "version": version}
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:16]


def _canonical(value: Any) -> str:
    return json.dumps(_with_equal_numbers_alike(value), sort_keys=True, default=str)


def _with_equal_numbers_alike(value: Any) -> Any:
    """The value with 6 for 6.0, which mean the same in every key."""
    if isinstance(value, Mapping):
        return {str(key): _with_equal_numbers_alike(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_equal_numbers_alike(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        yield prefix, value
        return
    for key, item in items:
        yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))


def _paradigm(run: RunRecords) -> str:
    summary: Mapping[str, Any] = run.summary or {}
    return str(summary.get("paradigm") or run.config.get("choices", {}).get("paradigm"))


# --- labels ---


def _labels(
    paradigms: Sequence[str], settings: Sequence[dict[str, Any]], choices: Sequence[dict[str, str]]
) -> list[str]:
    """Paradigm and options, then whatever else differs between the arms; no two are equal.

    The choice of a preset or of a group's file says by itself how its keys differ from those of another. So a key is
    named only where it differs between arms of the same choices.
    """
    words = [[paradigm.upper(), _numbers(each)] for paradigm, each in zip(paradigms, settings, strict=True)]
    for key in _keys(settings):
        if key.startswith("paradigm.") and key != "paradigm._target_":
            options = [None if _is_whole(each.get(key)) else _option(key, each) for each in settings]
            _add(words, options, [each.get(key) for each in settings], paradigms)
    _add_what_is_not_of_the_paradigm(words, settings, choices)
    return _told_apart([" ".join(filter(None, each)) for each in words])


def _add_what_is_not_of_the_paradigm(
    words: list[list[str]], settings: Sequence[dict[str, Any]], choices: Sequence[dict[str, str]]
) -> None:
    numbered = _with_lengths(settings)
    keys = [key for key in _keys(numbered) if not key.startswith("paradigm.")]
    differing = {key for key in keys if len({_canonical(each.get(key)) for each in numbered}) > 1}
    groups = {key.partition(".")[0] for key in differing}
    presets = [str(each.get("experiment") or "") if groups else "" for each in choices]
    _add(words, presets, presets, [None] * len(words))
    for group in sorted(groups):
        chosen = [each.get(group, "") for each in choices]
        _add(words, chosen, chosen, presets)
    for key in sorted(differing):
        group = key.partition(".")[0]
        alike = [
            (preset, choice.get(group), each.get(_list_of(key)))
            for preset, choice, each in zip(presets, choices, numbered, strict=True)
        ]
        values = [each.get(key) for each in numbered]
        named = [f"{_short(key, differing)}={shown(each[key])}" if key in each else "" for each in numbered]
        _add(words, named, values, alike)


def _add(words: list[list[str]], new: Sequence[str | None], values: Sequence[Any], alike: Sequence[Hashable]) -> None:
    """Give each arm its new word if there are different values among the arms that are alike so far."""
    found: dict[Hashable, set[str]] = {}
    for who, value in zip(alike, values, strict=True):
        found.setdefault(who, set()).add(_canonical(value))
    for mine, word, who in zip(words, new, alike, strict=True):
        if word and len(found[who]) > 1:
            mine.append(word)


def _keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for each in settings for key in each))


def _numbers(settings: Mapping[str, Any]) -> str:
    """A paradigm's whole numbers, as in `3-15`."""
    return "-".join(str(value) for key, value in settings.items() if key.startswith("paradigm.") and _is_whole(value))


def _option(key: str, settings: Mapping[str, Any]) -> str:
    """An option of a paradigm; a word such as `merge_sum` needs no name."""
    value = settings.get(key)
    return value if isinstance(value, str) else f"{key.partition('.')[2]}={shown(value)}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _with_lengths(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings, with the length of each list of groups, such as `cluster.workers`, under the list's own key."""
    lists = dict.fromkeys(_list_of(key) for key in _keys(settings))
    return [{**each, **{name: _length(name, each) for name in lists if name}} for each in settings]


def _length(name: str, settings: Mapping[str, Any]) -> int:
    return len({key[len(name) + 1 :].partition(".")[0] for key in settings if key.startswith(f"{name}.")})


def _list_of(key: str) -> str:
    """The list that a key is in, `cluster.workers` for `cluster.workers.1.slowdown`; empty if it is in none."""
    parts = key.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[:number])


def _short(key: str, keys: Iterable[str]) -> str:
    """As much of the key's end as tells it from the others, with the list it is in: `workers.1.slowdown`."""
    parts = key.split(".")
    within = _list_of(key).count(".") if _list_of(key) else len(parts) - 1
    for begin in range(within, 0, -1):
        short = ".".join(parts[begin:])
        if not any(other != key and other.endswith(f".{short}") for other in keys):
            return short
    return key


def _told_apart(labels: Sequence[str]) -> list[str]:
    """The labels, with a number behind those that are equal; only classes of the same name need it."""
    seen: Counter[str] = Counter()
    made = []
    for label in labels:
        seen[label] += 1
        made.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return made


def _rank(arm: Arm) -> tuple[Any, ...]:
    known = _FIRST.index(arm.paradigm) if arm.paradigm in _FIRST else len(_FIRST)
    return known, arm.paradigm, [_as_number(part) for part in re.findall(_NUMBER_OR_TEXT, arm.label)]


def _as_number(part: str) -> tuple[float, str]:
    """Sorts numbers by what they are, and before text."""
    return (float(part), "") if part[0].isdigit() else (math.inf, part)
