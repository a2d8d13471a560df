"""Children that die, do not come up, or hold on: small servers in place of real programs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.errors import ToolError
from serving.processes.ports import free_port
from serving.processes.supervisor import Child, Program, supervised

SERVER = """
import http.server, sys
print("here I am", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
DIES = "import sys; sys.exit('the disk is full')"


def program(source: str, folder: Path, port: int | None = None) -> Program:
    port = port or free_port()
    return Program("server", [sys.executable, "-c", source, str(port)], "127.0.0.1", port, "/", folder / "server.log")


def look_until(child: Child, announced: list[str], holds: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, announced
        child.look(time.monotonic(), announced.append)
        time.sleep(0.02)


def test_a_program_that_is_killed_is_named_and_restarted(tmp_path: Path) -> None:
    announced: list[str] = []
    with supervised(program(SERVER, tmp_path)) as child:
        first = child.pid
        child.look(time.monotonic(), announced.append)
        assert announced == []  # nothing is announced while it lives
        os.kill(first, signal.SIGKILL)
        look_until(child, announced, lambda: "server is back" in announced)
        assert announced == ["server ended (signal 9); restarting in 1 s", "server is back"]
        assert child.pid != first
        assert child.program.log.read_text().count("here I am") == 2


def test_a_program_that_keeps_dying_is_restarted_after_growing_pauses_and_its_last_output_is_announced(tmp_path: Path) -> None:
    announced: list[str] = []
    server = program(SERVER, tmp_path)
    child = Child(server)
    child.start()
    child.wait_ready()
    child.program = server._replace(command=[sys.executable, "-c", DIES])
    os.kill(child.pid, signal.SIGKILL)
    look_until(child, announced, lambda: len(announced) == 3)
    assert [line.splitlines()[0][:60].partition(";")[0] for line in announced] == [
        "server ended (signal 9)",
        "server ended (exit code 1)",
        "server ended (exit code 1)",
    ]
    assert [line.partition("restarting in ")[2].partition(" s")[0] for line in announced] == ["1", "2", "4"]
    assert announced[1].endswith("the disk is full")
    child.end()


def test_a_program_that_cannot_be_started_is_tried_again_later(tmp_path: Path) -> None:
    announced: list[str] = []
    server = program(SERVER, tmp_path)
    with supervised(server):
        child = Child(program(SERVER, tmp_path / "other", port=server.port))
        child.look(10.0, announced.append)
        child.look(10.5, announced.append)
    assert len(announced) == 1
    assert announced[0].startswith("server could not be started; next attempt in 1 s: ")
    look_until(child, announced, lambda: "server is back" in announced)
    child.end()


class Stubborn(NamedTuple):
    """A program whose end, and then whose log, fails as on a machine without a free file descriptor."""

    program: Program
    fails: list[str]

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def log(self) -> Path:
        return self.program.log

    def start(self) -> subprocess.Popen[bytes]:
        return self.program.start()

    def is_ready(self) -> bool:
        return self.program.is_ready()

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        self.program.stop(process)
        if "stop" in self.fails:
            raise OSError("too many open files")

    def last_output(self) -> str:
        if "last_output" in self.fails:
            raise OSError("too many open files")
        return self.program.last_output()


@pytest.mark.parametrize("failing", ["stop", "last_output"])
def test_whatever_fails_when_a_program_has_ended_it_is_restarted_after_its_pause(tmp_path: Path, failing: str) -> None:
    announced: list[str] = []
    server, fails = program(SERVER, tmp_path), [failing]
    child = Child(Stubborn(server._replace(command=[sys.executable, "-c", DIES]), fails))
    child.start()
    assert child.process
    child.process.wait(10)
    child.look(time.monotonic(), announced.append)
    child.look(time.monotonic(), announced.append)
    assert announced == ["server could not be started; next attempt in 2 s: too many open files"]
    fails.clear()
    child.program = server
    look_until(child, announced, lambda: "server is back" in announced)
    child.end()


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    server = program(SERVER, tmp_path)
    with server.log.open("wb") as log:
        log.truncate(2**33)  # 8 GiB, sparse
        log.seek(0, os.SEEK_END)
        log.write("\nthe disk is full ÿ\n".encode())
    assert server.last_output().splitlines()[-1] == "the disk is full ÿ"


def test_a_program_that_does_not_come_up_fails_with_its_last_output(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="the disk is full"), supervised(program(DIES, tmp_path)):
        pass


def test_ctrl_c_on_the_terminal_is_left_to_the_parent(tmp_path: Path) -> None:
    with supervised(program(SERVER, tmp_path)) as child:
        assert os.getpgid(child.pid) != os.getpgid(0)
