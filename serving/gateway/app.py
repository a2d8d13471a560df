"""The gateway process: opens what lives as long as it does, and serves the HTTP API. Replicas share the state database."""

import asyncio
import gc
import os
import random
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog
from fastapi import FastAPI

from pipeline.home import find_home
from pipeline.params import Params, load_params
from serving.access.callers import Callers
from serving.access.tokens import tokens_path
from serving.gateway.answering.batch_queue import OverloadedError
from serving.gateway.answering.query import Query
from serving.gateway.metrics import Metrics
from serving.gateway.middleware import GatewayMiddleware, RateLimit
from serving.gateway.predictor import Predictor
from serving.gateway.routes import PredictFastPath, Services, add_routes
from serving.gateway.tracing import open_tracing
from serving.jobs.callbacks import deliver
from serving.jobs.outbound import allowed_addresses, open_post, resolve
from serving.jobs.queue import Claim
from serving.jobs.workers import work
from serving.key_file import read_key
from serving.prediction_ids import PredictionIds
from serving.prediction_log.writer import PredictionLog
from serving.processes.addresses import listen_host
from serving.processes.http_guard import HttpGuard
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json
from serving.release.manifest import model_name
from serving.release.routing import Routes, read_routes
from serving.triton.client import BATCH_TEXTS, Connection, TritonError, server_settings
from state.database import open_state

LOG_CLOSE_S = 20.0  # for the rows of the prediction log that are not stored yet
TOKENS_POLL_S = 1.0
PROBE_CONNECTIONS = 64  # beyond `gateway.max_connections`, for probes and scrapes while the middleware refuses the rest
JOB_WAIT_S, JOB_RETRY_S = 30.0, 0.5  # of one batch of a job; of the pause while the queue is full

log = structlog.get_logger()


