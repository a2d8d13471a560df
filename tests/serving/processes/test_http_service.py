"""How every HTTP service starts, answers and ends, on a real server."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from pipeline.errors import ToolError
from pipeline.params import load_params
from serving.processes.http_service import SPARE_FILES, allow_open_files, run_http_service
from serving.processes.ports import free_port

SERVICE = """
import asyncio, sys
import structlog
from pipeline.params import Http
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json

async def app(scope, receive, send):
    if scope["type"] == "http":
        structlog.get_logger().info("request", path=scope["path"], strange="\\ud800")
        if scope["path"].startswith("/slow"):
            await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

log_in_json()
http = Http.model_validate_json(sys.argv[2]).model_copy(update={"peer_share": 1.0})
run_http_service(app, "127.0.0.1", int(sys.argv[1]), http, refused=lambda reason: None, max_open=2)
"""


def test_a_service_hides_its_server_bounds_connections_logs_json_and_finishes_what_it_has_begun(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-c", SERVICE, str(port), load_params().http.model_dump_json()]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(lambda: answers(port), process)
        first, second, third = (HTTPConnection("127.0.0.1", port, timeout=10) for _ in range(3))
        first.request("GET", "/fast")
        answer = first.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok")
        assert answer.headers["server"] is None
        first.request("GET", "/slow/1")
        second.request("GET", "/slow/2")
        wait_until(lambda: all(path in log.read_text() for path in ("/slow/1", "/slow/2")), process)
        third.request("GET", "/fast")
        refusal = third.getresponse()
        assert (refusal.status, refusal.headers["retry-after"]) == (503, "1")
        os.kill(process.pid, signal.SIGTERM)
        assert (first.getresponse().read(), second.getresponse().read()) == (b"ok", b"ok")
        process.wait(10)
        events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        assert {(event["event"], event["level"]) for event in events} == {("request", "info"), ("requests refused", "warning")}
        assert "GET /" not in log.read_text()  # no access log
    finally:
        process.kill()
        process.wait()


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ToolError, match=f"127.0.0.1:{port}"):
            run_http_service(None, "127.0.0.1", port, load_params().http, refused=lambda reason: None)


def test_a_process_gets_the_file_descriptors_that_its_connections_need(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1024, 4096)}

    def change(_which: int, limit: tuple[int, int]) -> None:
        limits["now"] = limit

    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", change)
    assert allow_open_files(512) == 512 and limits["now"] == (1024, 4096)
    assert allow_open_files(2000) == 2000 and limits["now"] == (2000 + SPARE_FILES, 4096)
    assert allow_open_files(5000) == 4096 - SPARE_FILES and limits["now"] == (4096, 4096)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
