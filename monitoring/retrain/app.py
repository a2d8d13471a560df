"""The retrain controller as a process with /metrics, or with `--once` or `--dry-run`.

Exit codes of `--once`: 0 nothing to do, or done; 1 a retrain failed; 4 the gate refused its candidate.
"""

import argparse
import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as sa
import structlog
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitoring.clock import Moment, read_clock
from monitoring.decisions import read_decision, read_open_since
from monitoring.release.runs import newest_runs
from monitoring.retrain.controller import Controller, EndedRetrain, lease_renewer
from monitoring.retrain.decide import DAY_S, Inputs, PastRetrain
from monitoring.retrain.decision_inputs import read_inputs
from monitoring.retrain.gate.candidate import gate
from monitoring.retrain.gate.verdict import RunGate
from monitoring.retrain.journal import Begin, Journal
from monitoring.retrain.metrics import ControllerMetrics
from monitoring.retrain.run_local import RunLocal
from monitoring.retrain.steps import LocalSteps
from pipeline.errors import EXIT_REFUSED
from pipeline.home import find_home, git
from pipeline.output.plain_text import indented, print_lines
from pipeline.params import Params, load_params
from pipeline.process_identity import this_process
from serving.processes.addresses import listen_host
from serving.processes.health import health
from serving.processes.http_guard import HttpGuard
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json
from serving.release.release_table import find_release
from state.database import open_state, read_only

log = structlog.get_logger()


def build_controller(
    params: Params,
    home: Path,
    begin: Begin,
    gate: RunGate,
    metrics: ControllerMetrics,
    stopping: threading.Event,
    *,
    is_on_request: bool = False,
) -> Controller:
    """Build a controller for the clone in the current folder."""
    settings = params.retrain
    journal = Journal(begin, params.publish.name)
    run = RunLocal(Path.cwd(), home, settings)

    def inputs(connection: sa.Connection, history: list[PastRetrain]) -> Inputs:
        return read_inputs(
            connection, history, params, home, git("rev-parse", "HEAD"), now=read_clock().wall, is_on_request=is_on_request
        )

    return Controller(
        journal,
        LocalSteps(params, home, run, gate, partial(_pause, stopping), metrics.set_labels),
        inputs,
        settings,
        clock=read_clock,
        owner=this_process(),
        metrics=metrics,
        renewing=lease_renewer(journal, read_clock, settings.lease_s),
        is_ending=stopping.is_set,
        is_on_request=is_on_request,
    )


def create_app(
    cycles: Mapping[str, Callable[[], object]],
    metrics: ControllerMetrics,
    params: Params,
    stopping: threading.Event,
    home: Path,
) -> Starlette:
    """Build the app: /metrics, while a thread repeats each cycle; its name is a value of the metric label `part`."""

    async def metrics_text(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def healthz(_request: Request) -> Response:
        return JSONResponse(health("controller", home))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        threads = [
            asyncio.to_thread(repeat, name, cycle, metrics, params.retrain.poll_s, stopping) for name, cycle in cycles.items()
        ]
        tasks = [asyncio.create_task(thread) for thread in threads]
        yield
        stopping.set()
        await asyncio.gather(*tasks)

    return Starlette(
        routes=[Route("/metrics", metrics_text), Route("/healthz", healthz)],
        middleware=[Middleware(HttpGuard, params.http, listen_host("controller", params.alerts.host), metrics.count_refusal)],
        lifespan=lifespan,
    )


def repeat(name: str, cycle: Callable[[], object], metrics: ControllerMetrics, poll_s: float, stopping: threading.Event) -> None:
    """Repeat a cycle until the controller stops; a failure (an unreachable database) is counted and retried."""
    while not stopping.is_set():
        try:
            cycle()
        except Exception as error:
            metrics.failed(name)
            is_expected = isinstance(error, sa.exc.OperationalError | OSError)
            log.warning("the controller could not go on", part=name, error=str(error)[:500], exc_info=not is_expected)
        _pause(stopping, poll_s)


def cycles(
    controller: Controller, metrics: ControllerMetrics, engine: sa.Engine, params: Params
) -> dict[str, Callable[[], object]]:
    """Return the two cycles of a controller: deciding, and working on the running retrain."""

    def look() -> None:
        controller.decide()
        export_decision(engine, metrics, read_clock())
        with read_only(engine) as connection:
            metrics.releases.show(next(iter(newest_runs(connection, 1)), None), params.release)

    return {"looking": look, "working": controller.advance}


def export_decision(engine: sa.Engine, metrics: ControllerMetrics, now: Moment) -> None:
    """Export what was decided on the champion's open alerts, or else on those of the last day."""
    with engine.connect().execution_options(reads_only=True) as connection:
        champion = find_release(connection, role="champion")
        if champion is None:
            metrics.set_decision(None, None)
            return
        since = read_open_since(connection, champion.version)
        decided = read_decision(connection, champion.version, now.wall - DAY_S if since is None else since, now.wall, now)
    metrics.set_decision(champion.version, decided)


def run_once(controller: Controller) -> EndedRetrain | None:
    """Decide once and do all the work that is due; return the end of the retrain, if it ended."""
    controller.decide()
    ended = controller.advance()
    controller.decide()
    return ended


@contextmanager
def open_journal(home: Path, *, is_dry: bool) -> Iterator[tuple[sa.Engine, Begin]]:
    """Open the database; a dry run is one transaction that is rolled back."""
    with open_state(home) as engine:
        if not is_dry:
            yield engine, engine.begin
            return
        with engine.connect() as connection:
            transaction = connection.begin()

            @contextmanager
            def begin_nested() -> Iterator[sa.Connection]:
                with connection.begin_nested():
                    yield connection

            yield engine, begin_nested
            transaction.rollback()


def _pause(stopping: threading.Event, seconds: float) -> None:
    stopping.wait(seconds)


def main() -> None:
    """Run `python -m monitoring.retrain`."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.retrain", description=__doc__)
    parser.add_argument("--once", action="store_true", help="decide once, work until nothing is due, then exit")
    parser.add_argument("--dry-run", action="store_true", help="print the decisions; write and start nothing")
    parser.add_argument("--on-request", action="store_true", help="start no retrain unless a person asks: evergreen retrain")
    args = parser.parse_args()
    log_in_json()
    params, home = load_params(), find_home()
    metrics, stopping = ControllerMetrics(), threading.Event()
    with open_journal(home, is_dry=args.dry_run) as (engine, begin):
        run_gate = partial(gate, params=params, home=home)
        controller = build_controller(params, home, begin, run_gate, metrics, stopping, is_on_request=args.on_request)
        if args.dry_run:
            controller.decide()
        elif args.once:
            _exit_with(run_once(controller))
        else:
            host, port = listen_host("controller", params.alerts.host), params.alerts.controller_port
            app = create_app(cycles(controller, metrics, engine, params), metrics, params, stopping, home)
            run_http_service(app, host, port, params.http, refused=metrics.count_refusal)


def _exit_with(ended: EndedRetrain | None) -> None:
    if ended and ended.state != "done":
        failure = indented(str(ended.failure))
        print_lines(f"retrain {ended.job.id} {ended.state} at step {ended.job.step}: {failure}", file=sys.stderr)
        raise SystemExit(EXIT_REFUSED if ended.state == "refused" else 1)
