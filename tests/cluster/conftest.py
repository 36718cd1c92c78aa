"""No run on Ray outlives the test that started it."""

from collections.abc import Iterator

import pytest

from tests.cluster.driver import Driver


@pytest.fixture(autouse=True)
def _no_driver_outlives_its_test() -> Iterator[None]:
    yield
    while Driver.started:
        Driver.started.pop().give_up()
