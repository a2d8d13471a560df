"""The gateway's routes: what is asked over HTTP, handed to the parts of the gateway, and every answer that is not 2xx."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pipeline.params import Params
from serving.gateway.batch_queue import OverloadedError
from serving.gateway.metrics import Metrics
from serving.gateway.middleware import RateLimit, Scope, Send
from serving.gateway.predictor import Answering, Asked, NothingServedError, NotServedError, Prediction
from serving.gateway.schemas import (
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
    receive_body,
    request_schema,
    texts_of,
)
from serving.gateway.tracing import Tracing
from serving.jobs import queue as jobs
from serving.jobs.outbound import CallbackRefusedError
from serving.processes.http_body import Receive
from serving.triton.client import TritonError
from state.tables import feedback

PREDICT = "/v1/predict"

log = structlog.get_logger()


class Parts(NamedTuple):
    """What the routes work with."""

    params: Params
    engine: sa.Engine
    answering: Answering
    metrics: Metrics
    limit: RateLimit
    tracing: Tracing


def add_routes(app: FastAPI, params: Params) -> None:
    """Every route of the API, its body and answers in the OpenAPI document, and what is answered when one fails."""
    most, longest = params.gateway.max_texts, params.data.max_text_chars
    now = request_schema(PredictRequest, max_texts=most, max_chars=longest)
    later = request_schema(JobRequest, max_texts=params.jobs.max_texts, max_chars=longest)
    said = FeedbackRequest.model_json_schema()
    app.post(PREDICT, **_described(now, PredictResponse, 400, 401, 404, 408, 413, 422, 429, 503))(predict)
    app.post("/v1/jobs", **_described(later, JobResponse, 400, 401, 408, 409, 413, 422, 429, 503, success=202, key=True))(submit)
    app.get("/v1/jobs/{id}", **_described(None, JobResponse, 401, 404))(find_job)
    app.post("/v1/feedback", **_described(said, FeedbackResponse, 400, 401, 408, 413, 422, 503, success=201))(give_feedback)
    app.get("/v1/routes", **_described(None, RoutesResponse, 401))(routes)
    for path, show in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", exposition)):
        app.get(path, include_in_schema=False)(show)
    for kind, handler in ((ApiError, _on_api_error), (HTTPException, _on_http_error), (RequestValidationError, _on_invalid)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, _on_fault)


async def predict(request: Request) -> Response:
    """Answer one or several texts now."""
    here: Parts = request.app.state.parts
    settings = here.params.gateway
    asked = parse(PredictRequest, await receive_body(request, settings.max_body_bytes))
    texts = texts_of(asked, max_texts=settings.max_texts, max_chars=here.params.data.max_text_chars)
    _charge(here, request, len(texts))
    request_id = request.scope["request_id"]
    with here.tracing.span("predict", request.headers, texts=len(texts)):
        predictions = await _answered(here, Asked(request_id, texts, asked.asked_unit, asked.asked_version))
    return _json(200, {"request_id": request_id, "predictions": [shown(one) for one in predictions]})


async def submit(request: Request) -> Response:
    """Answer many texts later; the answer says where to look. A repeated `Idempotency-Key` finds the same job."""
    here: Parts = request.app.state.parts
    asked = parse(JobRequest, await receive_body(request, here.params.gateway.max_body_bytes))
    texts = texts_of(asked, max_texts=here.params.jobs.max_texts, max_chars=here.params.data.max_text_chars)
    _charge(here, request, len(texts))
    payload = {"texts": texts, "unit": asked.asked_unit, "version": asked.asked_version, "request_id": "job"}
    key = request.headers.get("idempotency-key")
    job = await asyncio.to_thread(_enter_job, here, payload, key, asked.callback_url or None)
    return _json(202, _shown_job(job), {"location": f"/v1/jobs/{job.id}"})


async def find_job(id: str, request: Request) -> Response:
    """A job as it stands."""
    here: Parts = request.app.state.parts
    job = await asyncio.to_thread(_find_job, here.engine, id)
    if job is None:
        raise ApiError(404, "no_such_job", "there is no job with this id; finished ones are kept for a day by default")
    return _json(200, _shown_job(job))


async def give_feedback(request: Request) -> Response:
    """Say what a prediction should have been; the same opinion twice counts once."""
    here: Parts = request.app.state.parts
    given = parse(FeedbackRequest, await receive_body(request, here.params.gateway.max_body_bytes))
    schema = here.answering.schema()
    if not schema:
        raise ApiError(503, "not_ready", "the champion's labels are not known yet; try again", 1)
    kind = "label" if given.label in schema else "proposal"
    await asyncio.to_thread(_enter_feedback, here.engine, given, kind)
    return _json(201, {"id": given.id, "kind": kind})


async def routes(request: Request) -> Response:
    """Which versions answer, and what labels the champion knows."""
    here: Parts = request.app.state.parts
    shown = here.answering.routes._asdict()
    del shown["salt"]
    return _json(200, {**shown, "labels": list(here.answering.schema())})


async def healthz(request: Request) -> Response:
    """The process lives."""
    return _json(200, {"status": "alive"})


async def readyz(request: Request) -> Response:
    """There is a champion, and Triton has it ready."""
    here: Parts = request.app.state.parts
    ready = here.metrics.is_ready()
    return _json(200 if ready else 503, {"status": "ready" if ready else "Triton does not have the champion ready"})


async def exposition(request: Request) -> Response:
    """For Prometheus."""
    here: Parts = request.app.state.parts
    return Response(here.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class Shortcut:
    """Around the app: takes the busiest route past the framework's layers, which are a third of what a request costs the gateway.

    Same endpoint, same errors; the app has the route for its OpenAPI document.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PREDICT or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        request = Request(scope, receive, send)
        try:
            response = await predict(request)
        except ApiError as error:
            response = await _on_api_error(request, error)
        except Exception as error:
            response = await _on_fault(request, error)
        await response(scope, receive, send)


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


def shown(prediction: Prediction) -> dict[str, Any]:
    """A prediction as the API gives it."""
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
