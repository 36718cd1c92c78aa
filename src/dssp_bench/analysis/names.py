"""What the workers of a run are called."""

from collections.abc import Mapping, Sequence

from dssp_bench.core.errors import RecordsError
from dssp_bench.engines.layout import ClusterLayout
from dssp_bench.records.reader import RunRecords


def worker_names(records: RunRecords) -> tuple[str, ...]:
    """The workers' names by number, those of replacements included; none if the configuration does not say them."""
    try:
        layout = ClusterLayout.model_validate(records.config["cluster"])
        replacements = (records.summary or {}).get("replacements") or {}
    except (KeyError, ValueError, RecordsError):  # pydantic's error is a ValueError
        return ()
    return named_with_replacements([worker.name for worker in layout.workers], replacements)


def named_with_replacements(names: Sequence[str], replacements: Mapping[str, int]) -> tuple[str, ...]:
    """The names of a layout's workers, and after them those of replacements: `gpu_2 #2`, `gpu_2 #3`."""
    named = list(names)
    place, times = list(range(len(names))), [1] * len(names)
    for former in replacements.values():
        place.append(place[former])
        times[place[former]] += 1
        named.append(f"{names[place[former]]} #{times[place[former]]}")
    return tuple(named)
