"""Kill schedules: from one seed a run in real processes, and signals that hit them while it goes on.

    python -m tests.faults.kills SEED      # plays one seed again, and tells what happened

The paradigm, the workers, the network's size, what is made of a worker's loss, and which process gets which signal when
are drawn from the seed; the processes' own timing is what it is, so a seed that failed once may need several turns.

What must hold, however the run ends: it ends, with a verdict if its driver has survived, and for a reason that somebody
gave; what it recorded is whole, and its weights are the sum of exactly the pushes that count (`audit`); none of its
processes stays, and no shared memory; its driver, which goes on to the next run, keeps no files open; and one that came
to no end goes on from what it has left, to the end.
"""

import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.experiment.watching import shared_memory, shared_memory_left
from tests.faults.audit import BadRecordsError, audit
from tests.faults.drivers import Driver, Kin, Nursery, family
from tests.faults.strikes import Schedule, Strike, draw, kills_driver, kind_of

DEADLINE_S = 60.0
"""By when a run, or its resumption, is over."""

_RUNS_TO_SETTLE = 3
_UNWINDS_WITHIN_S = 4.0  # a driver's interpreter, or that of the fork server when its driver is gone


class KillScheduleFailedError(AssertionError):
    """A schedule that broke a promise; the message says how to play it again."""


# --- playing ----------------------------------------------------------------------------------------------------------


@dataclass
class Worst:
    """The longest times, in seconds, and at which seed."""

    times: dict[str, tuple[float, int]] = field(default_factory=dict)

    def saw(self, what: str, seconds: float, seed: int) -> None:
        """Keep it if it is the longest."""
        if seconds > self.times.get(what, (-1.0, 0))[0]:
            self.times[what] = seconds, seed

    def __str__(self) -> str:
        return "; ".join(f"{what} {seconds:.3f} s (seed {seed})" for what, (seconds, seed) in self.times.items())


