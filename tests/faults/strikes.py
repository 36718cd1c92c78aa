"""What a seed decides before a run in real processes: cluster, paradigm, network, and which process is struck when."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

_STARTUP_S = 20.0  # who hangs before it is ready ends the run after this
_LEASE_S = 0.6  # where somebody hangs; else it is long, so that nobody is taken to hang on a busy machine


class Strike(NamedTuple):
    """A signal to a process, so many seconds after the `command` or after all processes were `started`."""

    after: str
    at_s: float
    whom: str
    signal: str


@dataclass(frozen=True)
class Schedule:
    """All that is decided before the run: its configuration, and the strikes of each of its lives.

    If it comes to no end in its first, it is resumed for the next one, as long as there are any.
    """

    config: dict[str, Any]
    lives: list[list[Strike]]


def kills_driver(strikes: Sequence[Strike]) -> bool:
    """Whether the driver is killed, so that it should not be one that others want to use."""
    return any((strike.whom, strike.signal) == ("driver", "SIGKILL") for strike in strikes)


def kind_of(whom: str) -> str:
    """A worker's number does not matter."""
    return "worker" if whom.startswith("worker ") or whom == "replacement" else whom


PLANS = {
    "kills a worker": 5, "kills several": 3, "kills all but one": 2, "kills all": 1, "kills a replacement": 2,
    "kills the server": 2, "kills the evaluator": 1.5, "kills the fork server": 0.7, "kills the driver": 1.2,
    "hangs a worker": 1.5, "pauses a worker": 2, "pauses another": 2,
    "interrupts": 2, "interrupts twice": 2, "terminates": 1.5, "does nothing": 0.5,
}  # fmt: skip


def draw(random: Random) -> Schedule:
    """A random schedule."""
    workers = random.randint(2, 6)
    pause_s = random.choice([0.0, 0.0005, 0.002, 0.01])
    parameters = random.choice([1, 1000, 1000, 100_000, 1_100_000])
    lasts_s = random.uniform(0.2, 0.9)
    rate = 1 / (pause_s + 0.0007 + 4e-9 * parameters)
    layout = [{"device": "cpu", "slowdown": random.choice([1.0, 1.0, 1.5, 4.0])} for _ in range(workers)]
    stop, share = _draw_stop(random, workers, max(10, min(1500, int(lasts_s * rate / 2))), lasts_s)
    lives = [_draw_life(random, workers, lasts_s, random.choice([1, 1, 1, 2, 2, 3]))]
    if random.random() < 0.25:
        lives.append(_draw_life(random, workers, lasts_s, 1))
    if random.random() < 0.6:
        lives.append([])
    config: dict[str, Any] = {
        "paradigm": _draw_paradigm(random),
        "cluster": {"workers": layout, "events": _draw_events(random, workers, lasts_s)},
        "engine": {
            "_target_": "dssp_bench.engines.options.LocalOptions",
            "lease_s": _LEASE_S if any(map(_hangs, lives)) else 30.0,
            "startup_timeout_s": _STARTUP_S,
            "restarts": random.randint(0, 3),
        },
        "model": {"_target_": "tests.faults.telltale.Telltale", "parameters": parameters, "pause_s": pause_s},
        "dataset": {"_target_": "tests.faults.telltale.Blanks", "examples": workers * share},
        "optimizer": {"learning_rate": 1.0, "momentum": 0.0},
        "schedule": {},
        "stop": stop,
        "tracking": {"figures": False},
        "checkpoint": {"every_s": random.choice([None, 0.02, 0.1, 0.1, 60.0]), "keep": random.randint(1, 3)},
        "evaluation": {"every_epochs": random.choice([None, 0.05, 0.2])},
        "batch_size": 1,
        "seed": random.randrange(2**32),
        "on_worker_loss": random.choice(["continue", "continue", "stop", "restart", "restart", "restart"]),
    }
    config["tracking"]["mlflow"] = random.random() < 0.02  # which takes longer than all the rest
    return Schedule(config, lives)


