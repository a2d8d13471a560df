"""The gateway: the HTTP API in front of Triton. One process, one event loop; more of them share the state database."""

import asyncio
import gc
import logging
import os
import random
import secrets
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.params import Params, load_params
from serving import jobs
from serving.answering import Answering, Asked, NothingServedError, NotServedError, Prediction
from serving.callbacks import deliver, read_key
from serving.gateway_api import (
    ApiError,
    ErrorResponse,
    FeedbackRequest,
    FeedbackResponse,
    JobRequest,
    JobResponse,
    PredictRequest,
    PredictResponse,
    RoutesResponse,
    parse,
    read_body,
    request_schema,
    texts_of,
)
from serving.gateway_metrics import Metrics
from serving.guard import Guard, RateLimit, read_tokens
from serving.lane import OverloadedError
from serving.manifest import model_name
from serving.outbound import CallbackRefusedError, look_up, open_post, permitted
from serving.prediction_log import PredictionLog
from serving.routing import Routes, read_routes
from serving.state import feedback, open_state
from serving.tracing import Tracing, open_tracing
from serving.triton import BATCH_TEXTS, Connection, TritonError, address
from serving.workers import work

log = structlog.get_logger()


class Parts(NamedTuple):
    """What the routes work with."""

    params: Params
    engine: sa.Engine
    answering: Answering
    metrics: Metrics
    limit: RateLimit
    tracing: Tracing


def create_app(params: Params, home: Path, tokens: frozenset[bytes]) -> FastAPI:
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
    add_routes(app, params, metrics)
    for kind, handler in ((ApiError, _on_api_error), (HTTPException, _on_http_error), (RequestValidationError, _on_invalid)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, _on_fault)
    app.add_middleware(Guard, settings=params.gateway, metrics=metrics, tokens=tokens)
    return app


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
        stack.push_async_callback(asyncio.to_thread, prediction_log.close, within_s=20.0)

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
                found += [_shown(one) for one in await answering.predict(part, wait_s=30.0)]
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


def add_routes(app: FastAPI, params: Params, metrics: Metrics) -> None:
    """Every route of the API, its body and answers in the OpenAPI document."""
    most, longest = params.gateway.max_texts, params.data.max_text_chars
    now = request_schema(PredictRequest, max_texts=most, max_chars=longest)
    later = request_schema(JobRequest, max_texts=params.jobs.max_texts, max_chars=longest)

    @app.post("/v1/predict", **_described(now, PredictResponse, 400, 401, 404, 408, 413, 422, 429, 503))
    async def predict(request: Request) -> Response:
        """Answer one or several texts now."""
        here: Parts = request.app.state.parts
        settings = here.params.gateway
        asked = parse(PredictRequest, await read_body(request, settings.max_body_bytes))
        texts = texts_of(asked, max_texts=settings.max_texts, max_chars=here.params.data.max_text_chars)
        _charge(here, request, len(texts))
        request_id = request.scope["request_id"]
        with here.tracing.span("predict", request.headers, texts=len(texts)):
            predictions = await _answered(here, Asked(request_id, texts, asked.asked_unit, asked.asked_version))
        return _json(200, {"request_id": request_id, "predictions": [_shown(one) for one in predictions]})

    @app.post("/v1/jobs", **_described(later, JobResponse, 400, 401, 408, 409, 413, 422, 429, 503, success=202, key=True))
    async def submit(request: Request) -> Response:
        """Answer many texts later; the answer says where to look. A repeated `Idempotency-Key` finds the same job."""
        here: Parts = request.app.state.parts
        asked = parse(JobRequest, await read_body(request, here.params.gateway.max_body_bytes))
        texts = texts_of(asked, max_texts=here.params.jobs.max_texts, max_chars=here.params.data.max_text_chars)
        _charge(here, request, len(texts))
        payload = {"texts": texts, "unit": asked.asked_unit, "version": asked.asked_version, "request_id": "job"}
        key = request.headers.get("idempotency-key")
        job = await asyncio.to_thread(_enter_job, here, payload, key, asked.callback_url or None)
        return _json(202, _shown_job(job), {"location": f"/v1/jobs/{job.id}"})

    @app.get("/v1/jobs/{id}", **_described(None, JobResponse, 401, 404))
    async def find_job(id: str, request: Request) -> Response:
        """A job as it stands."""
        here: Parts = request.app.state.parts
        job = await asyncio.to_thread(_find_job, here.engine, id)
        if job is None:
            raise ApiError(404, "no_such_job", "there is no job with this id; finished ones are kept for a day by default")
        return _json(200, _shown_job(job))

    @app.post(
        "/v1/feedback",
        **_described(FeedbackRequest.model_json_schema(), FeedbackResponse, 400, 401, 408, 413, 422, 503, success=201),
    )
    async def give_feedback(request: Request) -> Response:
        """Say what a prediction should have been; the same opinion twice counts once."""
        here: Parts = request.app.state.parts
        given = parse(FeedbackRequest, await read_body(request, here.params.gateway.max_body_bytes))
        schema = here.answering.schema()
        if not schema:
            raise ApiError(503, "not_ready", "the champion's labels are not known yet; try again", 1)
        kind = "label" if given.label in schema else "proposal"
        await asyncio.to_thread(_enter_feedback, here.engine, given, kind)
        return _json(201, {"id": given.id, "kind": kind})

    @app.get("/v1/routes", **_described(None, RoutesResponse, 401))
    async def routes(request: Request) -> Response:
        """Which versions answer, and what labels the champion knows."""
        here: Parts = request.app.state.parts
        shown = here.answering.routes._asdict()
        del shown["salt"]
        return _json(200, {**shown, "labels": list(here.answering.schema())})

    @app.get("/healthz", include_in_schema=False)
    async def healthz(request: Request) -> Response:
        """The process lives."""
        return _json(200, {"status": "alive"})

    @app.get("/readyz", include_in_schema=False)
    async def readyz(request: Request) -> Response:
        """There is a champion, and Triton has it ready."""
        ready = metrics.is_ready()
        return _json(200 if ready else 503, {"status": "ready" if ready else "Triton does not have the champion ready"})

    @app.get("/metrics", include_in_schema=False)
    async def exposition(request: Request) -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _answered(here: Parts, asked: Asked) -> list[Prediction]:
    """Predictions, or the error that a client can act on."""
    try:
        return await here.answering.predict(asked, here.params.gateway.deadline_ms / 1000)
    except NotServedError as error:
        raise ApiError(404, "version_not_served", str(error)) from None
    except NothingServedError:
        here.metrics.refused("nothing_served")
        raise ApiError(503, "nothing_served", "no version has been published yet: evergreen publish", 5) from None
    except OverloadedError as error:
        here.metrics.refused("overloaded")
        raise ApiError(503, "overloaded", f"{error}; try again", 1) from None
    except TritonError:
        here.metrics.refused("triton")
        raise ApiError(503, "triton_unavailable", "Triton did not answer; try again", 1) from None


