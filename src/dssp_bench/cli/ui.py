"""`dssp-bench ui`: MLflow's own pages, opened where paradigms are compared."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlencode

from dssp_bench.core.errors import ConfigurationError, DsspBenchError
from dssp_bench.engines.termination import termination_as_interrupt

HOST = "127.0.0.1"
STARTS_WITHIN_S = 90.0
ENDS_WITHIN_S = 5.0

_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def ui(runs_dir: Path, port: int) -> None:
    """Serve the runs of this folder on this machine only, until Ctrl-C. Port 0 takes any that is free.

    Raises ConfigurationError if there are no runs or the port is taken, DsspBenchError if MLflow does not start.
    """
    from dssp_bench.experiment.mlflow_store import database

    store = database(runs_dir)
    if not store.exists():
        raise ConfigurationError(
            "runs_dir", f"no run has been logged under {runs_dir} yet", "start one with `dssp-bench run`"
        )
    port = free_port(port)
    try:
        with _server(store, port) as (server, log):
            print("MLflow is starting ...", flush=True)
            _wait_until_it_answers(server, port, log)
            print(f"Compare the runs:  {comparison_address(port, *experiment_of(store))}")
            print(f"Ctrl-C ends it. From another machine: ssh -L {port}:{HOST}:{port} <this machine>", flush=True)
            server.wait()
            raise DsspBenchError(f"MLflow's server ended by itself: {_reason(log)}")
    except KeyboardInterrupt:
        return


def comparison_address(port: int, experiment: str | None, view_key: str | None) -> str:
    """The page with charts that compare runs; without an experiment the list of them, without a view its own charts."""
    page = f"http://{HOST}:{port}/#/experiments"
    if experiment is None:
        return page
    query = {"compareRunsMode": "CHART", "workflowType": "machine_learning"}
    if view_key is not None:
        query["viewStateShareKey"] = view_key
    return f"{page}/{experiment}/runs?{urlencode(query)}"


def experiment_of(store: Path) -> tuple[str | None, str | None]:
    """The experiment's id and the key of its saved view, as far as the database has them.

    Read without MLflow, whose import takes longer than everything else here.
    """
    from dssp_bench.experiment.mlflow_store import EXPERIMENT
    from dssp_bench.experiment.mlflow_view import VIEW_KEY, VIEW_TAG

    try:
        with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT experiment_id FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
            if found is None:
                return None, None
            view = connection.execute(
                "SELECT 1 FROM experiment_tags WHERE experiment_id = ? AND key = ?", (found[0], VIEW_TAG)
            ).fetchone()
    except sqlite3.Error:
        return None, None
    return str(found[0]), VIEW_KEY if view else None


def free_port(port: int) -> int:
    """The port, or any free one for 0. Raises ConfigurationError if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = "another program listens there" if isinstance(error, OSError) else "ports end at 65535"
            raise ConfigurationError("port", f"{port} cannot be used: {reason}", "take another with --port") from None
        return int(probe.getsockname()[1])


@contextmanager
def _server(store: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """MLflow's server in a process group of its own, all of which is gone afterwards."""
    uri = f"sqlite:///{store}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--registry-store-uri", uri,
        "--default-artifact-root", (store.parent / "artifacts").as_uri(),
        "--host", HOST, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log, termination_as_interrupt(signal.SIGINT):
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=store.parent,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,
        )
        try:
            yield server, log
        finally:
            _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end; what is left when its leader has gone, or will not go, is killed."""
    try:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(ENDS_WITHIN_S)
    finally:  # also after an impatient second Ctrl-C
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise DsspBenchError(f"MLflow's server does not start: {_reason(log)}")
        try:
            with opener.open(f"http://{HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise DsspBenchError(f"MLflow's server did not answer within {STARTS_WITHIN_S:.0f} s: {_reason(log)}")


def _reason(log: IO[bytes]) -> str:
    """The line of the server's output that says what went wrong, as far as one can tell."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    errors = [line for line in lines if re.search(r"(Error|Exception)\b.*: ", line)]
    return (errors or lines or ["it said nothing"])[-1].strip()[:300]
