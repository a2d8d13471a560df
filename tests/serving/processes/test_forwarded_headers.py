"""No service believes `X-Forwarded-For` of a process on this machine, as uvicorn does by default."""

import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

from serving.processes.ports import free_port
from tests.serving.processes.test_http_service import answers, wait_until

SERVICE = """
import sys
from pipeline.params import load_params
from serving.processes.http_service import run_http_service

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = f"{scope['client'][0]} {scope['scheme']}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

run_http_service(app, "127.0.0.1", int(sys.argv[1]), load_params().http, refused=lambda reason: None)
"""


def test_the_client_is_the_peer_whatever_the_headers_say(tmp_path: Path) -> None:
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVICE, str(port)], stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(port), process)
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/", headers={"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"})
        assert connection.getresponse().read() == b"127.0.0.1 http"
        connection.close()
    finally:
        process.kill()
        process.wait()
