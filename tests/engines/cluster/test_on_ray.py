"""What is made of Ray's news about the hosts of workers; Ray itself is played."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.exceptions import RayError

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.engines.cluster import on_ray as module
from dssp_bench.engines.cluster.client import Refused
from dssp_bench.engines.cluster.on_ray import RayLauncher
from dssp_bench.engines.layout import ClusterLayout, WorkerLayout
from tests.engines.cluster.parties import wait_for

LAYOUT = ClusterLayout(workers=(WorkerLayout(name="only", device="cpu"),))


class Host:
    """A process that Ray started; `end` is how its work ended."""

    def __init__(self) -> None:
        self.work = self
        self.end: Exception | None = None
        self.has_ended = threading.Event()

    def remote(self, *_: Any) -> "Host":
        return self

    def ends(self, error: Exception | None) -> None:
        self.end = error
        self.has_ended.set()


class Played:
    """Ray, and what makes its hosts."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self.killed: list[Host] = []
        self.refuses: Exception | None = None

    def options(self, **_: Any) -> "Played":
        if self.refuses:
            raise self.refuses
        return self

    def remote(self) -> Host:
        self.hosts.append(Host())
        return self.hosts[-1]

    def cluster_resources(self) -> dict[str, float]:
        return {}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def wait(self, ends: list[Host], num_returns: int, timeout: float) -> tuple[list[Host], list[Host]]:
        assert num_returns == 1
        time.sleep(min(timeout, 0.01))
        ended = [end for end in ends if end.has_ended.is_set()]
        return ended, [end for end in ends if end not in ended]

    def get(self, end: Host) -> None:
        if end.end:
            raise end.end

    def kill(self, host: Host, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(host)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    made = Played()
    monkeypatch.setattr(module, "ray", made)
    monkeypatch.setattr(module, "_Host", made)
    return made


class Launch:
    """A launcher, and what it told of deaths."""

    def __init__(self) -> None:
        self.deaths: list[tuple[int, str]] = []
        self.launcher = RayLauncher(
            lambda *_: None, LAYOUT, ("127.0.0.1", 1), b"", lambda *death: self.deaths.append(death), lambda: None, 1.0
        )

    def settled(self) -> None:
        """Until all news has been taken up."""
        wait_for(lambda: not any(end.has_ended.is_set() for end in list(self.launcher._ends)), "news is left")


@pytest.fixture
def launch(played: Played) -> Iterator[Launch]:
    made = Launch()
    yield made
    made.launcher.close()


def test_a_death_is_told_with_its_reason(played: Played, launch: Launch) -> None:
    launch.launcher.start([0])
    played.hosts[0].ends(RayError("The actor died.\n  somewhere\nNo module named 'dssp_bench'\n"))
    wait_for(lambda: launch.deaths, "nobody is told")
    assert launch.deaths == [(0, "No module named 'dssp_bench'")]


def test_late_news_of_a_host_is_no_news_of_the_one_that_took_its_place(played: Played, launch: Launch) -> None:
    launch.launcher.start([0])
    launch.launcher.end(0)
    assert played.killed == played.hosts
    launch.launcher.start([0])
    played.hosts[0].ends(RayError("killed"))
    launch.settled()
    played.hosts[1].ends(RayError("its own death"))
    wait_for(lambda: launch.deaths, "nobody is told")
    assert launch.deaths == [(0, "its own death")]


def test_a_worker_that_finds_its_place_taken_does_not_take_it_away_by_ending(played: Played, launch: Launch) -> None:
    launch.launcher.start([0])
    played.hosts[0].ends(Refused("place 0 is taken"))
    launch.settled()
    assert launch.deaths == []


def test_a_worker_that_has_done_its_work_has_not_died(played: Played, launch: Launch) -> None:
    launch.launcher.start([0])
    played.hosts[0].ends(None)
    launch.settled()
    assert launch.deaths == []


@pytest.mark.parametrize("error", [ValueError("must be an integer"), TypeError("no")])
def test_resources_that_ray_does_not_take_are_refused_with_the_workers_name(
    error: Exception, played: Played, launch: Launch
) -> None:
    played.refuses = error
    with pytest.raises(DsspBenchError, match=r"Ray refuses \{\} for worker only: "):
        launch.launcher.start([0])