def _draw_paradigm(random: Random) -> dict[str, Any]:
    name, bound = random.choice(["asp", "bsp", "ssp", "dssp"]), random.randint(0, 4)
    held = {"held_gradients": random.choice(["apply", "merge_sum", "merge_mean"])}
    options: dict[str, dict[str, Any]] = {
        "asp": {},
        "bsp": {"held_gradients": random.choice(["merge_sum", "merge_mean"])},
        "ssp": {"threshold": bound, **held},
        "dssp": {
            "lower": bound,
            "upper": bound + random.randint(0, 4),
            "variant": random.choice(["bounded", "literal", "single_grant"]),
            "interval": random.choice(["raw", "hold_corrected"]),
            **held,
        },
    }
    return {"_target_": f"dssp_bench.paradigms.{name}.{name.upper()}", **options[name]}


def _draw_stop(random: Random, workers: int, share: int, lasts_s: float) -> tuple[dict[str, Any], int]:
    """When the run is over, and how many examples each worker has."""
    stop: dict[str, Any] = random.choice([{"epochs": 1.0}, {"pushes": share * workers}, {"seconds": lasts_s}])
    return stop, share


def _draw_events(random: Random, workers: int, lasts_s: float) -> list[dict[str, Any]]:
    if random.random() < 0.75:
        return []
    kind = random.choice(["leave", "join"])
    return [{"worker": random.randrange(1, workers), "at_s": random.random() * lasts_s, kind: True}]


def _draw_life(random: Random, workers: int, lasts_s: float, incidents: int) -> list[Strike]:
    strikes: list[Strike] = []
    for plan in random.choices(list(PLANS), list(PLANS.values()), k=incidents):
        strikes += _draw_strikes(random, plan, workers, lasts_s)
    return sorted(strikes, key=lambda strike: strike.at_s)


def _draw_strikes(random: Random, plan: str, workers: int, lasts_s: float) -> list[Strike]:
    """One plan, at a random moment: while the processes start, while they work, or when all is nearly over."""
    at_s = random.random() * lasts_s + random.choice([0.0, 0.0, 0.0, 0.3])
    everyone = [f"worker {number}" for number in random.sample(range(workers), workers)]
    somebody = everyone[0]

    def killed(*whom: str) -> list[Strike]:
        return [Strike("started", at_s, one, "SIGKILL") for one in whom]

    def paused(whom: str) -> list[Strike]:
        wakes_s = at_s + random.choice([0.02, 0.1, 0.5])
        return [Strike("started", at_s, whom, "SIGSTOP"), Strike("started", wakes_s, whom, "SIGCONT")]

    match plan:
        case "kills a worker":
            return killed(somebody)
        case "kills several":
            return killed(*everyone[: random.randint(2, workers)])
        case "kills all but one":
            return killed(*everyone[1:])
        case "kills all":
            return killed(*everyone)
        case "kills a replacement":
            again = [Strike("started", at_s + random.random() * 0.5, "replacement", "SIGKILL")]
            return killed(somebody) + again * random.randint(1, 2)
        case "kills the server" | "kills the evaluator" | "kills the fork server":
            return killed(plan.removeprefix("kills the "))
        case "kills the driver":
            after = random.choice(["command", "started", "started", "started"])
            return [Strike(after, at_s, "driver", "SIGKILL")]
        case "hangs a worker":
            return [Strike("started", at_s, somebody, "SIGSTOP")]
        case "pauses a worker":
            return paused(somebody)
        case "pauses another":
            return paused(random.choice(["server", "evaluator", "fork server", "driver"]))
        case "interrupts" | "interrupts twice" | "terminates":
            again_s = random.choice([0.001, 0.02, 0.2])
            number = "SIGTERM" if plan == "terminates" else "SIGINT"
            times = [at_s, at_s + again_s] if plan == "interrupts twice" else [at_s]
            return [Strike(random.choice(["command", "started", "started"]), at, "driver", number) for at in times]
        case _:
            return []


def _hangs(strikes: Sequence[Strike]) -> bool:
    stopped = Counter(strike.whom for strike in strikes if strike.signal == "SIGSTOP")
    return bool(stopped - Counter(strike.whom for strike in strikes if strike.signal == "SIGCONT"))
