"""The local engine without what surrounds it in a run, under the name by which benchmarks know it."""

from dssp_bench.experiment.unwatched import Ended, carried_out, without_records

__all__ = ["Ended", "carried_out", "without_records"]
