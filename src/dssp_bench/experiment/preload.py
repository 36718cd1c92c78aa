"""What the process that forks a run's processes imports before; this file imports nothing, since it is wanted early."""

PRELOAD = ("dssp_bench.experiment.parts", "dssp_bench.engines.local.processes", "dssp_bench.records.writer")
