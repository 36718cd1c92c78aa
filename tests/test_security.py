"""What docs/security.md says of the code as a whole; what it says of its parts is tested with them."""

import ast
import ipaddress
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dssp_bench.cli import ui

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "dssp_bench"
PAGE = ROOT / "docs" / "security.md"
UNPICKLERS = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNPICKLING = {"engines/local/memory.py", "tasks/data/cifar.py"}
SERVING = {"cli/ui.py", "engines/cluster/gateway.py"}
NETWORKED = {"socket", "socketserver", "http", "asyncio", "multiprocessing", "xmlrpc"}
FORBIDDEN = {
    "torch.load", "torch.hub.load", "np.load", "numpy.load", "pd.read_pickle", "yaml.unsafe_load", "yaml.full_load",
    "eval", "exec", "os.system", "os.popen",
}  # fmt: skip


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_only_two_modules_can_unpickle() -> None:
    assert {name for name, tree in modules() if imported(tree) & UNPICKLERS} == UNPICKLING


def test_nothing_is_called_that_runs_what_it_reads() -> None:
    found = {(name, ast.unparse(call.func)) for name, tree in modules() for call in calls(tree)}
    assert ("records/reader.py", "yaml.load") in found  # so that this looks at the right names
    assert {(name, called) for name, called in found if called in FORBIDDEN} == set()


def test_yaml_is_read_by_a_safe_loader() -> None:
    loads = [call for _, tree in modules() for call in calls(tree) if ast.unparse(call.func) == "yaml.load"]
    loaders = [ast.unparse(keyword.value) for call in loads for keyword in call.keywords if keyword.arg == "Loader"]
    assert len(loaders) == len(loads)
    assert all("SafeLoader" in loader for loader in loaders)


def test_no_command_goes_through_a_shell() -> None:
    shells = [name for name, tree in modules() for call in calls(tree) if "shell" in {k.arg for k in call.keywords}]
    assert shells == []


def test_only_the_pages_of_mlflow_and_the_gateway_of_a_cluster_are_served() -> None:
    binding = {"bind", "listen", "create_server", "start_server", "Listener", "Manager", "HTTPServer"}
    serving = {name for name, tree in modules() for call in calls(tree) if _last_name(call.func) in binding}
    networked = {name for name, tree in modules() if imported(tree) & NETWORKED}
    assert serving & networked == SERVING


def _last_name(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]


def test_mlflow_serves_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def keep(command: list[str], **_options: Any) -> None:
        commands.append(command)
        raise FileNotFoundError

    monkeypatch.setattr("subprocess.Popen", keep)
    with pytest.raises(FileNotFoundError), ui._server(tmp_path / "mlflow.db", 5000):
        pass
    (command,) = commands
    assert ipaddress.ip_address(command[command.index("--host") + 1]).is_loopback


@pytest.mark.processes
def test_nobody_else_can_reach_the_process_that_forks(tmp_path: Path) -> None:
    program = """
from multiprocessing import forkserver
from dssp_bench.engines.local.fork_server import start_fork_server
start_fork_server()
print(forkserver._forkserver._forkserver_address, flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout
    address = Path(process.stdout.readline().strip())
    folder = address.parent.stat()
    process.communicate("\n")
    assert address.parent.parent == tmp_path
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid) == (0o700, os.getuid())


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`(?::\s+`(\w+)`)?", PAGE.read_text(encoding="utf-8"))
    assert named
    for path, test in named:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {test}" in text, (path, test)
