"""The flywheel's process: /metrics and /healthz over HTTP, while a thread makes a round when one is due.

A round runs in a child process, which returns its memory when it ends. Between rounds, another one measures disagreement.
`--once` makes a round and exits.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware

from monitoring.flywheel.rounds import Rounds
from monitoring.pages.routes import service_routes
from pipeline.home import find_home
from pipeline.output.plain_text import indented, print_line, print_lines
from pipeline.params import load_params
from serving.processes.addresses import base_url, listen_host
from serving.processes.http_guard import HttpGuard
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json

ROUND = [sys.executable, "-m", "monitoring.flywheel", "--once"]
COMPARE = [sys.executable, "-m", "monitoring.flywheel.disagreement"]


def create_app(rounds: Rounds, stopping: threading.Event) -> Starlette:
    """Serve /metrics and /healthz while a thread makes rounds."""
    params, metrics = rounds.params, rounds.metrics

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(asyncio.to_thread(repeat, rounds, stopping))
        yield
        stopping.set()
        await looking

    return Starlette(
        routes=service_routes(metrics, "flywheel", rounds.home),
        middleware=[Middleware(HttpGuard, params.http, listen_host("flywheel", params.alerts.host), metrics.count_refusal)],
        lifespan=lifespan,
    )


def repeat(rounds: Rounds, stopping: threading.Event) -> None:
    """Look for a due round until the process stops."""
    while not stopping.is_set():
        rounds.look(stopping)
        stopping.wait(rounds.params.flywheel.poll_s)


def main() -> None:
    """Run `python -m monitoring.flywheel`."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.flywheel", description=__doc__)
    parser.add_argument("--once", action="store_true", help="make a round now and exit")
    is_once = parser.parse_args().once
    log_in_json()
    params, home = load_params(), find_home()
    if is_once:
        from monitoring.flywheel.make_round import make_round  # imports what only a round needs

        make_round(home, params, time.time(), announce=lambda line: print_lines(f"· {indented(line)}"))
        return
    rounds = Rounds(params, home, time.time, ROUND, COMPARE)
    host, port = listen_host("flywheel", params.alerts.host), params.alerts.flywheel_port
    print_line(json.dumps({"event": "flywheel", "url": f"{base_url(host, port)}/metrics"}))
    app = create_app(rounds, threading.Event())
    run_http_service(app, host, port, params.http, refused=rounds.metrics.count_refusal)
