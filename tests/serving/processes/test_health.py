"""Whose a listening service is: another clone's has the same port by default."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from serving.processes import health as module
from serving.processes.health import find_owner, health, health_sign
from serving.processes.ports import free_port
from tests.http_servers import serving_in_thread

HOST = "127.0.0.1"


class Service:
    """A server that answers every GET with this body."""

    body = b""


@pytest.fixture
def port() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(Service.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer((HOST, 0), Handler)
    with serving_in_thread(server):
        yield server.server_port


def answer(monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    monkeypatch.setattr(Service, "body", body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_service_is_of_the_home_that_it_names(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, health("gateway", tmp_path))
    assert find_owner(HOST, port, health_sign("gateway", tmp_path)) == "this home"
    assert find_owner(HOST, port, health_sign("gateway", tmp_path / "another")) == "another"
    assert find_owner(HOST, port, health_sign("console", tmp_path)) == "another"
    assert str(tmp_path) not in Service.body.decode()


@pytest.mark.parametrize("body", [b"<html>", b"", [], {}, {"status": "alive"}, None])
def test_a_program_that_is_not_ours_is_another(port: int, tmp_path: Path, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, body)
    assert find_owner(HOST, port, health_sign("gateway", tmp_path)) == "another"


def test_nothing_is_claimed_of_a_closed_port(tmp_path: Path) -> None:
    assert find_owner(HOST, free_port(), health_sign("gateway", tmp_path)) == "nobody"


def test_a_service_that_is_too_busy_to_answer_may_be_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWERS_WITHIN_S", 0.05)
    with socket.create_server((HOST, 0)) as silent:
        assert find_owner(HOST, silent.getsockname()[1], health_sign("gateway", tmp_path)) == "unknown"


def test_a_service_of_another_machine_may_have_its_home_elsewhere(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_loopback", lambda _host: False)
    answer(monkeypatch, health("gateway", tmp_path / "another"))
    assert find_owner(HOST, port, health_sign("gateway", tmp_path)) == "unknown"
