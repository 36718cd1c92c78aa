"""ASP: nobody waits."""

from dssp_bench.paradigms.asp import ASP
from tests.scenario import play


def test_the_fast_worker_never_waits_however_far_ahead() -> None:
    story = play(
        ASP(), "workers fast slow\n" + "\n".join(f"{t} fast -> fast" for t in range(1, 50)) + "\n 50 slow -> slow"
    )
    leads = [outcome.push.lead for outcome in story.outcomes if outcome.push]
    assert leads == [*range(1, 50), 0]


def test_every_gradient_is_applied_on_arrival_and_the_slow_ones_are_stale() -> None:
    story = play(ASP(), "workers fast slow\n 1 fast -> fast\n 2 fast -> fast\n 3 slow -> slow\n 4 fast -> fast")
    assert [outcome.push.staleness for outcome in story.outcomes if outcome.push] == [0, 0, 2, 1]
    assert [outcome.updates[0].version for outcome in story.outcomes] == [1, 2, 3, 4]


def test_there_is_no_largest_lead() -> None:
    story = play(ASP(), "1 a -> a")
    assert story.outcomes[0].push is not None
    assert story.outcomes[0].push.threshold is None


def test_leaving_and_joining_disturb_nobody() -> None:
    play(
        ASP(),
        "workers a b\n 1 a -> a\n 2 b leaves ->\n 3 c joins -> c\n 4 a -> a\n 5 c -> c\n 6 a leaves ->\n 7 c leaves ->",
    )
