"""No run on Ray outlives the test that started it."""

from collections.abc import Iterator

import pytest

from tests.cluster.driver import Driver


@pytest.fixture(autouse=True)
def _no_driver_outlives_its_test() -> Iterator[None]:
    yield
    _end_all()


@pytest.fixture(autouse=True, scope="module")
def _no_driver_outlives_its_file() -> Iterator[None]:
    """Those that a fixture of the file started, which then failed."""
    yield
    _end_all()


def _end_all() -> None:
    while Driver.started:
        Driver.started.pop().give_up()
