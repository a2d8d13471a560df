"""Run HTTP servers in a thread: of the standard library, and of Starlette apps."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer

import uvicorn
from starlette.applications import Starlette


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
def serving_app(app: Starlette, host: str, port: int) -> Iterator[None]:
    """Serve an app in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning"))
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
