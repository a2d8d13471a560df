"""Run HTTP servers in a thread: of the standard library, and ours."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from typing import Any

import uvicorn

from pipeline.params import Http, load_params
from serving.processes.http_service import MAX_OPEN, http_config


@contextmanager
def serving_in_thread(server: HTTPServer) -> Iterator[str]:
    """Serve until the block ends; yields the URL."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_app(
    app: Any,
    host: str,
    port: int,
    http: Http | None = None,
    max_open: int = MAX_OPEN,
    refused: Callable[[str], None] = lambda reason: None,
) -> Iterator[None]:
    """Serve an app in a thread, with the limits of every service."""
    server = uvicorn.Server(http_config(app, host, port, http or load_params().http, refused=refused, max_open=max_open))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline and thread.is_alive(), f"{host}:{port} did not start"
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()
