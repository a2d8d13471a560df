"""What `make watch` does with programs that die, do not come up, or hold on: small servers in their place."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ToolError
from serving.processes.children import Child, Program, child
from tests.monitoring.inbox.inbox_here import free_port

SERVER = """
import http.server, sys
print("here I am", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
DIES = "import sys; sys.exit('the disk is full')"


def program(source: str, port: int) -> Program:
    return Program("server", [sys.executable, "-c", source, str(port)], "127.0.0.1", port, "/", None)


def look_until(one: Child, said: list[str], holds: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, said
        one.look(time.monotonic(), said.append)
        time.sleep(0.02)


def test_a_program_that_is_killed_is_named_and_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    with child(program(SERVER, free_port()), tmp_path) as one:
        first = one.pid
        one.look(time.monotonic(), said.append)
        assert said == []  # of what lives nothing is said
        os.kill(first, signal.SIGKILL)
        look_until(one, said, lambda: "server is back" in said)
        assert said == ["server ended (signal 9); it is started again in 1 s", "server is back"]
        assert one.pid != first
        assert one.log.read_text().count("here I am") == 2


def test_what_keeps_dying_is_tried_again_ever_more_seldom_and_its_last_words_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    one = Child(program(SERVER, free_port()), tmp_path)
    one.launch()
    one.wait_ready()
    one.program = one.program._replace(command=[sys.executable, "-c", DIES])
    os.kill(one.pid, signal.SIGKILL)
    look_until(one, said, lambda: len(said) == 3)
    assert [line.splitlines()[0][:60].partition(";")[0] for line in said] == [
        "server ended (signal 9)",
        "server ended (exit code 1)",
        "server ended (exit code 1)",
    ]
    assert [line.partition("again in ")[2].partition(" s")[0] for line in said] == ["1", "2", "4"]
    assert said[1].endswith("the disk is full")
    one.end()


def test_a_program_that_does_not_come_up_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="the disk is full"), child(program(DIES, free_port()), tmp_path):
        pass


def test_ctrl_c_on_the_terminal_is_left_to_the_parent(tmp_path: Path) -> None:
    with child(program(SERVER, free_port()), tmp_path) as one:
        assert os.getpgid(one.pid) != os.getpgid(0)
