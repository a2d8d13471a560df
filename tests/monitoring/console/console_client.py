"""A client of a running console, and a gateway that answers as a test wants."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import requests

from pipeline.params import Params
from tests.http_servers import serving_in_thread
from tests.monitoring.console.running_console import running_console


class ConsoleClient(NamedTuple):
    """Sends a running console what its pages send."""

    url: str

    def page(self, path: str) -> str:
        response = requests.get(f"{self.url}{path}", timeout=60)
        response.raise_for_status()
        assert "script-src 'self'" in response.headers["content-security-policy"]
        return response.text

    def ask(self, text: str, **headers: str) -> str:
        """Return the piece of HTML that answers a text."""
        return self.post("/try/answer", {"text": text}, **headers)

    def post(self, path: str, content: Mapping[str, Any], **headers: str) -> str:
        response = requests.post(f"{self.url}{path}", json=content, headers=headers, timeout=60)
        assert "script-src 'self'" in response.headers["content-security-policy"]
        return response.text


@contextmanager
def console_client(params: Params, home: Path, gateway_port: int = 9) -> Iterator[ConsoleClient]:
    """Run the console in front of the gateway on this port."""
    gateway = params.gateway.model_copy(update={"port": gateway_port})
    with running_console(params.model_copy(update={"gateway": gateway}), home) as url:
        yield ConsoleClient(url)


class SentRequest(NamedTuple):
    """What a stub of a gateway received."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@contextmanager
def answering(
    status: int, body: Mapping[str, Any], received: list[SentRequest] | None = None, retry_after: str = ""
) -> Iterator[int]:
    """Serve a stub of a gateway that gives every request this answer; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if received is not None:
                received.append(SentRequest(self.path, {name.lower(): value for name, value in self.headers.items()}, content))
            self.send_response(status)
            if retry_after:
                self.send_header("retry-after", retry_after)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving_in_thread(server):
        yield server.server_port
