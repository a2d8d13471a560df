"""Starts every HTTP service of Evergreen: one uvicorn process, with the same limits for all of them."""

import resource
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
import uvicorn

from pipeline.loopback import bypass_proxies
from pipeline.params import Http
from serving.processes.http_connections import OpenConnections
from serving.processes.http_protocol import BoundedHttpProtocol
from serving.processes.http_refusals import RefusalLog
from serving.processes.ports import require_free_port

KEEP_ALIVE_S = 75  # longer than any scrape interval, so that clients reuse their connections
BACKLOG = 2048  # connections that the kernel holds until they are accepted
MAX_OPEN = 512  # connections of a service that has no setting of its own
SPARE_FILES = 128  # descriptors for everything but connections: databases, logs, Triton
SHUTDOWN_S = 15  # for the requests in flight

log = structlog.get_logger()


def run_http_service(
    app: Any, host: str, port: int, http: Http, *, refused: Callable[[str], None], max_open: int = MAX_OPEN
) -> None:
    """Serve an ASGI app until SIGTERM or SIGINT; raise `ToolError` when the port cannot be used.

    `refused` is called with the reason whenever a connection is refused before the app has seen its request.
    """
    bypass_proxies()
    require_free_port(host, port)
    server = uvicorn.Server(http_config(app, host, port, http, max_open=allow_open_files(max_open), refused=refused))
    with suppress(KeyboardInterrupt):
        server.run()


def http_config(
    app: Any, host: str, port: int, http: Http, *, refused: Callable[[str], None], max_open: int = MAX_OPEN
) -> uvicorn.Config:
    """Return uvicorn's configuration of a service: connections within the limits of params."""
    connections = OpenConnections(max_open, max(1, int(http.peer_share * max_open)))
    protocol = partial(BoundedHttpProtocol, limits=http, connections=connections, refused=RefusalLog(refused))
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,  # type: ignore[arg-type] # uvicorn calls it with keywords only
        ws="none",
        log_level="error",  # refusals are counted and logged by `RefusalCounter`
        log_config=None,  # as `log_in_json` has configured it: an error quotes what a client sent
        access_log=False,
        proxy_headers=False,  # X-Forwarded-For of any process on this machine would count; see `serving.access.proxies`
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


def allow_open_files(connections: int) -> int:
    """Raise this process's limit of open files so that it can hold the connections; return how many it can hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("fewer connections than wanted: raise the limit of open files", wanted=connections, files=allowed)
    return max(1, min(connections, allowed - SPARE_FILES))
