"""The monitor's process: /metrics and /report.json over HTTP, while the cycles run in a thread."""

import argparse
import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitoring.monitor.references import model_store_url
from monitoring.monitor.service import MonitorService
from pipeline.errors import ToolError
from pipeline.home import find_home
from pipeline.output.plain_text import plain_json, print_lines
from pipeline.params import load_params
from serving.processes.addresses import listen_host
from serving.processes.health import health
from serving.processes.http_guard import HttpGuard
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json


def create_app(monitor: MonitorService, stop: threading.Event) -> Starlette:
    """Serve /metrics, /healthz and /report.json while the cycles run in a thread."""
    host = listen_host("monitor", monitor.params.alerts.host)

    async def metrics(_request: Request) -> Response:
        return Response(monitor.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def healthz(_request: Request) -> Response:
        return JSONResponse(health("monitor", monitor.home))

    async def report_json(request: Request) -> Response:
        if not is_on_this_host(request):
            monitor.metrics.count_refusal("another_host")
            return Response(
                "the report holds customers' texts: read it on the monitor's own machine, or through kubectl port-forward", 403
            )
        if monitor.report is None:
            return JSONResponse({"detail": "nothing was evaluated yet"}, 503)
        return JSONResponse(monitor.report, headers={"cache-control": "no-store"})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        cycles = asyncio.create_task(asyncio.to_thread(run_cycles, monitor, stop))
        yield
        stop.set()
        await cycles

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/report.json", report_json)],
        middleware=[Middleware(HttpGuard, monitor.params.http, host, monitor.metrics.count_refusal)],
        lifespan=lifespan,
    )


def is_on_this_host(request: Request) -> bool:
    """Return True for a connection from the machine, or the pod, that the monitor runs on; the socket says so, no header.

    `kubectl port-forward` connects inside the pod, for those whom the cluster allows it.
    """
    client, server = request.scope.get("client"), request.scope.get("server")
    return bool(client and server and client[0] == server[0])


def run_cycles(monitor: MonitorService, stop: threading.Event) -> None:
    """Run cycles until stopped, without a pause while more waits."""
    while not stop.is_set():
        if not monitor.cycle():
            stop.wait(monitor.params.monitor.poll_s)


def run_once(monitor: MonitorService) -> None:
    """Run cycles until nothing waits, then print the report; raises `ToolError` if a cycle fails."""
    while monitor.cycle():
        pass
    if monitor.failed:
        raise ToolError(f"the monitor's {monitor.failed}", "the cycle failed", "read the log lines above this message")
    print_lines(plain_json(monitor.report, indent=2))


def main() -> None:
    """Run `python -m monitoring.monitor`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="evaluate what is in the log, print the report and exit")
    args = parser.parse_args()
    log_in_json()
    params = load_params()
    monitor = MonitorService(params, find_home(), time.time, model_store_url())
    try:
        if args.once:
            run_once(monitor)
            return
        host, app = listen_host("monitor", params.alerts.host), create_app(monitor, threading.Event())
        run_http_service(app, host, params.alerts.monitor_port, params.http, refused=monitor.metrics.count_refusal)
    finally:
        monitor.close()
