"""dssp-bench worker: one worker of a run whose server is on another machine."""

import logging

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.engines.options import parse_address
from dssp_bench.experiment.cluster import shared_key
from dssp_bench.experiment.elsewhere import work_for


def work(address: str, place: int | None, patience_s: float) -> None:
    """Join the run at HOST:PORT and work for it until it is over. Raises DsspBenchError."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("dssp_bench").setLevel(logging.INFO)
    try:
        where = parse_address(address)
    except ValueError as error:
        raise ConfigurationError("--join", str(error)) from None
    work_for(where, shared_key(), place, patience_s)