class Player:
    """Plays schedules one after the other; a context manager. Processes of a run must be gone so soon after its end."""

    def __init__(self, gone_within_s: float = DEADLINE_S) -> None:
        self._gone_within_s = gone_within_s
        self._home: Nursery | None = None
        self._driver: Driver | None = None  # which makes run after run
        self.worst = Worst()
        self.story: list[str] | None = None
        self.keeps_in = Path(tempfile.gettempdir())  # what failed schedules have left

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, *_: object) -> None:
        self._start_over()

    @property
    def _nursery(self) -> Nursery:
        if self._home is None:
            self._home = Nursery()
        return self._home

    def play(self, seed: int) -> Counter[str]:
        """Play one schedule, and count what happened. Raises KillScheduleFailedError."""
        schedule = draw(Random(seed))
        began = time.monotonic()
        try:
            counts = self._play(seed, schedule)
        except Exception as error:
            kept = self._keep(seed)
            self._start_over()
            name = "" if isinstance(error, KillScheduleFailedError | BadRecordsError) else f"{type(error).__name__}: "
            raise KillScheduleFailedError(
                f"{name}{error}\n  what is left is in {kept}; play it again with: python -m tests.faults.kills {seed}"
            ) from error
        shutil.rmtree(self._runs_dir(seed), ignore_errors=True)
        self.worst.saw("a whole schedule", time.monotonic() - began, seed)
        return counts

    def _play(self, seed: int, schedule: Schedule) -> Counter[str]:
        tracked = schedule.config["tracking"]["mlflow"]
        runs_dir = self._nursery.folder / "tracked" if tracked else self._runs_dir(seed)
        others = _folders(runs_dir)
        config = {**schedule.config, "runs_dir": str(runs_dir)}
        command: dict[str, Any] = {"config": config, "choices": {"engine": "local", "cluster": "random"}}
        counts: Counter[str] = Counter()
        struck: list[Strike] = []
        for life, strikes in enumerate(schedule.lives):
            memory = shared_memory()
            game = self._live(seed, command, strikes)
            struck += game.struck
            _check_shared_memory(memory)
            folders = [folder for folder in _folders(runs_dir) if folder not in others]
            _check(len(folders) <= 1, f"one run made several folders: {folders}")
            if not folders:
                _check(game.answer in (None, "interrupted"), "no folder was made")
                verdict = "ended before it began"
            else:
                verdict = _verdict(folders[0], game, struck)
                counts += _audit(folders[0])
                if tracked:
                    counts += _check_mlflow(folders[0], game)
                command["resume"] = str(folders[0])
            counts[f"{'resumed and ' if life else ''}{verdict}"] += 1
            counts += Counter(f"{strike.signal} to {kind_of(strike.whom)}" for strike in game.struck)
            counts["strikes too late"] += len(strikes) - len(game.struck)
            if verdict == "finished" or not folders or not (folders[0] / "environment.json").exists():
                break
        return +counts

    def _live(self, seed: int, command: dict[str, Any], strikes: Sequence[Strike]) -> "Game":
        """Have the command carried out, and see what becomes of the processes."""
        if self._driver is None:
            self._driver = self._nursery.driver()
        alone = kills_driver(strikes) or command["config"]["tracking"]["mlflow"]
        driver = self._nursery.driver() if alone else self._driver
        game = Game(strikes, driver, self._tell)
        game.play(command)
        survived = game.answer is not None
        if driver is not self._driver or not survived:
            self._nursery.forget(driver)
        if driver is self._driver and not survived:
            self._driver = None
        if "started" not in game.moments:
            self._await_end(seed, "processes gone after an end while they start", _UNWINDS_WITHIN_S)
        elif not survived:
            self._await_end(seed, "processes gone after the driver's death", _UNWINDS_WITHIN_S)
        elif alone:
            self._await_end(seed, "processes and driver gone after the end", _UNWINDS_WITHIN_S)
        else:
            self._await_end(seed, "processes gone after the end", 0.0)
        if survived:
            _check_driver(driver)
        text = driver.new_log()
        self._tell(text.rstrip())
        _check("Traceback" not in text, f"a traceback was shown:\n{text}")
        return game

    # --- what may not stay ---

    def _await_end(self, seed: int, what: str, more_s: float) -> None:
        """Wait until no process of the run is left. Raises KillScheduleFailedError."""
        began = time.monotonic()
        while left := self._nursery.left():
            waited = time.monotonic() - began
            if waited > self._gone_within_s + more_s:
                raise KillScheduleFailedError(f"after {waited:.1f} s there still are {_named(left)}")
            time.sleep(0.005)
        self.worst.saw(what, time.monotonic() - began, seed)

    def memory(self, most_growth_mib: float = math.inf) -> str:
        """How the driver that makes run after run has grown. Raises KillScheduleFailedError if by more than that."""
        sizes = [entry["bytes"] / 2**20 for entry in self._driver.ended] if self._driver else []
        if len(sizes) <= _RUNS_TO_SETTLE:
            return "no driver made enough runs to tell how its memory grows"
        settled = sizes[_RUNS_TO_SETTLE - 1]
        told = f"a driver had {settled:.0f} MiB after {_RUNS_TO_SETTLE} runs, and {sizes[-1]:.0f} after {len(sizes)}"
        _check(sizes[-1] < settled + most_growth_mib, told)
        return told

    # --- after a failure ---

    def _keep(self, seed: int) -> Path:
        kept = Path(tempfile.mkdtemp(prefix=f"kills-failed-{seed}-", dir=self.keeps_in))
        with suppress(OSError, shutil.Error):
            shutil.copytree(self._nursery.folder, kept, ignore=shutil.ignore_patterns("pymp-*"), dirs_exist_ok=True)
        return kept

    def _start_over(self) -> None:
        """End everything; what comes next begins anew."""
        if self._home:
            self._home.close()
        self._home = self._driver = None

    def _runs_dir(self, seed: int) -> Path:
        return self._nursery.folder / str(seed)

    def _tell(self, line: str) -> None:
        if self.story is not None and line:
            self.story.append(line)


