"""The gateway: the HTTP API in front of Triton. One process, one event loop; more of them share the state database."""

import asyncio
import gc
import os
import random
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog
from fastapi import FastAPI

from pipeline.home import find_home
from pipeline.params import Params, load_params
from serving.gateway.batch_queue import OverloadedError
from serving.gateway.metrics import Metrics
from serving.gateway.middleware import Guard, RateLimit, read_tokens
from serving.gateway.predictor import Answering, Asked
from serving.gateway.routes import Parts, Shortcut, add_routes, shown
from serving.gateway.tracing import open_tracing
from serving.jobs.callbacks import deliver, read_key
from serving.jobs.outbound import look_up, open_post, permitted
from serving.jobs.workers import work
from serving.prediction_log.writer import PredictionLog
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json
from serving.release.manifest import model_name
from serving.release.routing import Routes, read_routes
from serving.triton.client import BATCH_TEXTS, Connection, TritonError, address
from state.database import open_state

LOG_CLOSE_S = 20.0  # for the rows of the prediction log that are not stored yet

log = structlog.get_logger()


def create_app(params: Params, home: Path, tokens: frozenset[bytes]) -> Guard:
    """The app; what it holds is opened when it starts and closed, the prediction log written out, when it stops."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_parts(params, home, metrics) as parts:
            app.state.parts = parts
            gc.collect()
            gc.freeze()  # what lives as long as the process is never looked at again: no long pauses
            yield

    app = FastAPI(
        title="Evergreen gateway",
        description="Predictions with the version that gave them, asynchronous jobs, feedback.",
        version=str(params.publish.name),
        lifespan=lifespan,
        redoc_url=None,
    )
    add_routes(app, params)
    return Guard(Shortcut(app), params.gateway, metrics, tokens)


@asynccontextmanager
async def open_parts(params: Params, home: Path, metrics: Metrics) -> AsyncIterator[Parts]:
    """Everything that lives as long as the gateway, and its background tasks."""
    async with AsyncExitStack() as stack:
        engine = stack.enter_context(open_state(home))
        tracing = stack.enter_context(open_tracing())
        connection = Connection(address(params.serve))
        stack.push_async_callback(connection.close)
        session = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        prediction_log = PredictionLog(params.log, home, session, time.time)
        stack.push_async_callback(asyncio.to_thread, prediction_log.close, within_s=LOG_CLOSE_S)

        async def reread() -> Routes:
            return await asyncio.to_thread(_read_routes, engine)

        answering = Answering(connection, params.gateway, prediction_log, metrics, reread)
        _watch(metrics, answering, prediction_log)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_follow_routes(answering, connection, metrics, reread, params.gateway.routing_poll_ms / 1000, stop))
            if params.jobs.workers:
                await _start_jobs(tasks, stack, Jobs(params, engine, answering, metrics, home, session, stop))
            try:
                yield Parts(
                    params, engine, answering, metrics, RateLimit(params.gateway.rate_limit_per_s, time.monotonic), tracing
                )
            finally:
                stop.set()


class Jobs(NamedTuple):
    """What the workers and the callbacks of this process need."""

    params: Params
    engine: sa.Engine
    answering: Answering
    metrics: Metrics
    home: Path
    owner: str
    stop: asyncio.Event


async def _start_jobs(tasks: asyncio.TaskGroup, stack: AsyncExitStack, here: Jobs) -> None:
    settings = here.params.jobs

    async def answer(payload: dict[str, Any]) -> list[dict[str, Any]]:
        return await _answer_job(here.answering, payload)

    tasks.create_task(
        work(here.engine, settings, answer, owner=here.owner, clock=time.time, stop=here.stop, tally=here.metrics.job)
    )
    post = await stack.enter_async_context(
        open_post(
            timeout_s=settings.callback_timeout_s,
            permitted=permitted(settings),
            lookup=look_up,
            tls=ssl.create_default_context(),
        )
    )
    key = read_key(here.home)
    draw = random.Random().random  # noqa: S311 (jitter)
    tally = lambda outcome: here.metrics.job(f"callback_{outcome}")  # noqa: E731
    tasks.create_task(deliver(here.engine, settings, post, key, clock=time.time, draw=draw, stop=here.stop, tally=tally))


async def _answer_job(answering: Answering, payload: dict[str, Any]) -> list[dict[str, Any]]:
    """A part at a time, each after the last: jobs take what callers who wait leave over."""
    texts, found = payload["texts"], []
    for start in range(0, len(texts), BATCH_TEXTS):
        part = Asked(payload["request_id"], texts[start : start + BATCH_TEXTS], payload["unit"], payload["version"])
        while True:
            try:
                found += [shown(one) for one in await answering.predict(part, wait_s=30.0)]
                break
            except OverloadedError:
                await asyncio.sleep(0.5)
    return found


async def _follow_routes(
    answering: Answering,
    connection: Connection,
    metrics: Metrics,
    reread: Callable[[], Any],
    every_s: float,
    stop: asyncio.Event,
) -> None:
    """Read the routes again and again; while the state or Triton cannot be asked, what was known holds."""
    while not stop.is_set():
        try:
            routes = await reread()
            if routes != answering.routes:
                await answering.follow(routes)
                log.info("routes", **routes._asdict())
            metrics.routes_read.set_to_current_time()
            metrics.champion.set(routes.champion or 0)
            metrics.challenger_weight.set(routes.challenger_weight)
            ready = routes.champion is not None and await connection.is_ready(model_name(routes.champion))
            metrics.triton_ready.set(ready)
        except TritonError:
            metrics.triton_ready.set(0)
        except Exception:
            log.exception("the routes could not be read; the old ones hold")
            metrics.failed("routes")
        try:
            await asyncio.wait_for(stop.wait(), every_s)
        except TimeoutError:
            continue


def _read_routes(engine: sa.Engine) -> Routes:
    with engine.connect().execution_options(reads_only=True) as connection, connection.begin():
        return read_routes(connection)


def _watch(metrics: Metrics, answering: Answering, prediction_log: PredictionLog) -> None:
    """Gauges that are read when Prometheus asks."""
    metrics.watch("evergreen_waiting_texts", "Texts that wait for Triton", lambda: answering.waiting)
    metrics.watch("evergreen_cache_entries", "Answers in the response cache", lambda: answering.cached)
    for name, what in (
        ("rows_written", "Rows of the prediction log stored by this process"),
        ("rows_dropped", "Rows dropped because the log's buffer was full"),
        ("rows_unstorable", "Rows that no column could hold"),
        ("rows_lost_before", "Rows that killed processes had taken and not stored, found at the start"),
        ("write_failures", "Attempts to write a segment that failed"),
        ("waiting", "Rows taken and not yet stored"),
    ):
        metrics.watch(f"evergreen_prediction_log_{name}", what, lambda name=name: getattr(prediction_log, name))  # type: ignore[misc]


def main() -> None:
    """Run `python -m serving.gateway`."""
    log_in_json()
    params = load_params()
    host = os.environ.get("EVERGREEN_GATEWAY_HOST", params.gateway.host)
    app = create_app(params, find_home(), read_tokens())
    run_http_service(app, host, params.gateway.port, loop="uvloop", http="httptools", max_open=None)  # the middleware limits
