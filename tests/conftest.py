"""Every run of the tests draws the same examples, and Ctrl-C does what it does in a terminal.

All the tests are shared out among as many processes as there are cores, and one more, since many wait for something.
"""

import os
import signal

import pytest
from hypothesis import settings

MOST_PROCESSES = 8  # each has torch and MLflow in its memory

settings.register_profile("same_every_time", derandomize=True, database=None, deadline=None)
settings.load_profile("same_every_time")

# In the background of a script it is ignored, which every process that is started from there inherits.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Whoever asks for some of the tests gets them in this process, which starts sooner and is easier to look into."""
    if config.args != config.getini("testpaths"):
        return 0
    return min(len(os.sched_getaffinity(0)) + 1, MOST_PROCESSES)