class Game:
    """One command, and the strikes while it is carried out; `answer` is None if the driver is gone."""

    def __init__(self, strikes: Sequence[Strike], driver: Driver, tell: Callable[[str], None]) -> None:
        self.struck: list[Strike] = []
        self.answer: str | None = None
        self.error = ""
        self.moments: dict[str, float] = {}
        self._driver = driver
        self._tell = tell
        self._waiting = list(strikes)
        self._stopped: dict[str, int] = {}

    def play(self, command: dict[str, Any]) -> None:
        """Return when the command is carried out, or the driver is gone. Raises KillScheduleFailedError."""
        self._driver.send(command)
        self.moments["command"] = began = time.monotonic()
        try:
            while self.answer is None:
                now = time.monotonic()
                if now > began + DEADLINE_S:
                    raise KillScheduleFailedError(f"no end after {DEADLINE_S:.0f} s: {self._state()}")
                for strike in [strike for strike in self._waiting if self._due(strike) <= now]:
                    self._waiting.remove(strike)
                    self._strike(strike)
                next_due = min(map(self._due, self._waiting), default=now + 1)
                said = self._driver.says(min(next_due, now + 1) - time.monotonic())
                if said:
                    self._heard(*said)
        except EOFError:
            self._note("the driver is gone")
        for strike in self._waiting:  # who was to be stopped for a while only shall not be so for ever
            if strike.signal == "SIGCONT" and strike.whom in self._stopped:
                with suppress(ProcessLookupError):
                    os.kill(self._stopped[strike.whom], signal.SIGCONT)

    def _heard(self, word: str, content: dict[str, Any]) -> None:
        self.moments[word] = time.monotonic()
        self._note(f"{word} {content.get('status', '')} {content.get('error', '')}")
        if word == "ended":
            self.answer, self.error = content["status"], content["error"]

    def _due(self, strike: Strike) -> float:
        return self.moments.get(strike.after, float("inf")) + strike.at_s

    def _strike(self, strike: Strike) -> None:
        pid = self._target(strike.whom)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.Signals[strike.signal])
            self.struck.append(strike)
            if strike.signal == "SIGSTOP":
                self._stopped[strike.whom] = pid
            self._note(f"{strike.signal} to {strike.whom}, process {pid}")

    def _target(self, whom: str) -> int | None:
        """The process that is meant, if it is there and alive."""
        if whom == "driver":
            return self._driver.pid
        if whom == "fork server":
            return self._driver.fork_server()
        alive, roles = family(self._driver.pid), self._driver.roles
        if whom == "replacement":
            server = self._driver.fork_server()
            later = [kin.pid for kin in alive if kin.parent == server and kin.pid not in roles.values()]
            return later[-1] if later else None
        pid = roles.get(whom.replace("worker ", "worker_"))
        return pid if pid in [kin.pid for kin in alive] else None

    def _state(self) -> str:
        with suppress(ProcessLookupError):
            os.kill(self._driver.pid, signal.SIGUSR1)  # it writes into its log what it does
        time.sleep(0.2)
        there = {pid: name for name, pid in self._driver.roles.items()}
        named = [f"{there.get(kin.pid, 'process')} {kin.pid} ({kin.state})" for kin in family(self._driver.pid)]
        return f"{', '.join(named)}; struck: {self.struck}\n{self._driver.new_log()}"

    def _note(self, what: str) -> None:
        self._tell(f"{time.monotonic() - self.moments['command']:7.3f} s  {what}")


# --- what may not be ---


def _check_shared_memory(before: set[str]) -> None:
    """No process of the run is there any more, so what others have mapped, or remove soon, is not the run's."""
    left = shared_memory_left(before)
    _check(not left, f"left in /dev/shm: {sorted(left)}")


def _check_driver(driver: Driver) -> None:
    """A driver that goes on has the files that it had before, and no child but those that the next run needs."""
    latest = driver.ended[-1]
    _check(not latest["children"], f"children that nobody waited for: {latest['children']}")
    if len(driver.ended) > _RUNS_TO_SETTLE:
        more = len(latest["files"]) - len(driver.ended[_RUNS_TO_SETTLE - 1]["files"])
        _check(more <= 0, f"{more} more files than earlier are open in the driver: {latest['files']}")


def _check_mlflow(folder: Path, game: Game) -> Counter[str]:
    """A run that was over before this one started does not go on in MLflow, nor does this one if all went well."""
    from dssp_bench.experiment.mlflow_store import database, stored_runs

    stored = stored_runs(folder.parent) if database(folder.parent).exists() else {}
    running = {name for name, run in stored.items() if run.status == "RUNNING"}
    if "started" in game.moments:
        _check(running <= {folder.name}, f"still running in MLflow: {running}")
    if game.answer in ("finished", "failed"):
        _check(folder.name in stored.keys() - running, f"in MLflow this run is not over: {stored.get(folder.name)}")
    return Counter({"looks at MLflow": 1})


