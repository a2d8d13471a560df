"""`make .venv/ready` with a pip that only writes down what it is asked: four installations at once, and none left behind."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.lifetime import processes_with

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
mkdir -p .venv/bin
cp pip .venv/bin/pip
"""
PIP = """#!/bin/sh
echo "$*" >> log
case "$*" in
  *"--no-deps torch=="*) exec sleep $TORCH_S;;
  *--requirement*) sleep $OTHERS_S & trap "kill $!" EXIT; trap 'exit 143' TERM; wait $!; exit $OTHERS_CODE;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").write_text("# exact versions\na==1\nb==1\ntorch==2.13.0\nc==1\nd==1\n")
    (tmp_path / "pyproject.toml").touch()
    for name, script in (("python", PYTHON), ("pip", PIP)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def make(project: Path, *, torch_s: float = 0, others_s: float = 0, others_code: int = 0) -> subprocess.Popen[bytes]:
    times = {"TORCH_S": str(torch_s), "OTHERS_S": str(others_s), "OTHERS_CODE": str(others_code)}
    environment = {"PATH": os.environ["PATH"], "SETUP_TEST": str(project), **times}
    command = ["make", "PYTHON=./python", ".venv/ready"]
    return subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_everything_is_installed_and_the_seconds_are_noted(project: Path) -> None:
    assert make(project, torch_s=0.3).wait(20) == 0
    calls = [line.removeprefix("install --quiet --disable-pip-version-check --no-compile ") for line in log(project)]
    parts = [f".venv/part{number}.txt" for number in range(3)]
    assert sorted(calls[:4]) == [
        *(f"--no-deps --require-hashes --requirement {part}" for part in parts),
        "--no-deps torch==2.13.0",
    ]
    editable = "--no-deps --no-build-isolation --config-settings editable_mode=compat --editable ."
    assert calls[4:] == ["torch==2.13.0", editable]
    assert sorted("".join((project / part).read_text() for part in parts).split()) == ["a==1", "b==1", "c==1", "d==1"]
    assert (project / ".venv" / "ready").read_text().strip().isdigit()


def test_a_failure_ends_the_other_installations_too(project: Path) -> None:
    assert make(project, torch_s=60, others_s=0.3, others_code=1).wait(20) == 2
    assert_nothing_is_left(project)


def test_ctrl_c_ends_all_installations(project: Path) -> None:
    process = make(project, torch_s=60, others_s=60)
    wait_until(lambda: len(log(project)) == 4)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) != 0
    assert_nothing_is_left(project)


def assert_nothing_is_left(project: Path) -> None:
    wait_until(lambda: not list(processes_with("SETUP_TEST", str(project))))
    assert not (project / ".venv" / "ready").exists()


def log(project: Path) -> list[str]:
    path = project / "log"
    return path.read_text().splitlines() if path.is_file() else []
