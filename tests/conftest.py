"""Every run of the tests draws the same examples, and Ctrl-C does what it does in a terminal.

All the tests are shared out among as many processes as there are cores, and one more, since many wait for something.
"""

import gc
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

MOST_PROCESSES = 8  # each has torch and MLflow in its memory

UNHURRIED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same_every_time", derandomize=True, database=None, **UNHURRIED)
settings.load_profile("same_every_time")

# In the background of a script it is ignored, which every process that is started from there inherits.
signal.signal(signal.SIGINT, signal.default_int_handler)


gc.set_threshold(50_000)  # as in the command line: what is imported is no garbage


def pytest_collection_finish() -> None:
    """From here on garbage is looked for among what tests make."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Whoever names files or folders gets their tests in this process, which starts sooner and can be looked into."""
    if config.args != config.getini("testpaths"):
        return 0
    return min(len(os.sched_getaffinity(0)) + 1, MOST_PROCESSES)


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """A command says where log lines go, which is not to concern other tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
