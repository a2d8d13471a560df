"""Starts every HTTP service of Evergreen: one uvicorn process, with the same limits for all of them."""

from typing import Any, Literal

import uvicorn

from serving.processes.ports import require_free_port

KEEP_ALIVE_S = 75  # longer than any scrape interval, so that clients reuse their connections
BACKLOG = 2048  # connections that the kernel holds until they are accepted
MAX_OPEN = 512  # connections or requests; below the usual limit of 1,024 file descriptors
SHUTDOWN_S = 15  # for the requests in flight


def run_http_service(
    app: Any,
    host: str,
    port: int,
    *,
    loop: Literal["auto", "uvloop"] = "auto",
    http: Literal["auto", "httptools"] = "auto",
    max_open: int | None = MAX_OPEN,
) -> None:
    """Serve an ASGI app until SIGTERM or SIGINT; raise `ToolError` when the port cannot be used.

    From `max_open` connections on uvicorn answers a plain 503; pass None when the app enforces its own limit.
    """
    require_free_port(host, port)
    uvicorn.run(
        app,
        host=host,
        port=port,
        loop=loop,
        http=http,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-For of any process on this machine would count; see `serving.access.proxies`
        limit_concurrency=max_open,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