def create_app(params: Params, home: Path, callers: Callers) -> GatewayMiddleware:
    """Build the app. Its services open when it starts and close when it stops, which writes the prediction log out."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(params, home, metrics, callers) as services:
            app.state.services = services
            gc.collect()
            gc.freeze()  # long-lived objects are never scanned again, which would pause every request
            yield

    app = FastAPI(
        title="Evergreen gateway",
        description="Predictions with the version that gave them, asynchronous jobs, feedback.",
        version=str(params.publish.name),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,  # of an operation
    )
    add_routes(app, params)
    guarded = HttpGuard(PredictFastPath(app), params.http, params.gateway.host, metrics.count_refusal)
    return GatewayMiddleware(guarded, params.gateway, metrics, callers)


@asynccontextmanager
async def open_services(params: Params, home: Path, metrics: Metrics, callers: Callers) -> AsyncIterator[Services]:
    """Open everything that lives as long as the gateway, and start its background tasks."""
    async with AsyncExitStack() as stack:
        engine = stack.enter_context(open_state(home))
        tracing = stack.enter_context(open_tracing())
        connection = Connection(server_settings(params.serve))
        stack.push_async_callback(connection.close)
        session = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        prediction_log = PredictionLog(params.log, home, session, time.time)
        stack.push_async_callback(asyncio.to_thread, prediction_log.close, within_s=LOG_CLOSE_S)

        async def reread() -> Routes:
            return await asyncio.to_thread(_read_routes, engine)

        ids = PredictionIds(read_key(home, "prediction"))
        predictor = Predictor(connection, params.gateway, prediction_log, metrics, ids, reread)
        add_gauges(metrics, predictor, prediction_log)
        stack.push_async_callback(_flush_counts, predictor, metrics, engine)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            poll_s = params.gateway.routing_poll_ms / 1000
            tasks.create_task(_follow_routes(predictor, connection, metrics, reread, poll_s, stop))
            tasks.create_task(_keep_counts(predictor, metrics, engine, poll_s, stop))
            tasks.create_task(_follow_tokens(callers, metrics, stop))
            if params.jobs.workers:
                await _start_jobs(tasks, stack, JobContext(params, engine, predictor, metrics, home, session, stop))
            try:
                rate_limit = RateLimit(params.gateway.rate_limit_per_s, time.monotonic)
                yield Services(params, engine, predictor, metrics, rate_limit, tracing, ids, home)
            finally:
                stop.set()


class JobContext(NamedTuple):
    """The objects that the workers and callbacks of this process share."""

    params: Params
    engine: sa.Engine
    predictor: Predictor
    metrics: Metrics
    home: Path
    owner: str
    stop: asyncio.Event


async def _start_jobs(tasks: asyncio.TaskGroup, stack: AsyncExitStack, context: JobContext) -> None:
    settings, engine, stop = context.params.jobs, context.engine, context.stop

    async def answer(job: Claim) -> list[dict[str, Any]]:
        return await answer_job(context.predictor, job)

    count = context.metrics.count_job_attempt
    tasks.create_task(work(engine, settings, answer, owner=context.owner, clock=time.time, stop=stop, count_outcome=count))
    post = await stack.enter_async_context(
        open_post(
            timeout_s=settings.callback_timeout_s,
            is_allowed=allowed_addresses(settings),
            resolve=resolve,
            tls=ssl.create_default_context(),
        )
    )
    key = read_key(context.home, "callback")
    draw = random.Random().random  # noqa: S311 (jitter)

    def count_callback(outcome: str) -> None:
        count(f"callback_{outcome}")

    tasks.create_task(deliver(engine, settings, post, key, clock=time.time, draw=draw, stop=stop, count_outcome=count_callback))


async def answer_job(predictor: Predictor, job: Claim) -> list[dict[str, Any]]:
    """Answer a job's texts one batch after the other: jobs use the capacity that interactive callers leave.

    Without a unit each text is its own, so that a job is split among the versions as its texts would be if sent alone, and in
    the same way when the job is tried again.
    """
    texts: list[str] = job.payload["texts"]
    predictions: list[dict[str, Any]] = []
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = texts[start : start + BATCH_TEXTS]
        keys = [job.payload["unit"] or f"{job.id}-{start + number}" for number in range(len(batch))]
        answers: dict[int, dict[str, Any]] = {}
        for numbers in predictor.group(keys):
            chosen = [batch[number] for number in numbers]
            query = Query(job.id, keys[numbers[0]], chosen, job.payload["unit"], job.payload["version"])
            answers |= zip(numbers, await _answer_patiently(predictor, query), strict=True)
        predictions += [answers[number] for number in range(len(batch))]
    return predictions


async def _answer_patiently(predictor: Predictor, query: Query) -> list[dict[str, Any]]:
    """Return the predictions; wait while the queue is full."""
    while True:
        try:
            predictions = await predictor.predict(query, JOB_WAIT_S)
            return [prediction.as_response((), predictor.fallback(prediction.version)) for prediction in predictions]
        except OverloadedError:
            await asyncio.sleep(JOB_RETRY_S)


async def _follow_routes(
    predictor: Predictor,
    connection: Connection,
    metrics: Metrics,
    reread: Callable[[], Any],
    every_s: float,
    stop: asyncio.Event,
) -> None:
    """Poll the routes until `stop`; while the database or Triton is away, the last ones stay in force."""
    while not stop.is_set():
        try:
            routes = await reread()
            if routes != predictor.routes:
                await predictor.follow(routes)
                log.info("routes", **routes._asdict())
            elif predictor.lacks_queue:
                await predictor.follow(routes)
            metrics.routes_read.set_to_current_time()
            metrics.champion.set(routes.champion or 0)
            metrics.challenger_weight.set(routes.challenger_weight)
            ready = routes.champion is not None and await connection.is_ready(model_name(routes.champion))
            metrics.triton_ready.set(ready)
        except TritonError:
            metrics.triton_ready.set(0)
        except Exception:
            log.exception("the routes could not be read; the last ones stay in force")
            metrics.count_error("routes")
        try:
            await asyncio.wait_for(stop.wait(), every_s)
        except TimeoutError:
            continue


async def _keep_counts(predictor: Predictor, metrics: Metrics, engine: sa.Engine, every_s: float, stop: asyncio.Event) -> None:
    """Bring the counts of arms to the database until `stop`; while it is away they are kept."""
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every_s)
        await _flush_counts(predictor, metrics, engine)


async def _flush_counts(predictor: Predictor, metrics: Metrics, engine: sa.Engine) -> None:
    try:
        await predictor.arms.flush(engine)
    except Exception:
        log.exception("the counts of arms could not be stored; they are kept")
        metrics.count_error("arms")


async def _follow_tokens(callers: Callers, metrics: Metrics, stop: asyncio.Event) -> None:
    """Look once a second whether the tokens have changed, until `stop`; no request waits for a file."""
    while not stop.is_set():
        try:
            if not await asyncio.to_thread(callers.refresh):
                metrics.count_error("tokens")
        except Exception:
            log.exception("the tokens could not be read; the last ones stay in force")
            metrics.count_error("tokens")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), TOKENS_POLL_S)


def _read_routes(engine: sa.Engine) -> Routes:
    with engine.connect().execution_options(reads_only=True) as connection, connection.begin():
        return read_routes(connection)


def add_gauges(metrics: Metrics, predictor: Predictor, prediction_log: PredictionLog) -> None:
    """Add the gauges that are read at each scrape."""
    metrics.add_gauge("evergreen_waiting_texts", "Texts that wait for Triton", lambda: predictor.waiting)
    metrics.add_gauge("evergreen_cache_entries", "Entries of the response cache", lambda: len(predictor.cache))
    metrics.add_gauge("evergreen_cache_bytes", "Memory that the response cache uses", lambda: predictor.cache.bytes)
    for name, description in (
        ("rows_written", "Rows of the prediction log stored by this process"),
        ("rows_dropped", "Rows dropped because the log's buffer was full"),
        ("rows_unstorable", "Rows that no column can hold"),
        ("rows_lost_before", "Rows that killed processes accepted and did not store, counted at the start"),
        ("write_failures", "Attempts to write a segment that failed"),
        ("waiting", "Rows accepted and not stored yet"),
    ):
        metrics.add_gauge(
            f"evergreen_prediction_log_{name}",
            description,
            lambda name=name: getattr(prediction_log, name),  # type: ignore[misc]
        )


def main() -> None:
    """Run `python -m serving.gateway`."""
    log_in_json()
    params = load_params()
    host = listen_host("gateway", params.gateway.host)
    params = params.model_copy(update={"gateway": params.gateway.model_copy(update={"host": host})})
    home = find_home()
    app = create_app(params, home, Callers(tokens_path(home), host))
    max_open = params.gateway.max_connections + PROBE_CONNECTIONS
    run_http_service(app, host, params.gateway.port, params.http, max_open=max_open, refused=app.metrics.count_refusal)