def _charge(here: Parts, request: Request, texts: int) -> None:
    wait_s = here.limit.wait_s(request.scope["caller"], texts)
    if wait_s:
        here.metrics.refused("rate")
        raise ApiError(429, "too_fast", "this caller asks too much at once; slow down", max(1, round(wait_s + 0.5)))


def _enter_job(here: Parts, payload: dict[str, Any], key: str | None, callback_url: str | None) -> jobs.Job:
    try:
        with here.engine.begin() as connection:
            return jobs.submit(
                connection,
                payload,
                idempotency_key=key,
                callback_url=callback_url,
                now=time.time(),
                settings=here.params.jobs,
            )
    except jobs.KeyReusedError as error:
        raise ApiError(409, "key_reused", error.what) from None
    except (jobs.BadKeyError, CallbackRefusedError) as error:
        raise ApiError(422, "not_valid", f"{error.where}: {error.what}") from None
    except jobs.QueueFullError as error:
        raise ApiError(503, "overloaded", error.what, 10) from None


def _find_job(engine: sa.Engine, id: str) -> jobs.Job | None:
    with engine.connect().execution_options(reads_only=True) as connection, connection.begin():
        return jobs.find(connection, id)


def _enter_feedback(engine: sa.Engine, given: FeedbackRequest, kind: str) -> None:
    row = {"prediction_id": given.id, "label": given.label, "source": given.source}
    same = sa.and_(*(feedback.c[name] == value for name, value in row.items()))
    with engine.begin() as connection:
        if connection.execute(sa.select(feedback.c.id).where(same)).first():
            return
        try:
            with connection.begin_nested():
                connection.execute(feedback.insert().values(**row, kind=kind, received_at=datetime.now(UTC)))
        except sa.exc.IntegrityError:
            return  # said through another gateway at the same moment


def _shown(prediction: Prediction) -> dict[str, Any]:
    return {
        "id": prediction.id,
        "label": prediction.answer.label,
        "confidence": round(prediction.answer.confidence, 6),
        "runner_up": prediction.answer.runner_up,
        "version": prediction.version,
        "role": prediction.role,
        "cached": prediction.cached,
    }


def _shown_job(job: jobs.Job) -> dict[str, Any]:
    shown = job._asdict()
    return {**{name: value for name, value in shown.items() if name != "result"}, "predictions": job.result}


def _json(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _described(
    body: dict[str, Any] | None, answer: type[BaseModel], *errors: int, success: int = 200, key: bool = False
) -> dict[str, Any]:
    """What the OpenAPI document says of a route that reads its body and writes its answer itself."""
    extra: dict[str, Any] = {}
    if body:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if key:
        extra["parameters"] = [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,198}[!-~])?$"},
            }
        ]
    failures = {status: {"model": ErrorResponse} for status in errors}
    return {
        "status_code": success,
        "response_class": Response,
        "responses": {success: {"model": answer}, **failures},
        "openapi_extra": extra,
    }


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 (registered for this one)
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
    return _failure(request, error.status, error.code, error.message, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    codes = {404: "no_such_path", 405: "method_not_allowed"}
    headers = dict(error.headers) if error.headers else None
    return _failure(request, error.status_code, codes.get(error.status_code, "http"), str(error.detail), headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    return _failure(request, 422, "not_valid", str(error), None)


async def _on_fault(request: Request, error: Exception) -> Response:
    log.exception("a fault of the gateway", exc_info=error, request_id=request.scope.get("request_id"))
    return _failure(request, 500, "fault", "this is a fault of the gateway; its log has the request id", None)


def _failure(request: Request, status: int, code: str, message: str, headers: dict[str, str] | None) -> Response:
    return _json(
        status, {"request_id": request.scope.get("request_id", ""), "error": {"code": code, "message": message}}, headers
    )


def main() -> None:
    """`python -m serving.gateway`: the gateway alone, on the address of params."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
    )
    params = load_params()
    uvicorn.run(
        create_app(params, find_home(), read_tokens()),
        host=os.environ.get("EVERGREEN_GATEWAY_HOST", params.gateway.host),
        port=params.gateway.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=15,
        timeout_keep_alive=75,
        backlog=2048,
        server_header=False,
    )


if __name__ == "__main__":
    run_stage(main)
