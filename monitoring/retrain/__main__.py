"""`python -m monitoring.retrain`: the controller as a process, with /metrics; `--once`, `--dry-run`, `--ask`.

Exit codes of `--once`: 0 nothing to do, or done; 1 a retrain failed; 4 the gate refused its candidate.
"""

import argparse
import asyncio
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as sa
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitoring.retrain.alerts import ReceivedAlert, insert_alerts
from monitoring.retrain.clock import read_clock
from monitoring.retrain.controller import Controller, Ended, lease_keeper
from monitoring.retrain.decide import ASKED, Past, Situation
from monitoring.retrain.gate.candidate import gate
from monitoring.retrain.gate.verdict import Gate
from monitoring.retrain.journal import Begin, Journal
from monitoring.retrain.metrics import TEXT_FORMAT, ControllerMetrics
from monitoring.retrain.run_local import RunLocal
from monitoring.retrain.situation import read_situation
from monitoring.retrain.steps import WorkHere
from pipeline.errors import EXIT_REFUSED, run_stage
from pipeline.home import find_home, git
from pipeline.params import Params, load_params
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json
from state.database import open_state

log = structlog.get_logger()


def build(params: Params, home: Path, begin: Begin, gate: Gate, metrics: ControllerMetrics, ended: threading.Event) -> Controller:
    """A controller of the clone in the current folder."""
    settings = params.retrain
    journal = Journal(begin, params.publish.name)
    run = RunLocal(Path.cwd(), home, settings)

    def read(connection: sa.Connection, past: list[Past]) -> Situation:
        return read_situation(connection, past, params, home, git("rev-parse", "HEAD"))

    return Controller(
        journal,
        WorkHere(params, home, run, gate, lambda: _pause(ended, settings.poll_s)),
        read,
        settings,
        clock=read_clock,
        owner=f"{socket.gethostname()[:64]}:{os.getpid()}",
        metrics=metrics,
        keeping=lease_keeper(journal, read_clock, settings.lease_s),
        is_ending=ended.is_set,
    )


def create_app(controller: Controller, metrics: ControllerMetrics, poll_s: float, ended: threading.Event) -> Starlette:
    """/metrics, while two threads look and work."""

    async def show(_request: Request) -> Response:
        return Response(metrics.text(), media_type=TEXT_FORMAT)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        steps = {"looking": controller.look, "working": controller.advance}
        running = [asyncio.to_thread(repeat, name, step, metrics, poll_s, ended) for name, step in steps.items()]
        tasks = [asyncio.create_task(one) for one in running]
        yield
        ended.set()
        await asyncio.gather(*tasks)

    return Starlette(routes=[Route("/metrics", show), Route("/healthz", healthz)], lifespan=lifespan)


def repeat(name: str, step: Callable[[], object], metrics: ControllerMetrics, poll_s: float, ended: threading.Event) -> None:
    """Again and again; what fails (a database that is away) is counted, and tried again."""
    while not ended.is_set():
        try:
            step()
        except Exception as error:
            metrics.failed(name)
            is_known = isinstance(error, sa.exc.OperationalError | OSError)
            log.warning("the controller could not go on", part=name, error=str(error)[:500], exc_info=not is_known)
        _pause(ended, poll_s)


def once(controller: Controller) -> Ended | None:
    """One look, and all the work that is due; how a retrain ended, where one has."""
    controller.look()
    ended = controller.advance()
    controller.look()
    return ended


def ask(engine: sa.Engine, why: str) -> None:
    """Enter a person's wish as an alert of its own: it waits for nothing but a retrain that runs."""
    now = time.time()
    body = json.dumps({"labels": {"alertname": ASKED}, "annotations": {"why": why}})
    with engine.begin() as connection:
        insert_alerts(connection, [ReceivedAlert(f"asked-{secrets.token_hex(8)}", now, "firing", body)], now)


@contextmanager
def opened(home: Path, *, is_dry: bool) -> Iterator[tuple[sa.Engine, Begin]]:
    """The database; in a dry run everything is one transaction that is taken back."""
    with open_state(home) as engine:
        if not is_dry:
            yield engine, engine.begin
            return
        with engine.connect() as connection:
            transaction = connection.begin()

            @contextmanager
            def inside() -> Iterator[sa.Connection]:
                with connection.begin_nested():
                    yield connection

            yield engine, inside
            transaction.rollback()


def _pause(ended: threading.Event, seconds: float) -> None:
    ended.wait(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m monitoring.retrain", description=__doc__)
    parser.add_argument("--once", action="store_true", help="look, work until nothing is due, end")
    parser.add_argument("--dry-run", action="store_true", help="print what would be decided; nothing is written or started")
    parser.add_argument("--ask", metavar="WHY", help="ask for a retrain, and say why; the controller takes it from there")
    args = parser.parse_args()
    log_in_json()
    params, home = load_params(), find_home()
    metrics, ended = ControllerMetrics(), threading.Event()
    with opened(home, is_dry=args.dry_run) as (engine, begin):
        if args.ask is not None:
            ask(engine, args.ask)
            return
        controller = build(params, home, begin, partial(gate, params=params, home=home), metrics, ended)
        if args.dry_run:
            controller.look()
        elif args.once:
            _end_with(once(controller))
        else:
            host, port = os.environ.get("EVERGREEN_CONTROLLER_HOST", params.alerts.host), params.alerts.controller_port
            run_http_service(create_app(controller, metrics, params.retrain.poll_s, ended), host, port)


def _end_with(ended: Ended | None) -> None:
    if ended and ended.state != "done":
        print(f"retrain {ended.job.id} {ended.state} at step {ended.job.step}: {ended.failure}", file=sys.stderr)
        raise SystemExit(EXIT_REFUSED if ended.state == "refused" else 1)


if __name__ == "__main__":
    run_stage(main)
