"""Every code block of README runs in a clean shell exactly as written, and leaves nothing behind."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from serving.processes.ports import free_port
from serving.triton.server import with_free_ports
from tests.conftest import ROOT, Project, copy_made

BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
REPRO, SERVE = "make repro", "make serve"  # run by the fixtures: without the installation, in the small project, on free ports


class Served(NamedTuple):
    """A project with its champion served, and the environment of a clean shell."""

    project: Project
    shell: dict[str, str]


@pytest.fixture(scope="module")
def reproduced(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project in which the steps of `make repro` have run."""
    project = copy_made(made, tmp_path_factory.mktemp("readme") / "project")
    ports = with_free_ports(project.params.serve)
    changed = {name: getattr(ports, name) for name in ("http_port", "grpc_port", "metrics_port")}
    project.set(serve=changed, gateway={"port": free_port()}, alerts={"console_port": free_port()})
    output = project.must("python", "-m", "evergreen.repro", PYTHONPATH=str(ROOT))
    assert "where the time went" in output
    return project


@pytest.fixture(scope="module")
def served(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve as `make serve` does. The shell's home sends curl's calls of the default port to the port served here."""
    port = reproduced.params.gateway.port
    home = tmp_path_factory.mktemp("shell")
    (home / ".curlrc").write_text(f'connect-to = "127.0.0.1:8080:127.0.0.1:{port}"\n')
    # PYTHONPATH names the code of this working tree, as the editable installation of a user does
    shell = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
    command = [".venv/bin/evergreen", "serve"]
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=reproduced.folder, env=shell, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(process, port, home / "serve.log")
        yield Served(reproduced, shell)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    pytest.fail(log.read_text())


def files_in(project: Project) -> set[str]:
    """Return the tracked and new files of the project, without those that git ignores."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=project.folder, capture_output=True, text=True)
    return set(listed.stdout.splitlines())


def test_readme_has_blocks_and_starts_with_the_two_commands() -> None:
    assert BLOCKS[0].split("\n") == [REPRO, SERVE, ""]
    assert len(BLOCKS) > 1


@pytest.mark.parametrize("block", BLOCKS[1:], ids=range(1, len(BLOCKS)))
def test_a_block_runs_in_a_clean_shell_as_written(served: Served, block: str) -> None:
    project, shell = served
    before = files_in(project)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=project.folder, env=shell, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert files_in(project) == before
    for command, answer in (("evergreen ask", "sure, version 1"), ("load_model", "label="), ("curl", '"version":1')):
        assert command not in block or answer in done.stdout, done.stdout
