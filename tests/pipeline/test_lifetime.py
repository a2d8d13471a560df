"""Every process ends with its parent, whatever ends that. A child holds the write end of a pipe, whose end is its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.conftest import ROOT

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
CHILD = "import os, signal; os.write(1, b'begun'); signal.pause()"
PROGRAM = """
import signal, sys
from pipeline.errors import run_stage
def main():
    try:
        print("begun", end="", flush=True)
        signal.pause()
    finally:
        signal.raise_signal(signal.SIGTERM)  # DVC's end and that of the whole group may send it twice
        print(" closed", end="", flush=True)
run_stage(main)
"""
START_CHILD = """
import subprocess, sys
from pipeline.lifetime import {start}
{start}([sys.executable, "-c", {child!r}]{wait}
"""


@contextmanager
def running(*command: str, **variables: str) -> Iterator[tuple["subprocess.Popen[bytes]", BinaryIO]]:
    """Yield a parent, and the file that it and all its children write to."""
    reader, writer = os.pipe()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "DVC_", "MAKE"))}
    process = subprocess.Popen(command, cwd=ROOT, env=environment | variables, stdout=writer, start_new_session=True)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as output:
        try:
            assert output.read(5) == b"begun"
            yield process, output
        finally:
            process.kill()
            process.wait()


def rest(output: BinaryIO) -> str:
    """Return what was written until the last process that could write has ended."""
    return b"".join(iter(lambda: output.read(4096), b"")).decode()


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("start", "wait"), [("start_child", ").wait()"), ("run_child", ")")])
def test_a_child_ends_with_its_parent(number: signal.Signals, start: str, wait: str) -> None:
    with running(*python(START_CHILD.format(start=start, child=CHILD, wait=wait))) as (parent, output):
        parent.send_signal(number)
        assert rest(output) == ""


@pytest.mark.parametrize("variables", [{"EVERGREEN_ENDS_WITH_PARENT": "1"}, {"DVC_STAGE": "train"}])
def test_a_program_below_make_or_dvc_ends_with_it_and_closes_what_it_has_opened(variables: dict[str, str]) -> None:
    plain = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PROGRAM!r}])"
    with running(*python(plain), **variables) as (parent, output):
        parent.kill()
        assert rest(output) == " closed"


def test_a_stage_ends_with_dvc_although_a_shell_stands_between_them(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(PROGRAM)
    line = f"PYTHONPATH={ROOT} {sys.executable} {tmp_path / 'stage.py'}; true"  # no shell becomes the first of two commands
    plain = f"import subprocess; subprocess.run(['/bin/sh', '-c', {line!r}])"
    with running(*python(plain), DVC_STAGE="train") as (dvc, output):
        dvc.kill()
        assert rest(output) == " closed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_closes_what_it_has_opened_when_it_is_told_to_end_more_than_once(number: signal.Signals) -> None:
    with running(*python(PROGRAM)) as (program, output):
        program.send_signal(number)
        assert rest(output) == " closed"
        assert program.wait() == 128 + signal.SIGTERM


def test_a_closed_terminal_does_not_end_a_program_under_nohup() -> None:
    with running("nohup", *python(PROGRAM)) as (program, output):
        program.send_signal(signal.SIGHUP)
        program.send_signal(signal.SIGTERM)
        assert rest(output) == " closed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])  # make itself waits for its programs after the others
def test_the_programs_of_the_makefile_end_with_make(number: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    recipe = f"probe: ; @exec env PYTHONPATH={ROOT} {sys.executable} {program}"
    with running("make", "--eval", recipe, "probe") as (make, output):
        make.send_signal(number)
        assert rest(output).startswith(" closed")


def test_no_module_starts_a_child_in_another_way() -> None:
    """Ruff's TID251 says it too, and refuses annotations; this names the modules."""
    found = [path for path in sources() if "subprocess.Popen(" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(ROOT).as_posix() for path in found] == ["pipeline/lifetime.py"]


def sources() -> Sequence[Path]:
    packages = ("evergreen", "monitoring", "pipeline", "serving", "state")
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))