def _folders(runs_dir: Path) -> list[Path]:
    """The folders of runs."""
    return [path.parent for path in runs_dir.glob("*/config.yaml")]


def _audit(folder: Path) -> Counter[str]:
    if any((folder / f"pushes.{kind}").exists() for kind in ("arrows", "parquet")):
        return audit(folder)
    _check(not (folder / "summary.json").exists(), "a summary without records")
    return Counter({"without any record": 1})


# --- how it may end ---------------------------------------------------------------------------------------------------

EXCUSES = [
    (r"worker \d+ died; on_worker_loss=continue lets the others go on", "worker"),
    (r"worker \d+ died before it was ready", "worker"),
    (r"not ready after 20 s: .*worker \d+.*", "worker"),
    (r"not ready after 20 s: the evaluator.*", "evaluator"),
    (r"every worker has died", "worker"),
    (r"the server process was killed by SIGKILL", "server"),
    (r"the evaluator died", "evaluator"),
    (r"the process that started the server died, and the server with it", "fork server"),
    (r"the process that starts all others died; a new run starts it anew", "fork server"),
]
"""What a failed run may say, and what must have happened for it."""


def _verdict(folder: Path, game: Game, struck: Sequence[Strike]) -> str:
    """How the run ended, struck in this life and before. Raises KillScheduleFailedError unless there was a reason."""
    from dssp_bench.records.reader import RunRecords

    if game.answer == "raised":
        raise KillScheduleFailedError(f"run() raised: {game.error}")
    summary = RunRecords(folder).summary
    interrupted = _times(game.struck, "driver", "SIGINT", "SIGTERM")
    if game.answer is None:
        _check(_times(game.struck, "driver", "SIGKILL"), "the driver died, and nobody had killed it")
    if summary is None:
        begun = (folder / "environment.json").exists()
        impatient = interrupted > 2  # the first asks for an end, the second for one at once, the third for no summary
        allowed = game.answer is None or impatient or (interrupted and not begun)
        _check(allowed, f"no verdict; the driver said {game.answer}")
        return "driver killed" if game.answer is None else "interrupted before there was a verdict"
    verdict, error = summary["status"], summary.get("error", "")
    if verdict == "killed":
        # a driver that is killed before it takes the run up leaves the summary of the life before
        of_whom = struck if game.answer is None else game.struck
        _check(_times(of_whom, "driver", "SIGINT", "SIGTERM"), "killed, and nobody had interrupted it")
    if verdict == "failed":
        excused = any(
            re.fullmatch(says, error) and _times(struck, whom, "SIGKILL", "SIGSTOP") for says, whom in EXCUSES
        )
        _check(excused, f"failed without a reason: {error}")
    hit = _times(struck, "worker", "SIGKILL", "SIGSTOP")
    _check(len(summary["lost_workers"]) <= hit, f"workers {summary['lost_workers']} were lost, and {hit} struck")
    if game.answer not in (None, "interrupted"):
        _check(game.answer == verdict, f"the driver said {game.answer}, and the summary says {verdict}")
    return str(verdict)


def _times(struck: Sequence[Strike], whom: str, *signals: str) -> int:
    return sum(kind_of(strike.whom) == whom and strike.signal in signals for strike in struck)


def _named(left: Sequence[Kin]) -> str:
    return ", ".join(f"process {kin.pid} ({kin.state}, child of {kin.parent})" for kin in left)


def _check(holds: object, complaint: str) -> None:
    if not holds:
        raise KillScheduleFailedError(complaint)


def play_again(player: Player, seeds: Iterable[int]) -> int:
    """Play the seeds, and tell what happens in each; returns the exit code."""
    failed = 0
    for seed in seeds:
        schedule = draw(Random(seed))
        print(*(f"{key}: {value}" for key, value in schedule.config.items()), sep="\n")
        for life in schedule.lives:
            print(f"life of {len(life)} strikes", *life, sep="\n  ")
        player.story = []
        try:
            verdict = str(dict(player.play(seed)))
        except KillScheduleFailedError as error:
            failed, verdict = 1, str(error)
        print(*player.story, f"seed {seed}: {verdict}", sep="\n", flush=True)
    return failed


if __name__ == "__main__":
    with Player() as the_player:
        code = play_again(the_player, map(int, sys.argv[1:]))
        print(the_player.worst)
    sys.exit(code)
