"""dssp-bench worker: one worker of a run whose server is on another machine."""

import logging
import sys

from dssp_bench.cli.errors import FAILED, INTERRUPTED, show_error
from dssp_bench.core.errors import ConfigurationError, WorkerFailed
from dssp_bench.engines.options import parse_address
from dssp_bench.experiment.elsewhere import shared_key, work_for


def work(address: str, place: int | None, patience_s: float) -> int:
    """Join the run at HOST:PORT and work for it until it is over; returns the exit code. Raises DsspBenchError."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("dssp_bench").setLevel(logging.INFO)
    try:
        where = parse_address(address)
    except ValueError as error:
        raise ConfigurationError("--join", str(error)) from None
    key = shared_key()
    try:
        work_for(where, key, place, patience_s)
    except WorkerFailed as error:
        if "\n" in str(error):
            print(error, file=sys.stderr)  # somebody's traceback, whole
        else:
            show_error(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
