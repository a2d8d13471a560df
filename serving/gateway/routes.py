"""The gateway's routes: each parses a request, calls the services of the gateway and returns JSON."""

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from fastapi import FastAPI, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from pipeline.params import Params
from serving.gateway.answering.batch_queue import OverloadedError
from serving.gateway.answering.query import NothingServedError, NotServedError, Query
from serving.gateway.docs_page import add_docs_page
from serving.gateway.errors import ApiError, add_error_handlers, failures, json_response, on_api_error, on_fault
from serving.gateway.feedback import check_id, labeller_of, store_feedback, withdraw_feedback
from serving.gateway.metrics import Metrics
from serving.gateway.middleware import RateLimit, Scope, Send
from serving.gateway.openapi import IDEMPOTENCY_KEY, WITHDRAWAL_PARAMETERS, describe_route, describe_tokens
from serving.gateway.outcomes import store_outcome
from serving.gateway.predictor import Predictor
from serving.gateway.schemas import (
    FEEDBACK_EXAMPLES,
    FEEDBACK_LINK,
    JOB_EXAMPLES,
    JOB_LINK,
    OUTCOME_EXAMPLES,
    OUTCOME_LINK,
    PREDICT_EXAMPLES,
    WITHDRAWAL_LINK,
    FeedbackRequest,
    FeedbackResponse,
    FeedbackWithdrawal,
    JobRequest,
    JobResponse,
    OutcomeRequest,
    OutcomeResponse,
    PredictRequest,
    PredictResponse,
    RoutesResponse,
    WithdrawalResponse,
    parse,
    receive_body,
    request_schema,
    texts_of,
)
from serving.gateway.tracing import Tracing
from serving.jobs import queue as jobs
from serving.jobs.outbound import CallbackRefusedError
from serving.prediction import Prediction
from serving.prediction_ids import PredictionIds
from serving.processes.health import health
from serving.processes.http_body import Receive
from serving.triton.client import TritonError

PREDICT = "/v1/predict"


class Services(NamedTuple):
    """The long-lived objects that the routes use."""

    params: Params
    engine: sa.Engine
    predictor: Predictor
    metrics: Metrics
    rate_limit: RateLimit
    tracing: Tracing
    ids: PredictionIds
    home: Path


def add_routes(app: FastAPI, params: Params) -> None:
    """Add every route of the API, with its body and answers in the OpenAPI document."""
    max_chars = params.data.max_text_chars
    predict_body = request_schema(PredictRequest, max_texts=params.gateway.max_texts, max_chars=max_chars)
    job_body = request_schema(JobRequest, max_texts=params.jobs.max_texts, max_chars=max_chars)
    predict_errors = (400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
    described = describe_route(
        PredictResponse, *predict_errors, body=predict_body, examples=PREDICT_EXAMPLES, links=[FEEDBACK_LINK, OUTCOME_LINK]
    )
    app.post(PREDICT, **described)(predict)
    job_errors = (400, 401, 403, 408, 409, 413, 415, 422, 429, 503)
    described = describe_route(JobResponse, *job_errors, success=202, body=job_body, examples=JOB_EXAMPLES, links=[JOB_LINK])
    described["openapi_extra"]["parameters"] = [IDEMPOTENCY_KEY]
    app.post("/v1/jobs", **described)(create_job)
    app.get("/v1/jobs/{id}", **describe_route(JobResponse, 400, 401, 403, 404, 422))(get_job)
    feedback_errors = (400, 401, 403, 404, 408, 410, 413, 415, 422, 429, 503)
    feedback_body = FeedbackRequest.model_json_schema()
    described = describe_route(
        FeedbackResponse, *feedback_errors, success=201, body=feedback_body, examples=FEEDBACK_EXAMPLES, links=[WITHDRAWAL_LINK]
    )
    app.post("/v1/feedback", **described)(create_feedback)
    described = describe_route(WithdrawalResponse, 400, 401, 403, 404, 410, 422, 429)
    described["openapi_extra"]["parameters"] = WITHDRAWAL_PARAMETERS
    app.delete("/v1/feedback/{id}", **described)(delete_feedback)
    outcome_errors = (400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 429, 503)
    outcome_body = OutcomeRequest.model_json_schema()
    described = describe_route(OutcomeResponse, *outcome_errors, success=201, body=outcome_body, examples=OUTCOME_EXAMPLES)
    app.post("/v1/outcome", **described)(create_outcome)
    app.get("/v1/routes", **describe_route(RoutesResponse, 400, 401, 403))(get_routes)
    for path, handler in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):
        app.get(path, include_in_schema=False)(handler)
    add_docs_page(app)
    add_error_handlers(app)
    describe_tokens(app)


async def predict(request: Request) -> Response:
    """Answer one or several texts now."""
    services: Services = request.app.state.services
    settings = services.params.gateway
    body = parse(PredictRequest, await receive_body(request, services.params))
    texts = texts_of(body, max_texts=settings.max_texts, max_chars=services.params.data.max_text_chars)
    _charge(services, request, len(texts))
    request_id = request.scope["request_id"]
    with services.tracing.span("predict", request.headers, texts=len(texts)):
        predictions = await _predictions(services, Query(request_id, request_id, texts, body.unit or None, body.version or None))
    answers = [_answer(services.predictor, prediction, body.probabilities) for prediction in predictions]
    return json_response(200, {"request_id": request_id, "predictions": answers})


def _answer(predictor: Predictor, prediction: Prediction, with_probabilities: bool) -> dict[str, Any]:
    """Return the answer to one text: the champion may have answered it in the challenger's place."""
    version = prediction.version
    return prediction.as_response(predictor.labels(version) if with_probabilities else (), predictor.fallback(version))


async def create_job(request: Request) -> Response:
    """Answer many texts later; `Location` names the job. A repeated `Idempotency-Key` returns the same job."""
    services: Services = request.app.state.services
    body = parse(JobRequest, await receive_body(request, services.params))
    texts = texts_of(body, max_texts=services.params.jobs.max_texts, max_chars=services.params.data.max_text_chars)
    _charge(services, request, len(texts))
    payload = {"texts": texts, "unit": body.unit or None, "version": body.version or None}
    caller, key = request.scope["caller"].key, request.headers.get("idempotency-key")
    job = await asyncio.to_thread(_submit_job, services, payload, caller, key, body.callback_url or None)
    return json_response(202, _job_response(job), {"location": f"/v1/jobs/{job.id}"})


async def get_job(id: str, request: Request) -> Response:
    """Return a job of this caller with its status and, once it is done, its predictions."""
    services: Services = request.app.state.services
    job = await asyncio.to_thread(_find_job, services.engine, id, request.scope["caller"].key)
    if job is None:
        raise ApiError(404, "no_such_job", "this caller has no job with this id; finished ones are kept for a day by default")
    return json_response(200, _job_response(job))


async def create_feedback(request: Request) -> Response:
    """Record which label a prediction should have had, under the caller's name; the same feedback twice counts once."""
    services: Services = request.app.state.services
    _charge(services, request, 1)
    body = parse(FeedbackRequest, await receive_body(request, services.params))
    issued = check_id(services.ids, body.id, services.params.retrain, time.time())
    labels = services.predictor.labels()
    if not labels:
        raise ApiError(503, "not_ready", "the champion's labels are not known yet; try again", 1)
    kind = "label" if body.label in labels else "proposal"
    labeller = labeller_of(request.scope["caller"].name, body.source or None)
    await asyncio.to_thread(store_feedback, services.engine, body, kind, labeller, issued)
    return json_response(201, {"id": body.id, "kind": kind})


async def delete_feedback(id: str, request: Request) -> Response:
    """Take back the caller's own labels of a prediction, or the one that `label` names. Given again, a label counts again."""
    services: Services = request.app.state.services
    _charge(services, request, 1)
    given = parse(FeedbackWithdrawal, orjson.dumps(dict(request.query_params)))
    check_id(services.ids, id, services.params.retrain, time.time())
    labeller = labeller_of(request.scope["caller"].name, given.source or None)
    withdrawn = await asyncio.to_thread(withdraw_feedback, services.engine, id, labeller, given.label or None)
    return json_response(200, {"id": id, "withdrawn": withdrawn})


async def create_outcome(request: Request) -> Response:
    """Record what came of a prediction, under the caller's name: one final value for each prediction and caller."""
    services: Services = request.app.state.services
    _charge(services, request, 1)
    body = parse(OutcomeRequest, await receive_body(request, services.params))
    check_id(services.ids, body.id, services.params.retrain, time.time())
    await asyncio.to_thread(store_outcome, services.engine, body, request.scope["caller"].name)
    return json_response(201, {"id": body.id, "value": float(body.value)})


async def get_routes(request: Request) -> Response:
    """Return which versions answer, and the champion's labels."""
    services: Services = request.app.state.services
    content = services.predictor.routes._asdict()
    del content["salt"]
    return json_response(200, {**content, "labels": list(services.predictor.labels())})


async def healthz(request: Request) -> Response:
    """Answer while the process lives."""
    services: Services = request.app.state.services
    return json_response(200, health("gateway", services.home))


async def readyz(request: Request) -> Response:
    """Answer 200 while there is a champion and Triton has it ready."""
    services: Services = request.app.state.services
    ready = services.metrics.is_ready()
    if not ready:
        failures.add("not_ready", "Triton does not have the champion ready", request.scope["request_id"])
    return json_response(200 if ready else 503, {"status": "ready" if ready else "Triton does not have the champion ready"})


async def metrics(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    services: Services = request.app.state.services
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class PredictFastPath:
    """Takes `POST /v1/predict` past the framework's layers, which cost a third of the gateway's time for a request.

    It calls the same handler and returns the same errors; the app has the route too, for its OpenAPI document.
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
            response = await on_api_error(request, error)
        except Exception as error:
            response = await on_fault(request, error)
        await response(scope, receive, send)


async def _predictions(services: Services, query: Query) -> list[Prediction]:
    """Return the predictions, or raise the `ApiError` that tells the client what to do."""
    try:
        return await services.predictor.predict(query, services.params.gateway.deadline_ms / 1000)
    except NotServedError as error:
        raise ApiError(404, "version_not_served", str(error)) from None
    except NothingServedError:
        raise ApiError(503, "nothing_served", "no version has been published yet: evergreen publish", 5) from None
    except OverloadedError as error:
        raise ApiError(503, "overloaded", f"{error}; try again", 1) from None
    except TritonError as error:
        raise ApiError(503, "triton_unavailable", "Triton did not answer; try again", 1) from error


def _charge(services: Services, request: Request, texts: int) -> None:
    """Charge the caller's rate limit; raise `ApiError` 429 when it is used up."""
    wait_s = services.rate_limit.wait_s(request.scope["caller"].key, texts)
    if wait_s:
        raise ApiError(429, "too_fast", "this caller sends too many texts; slow down", max(1, round(wait_s + 0.5)))


def _submit_job(services: Services, payload: dict[str, Any], caller: str, key: str | None, callback_url: str | None) -> jobs.Job:
    try:
        with services.engine.begin() as connection:
            return jobs.submit(
                connection,
                payload,
                caller=caller,
                idempotency_key=key,
                callback_url=callback_url,
                now=time.time(),
                settings=services.params.jobs,
            )
    except jobs.KeyReusedError as error:
        raise ApiError(409, "key_reused", error.what) from None
    except (jobs.BadKeyError, CallbackRefusedError) as error:
        raise ApiError(422, "not_valid", f"{error.where}: {error.what}; {error.do}") from None
    except jobs.QueueFullError as error:
        raise ApiError(503, "overloaded", error.what, 10) from None


def _find_job(engine: sa.Engine, id: str, caller: str) -> jobs.Job | None:
    with engine.connect().execution_options(reads_only=True) as connection, connection.begin():
        return jobs.find(connection, id, caller)


def _job_response(job: jobs.Job) -> dict[str, Any]:
    fields = job._asdict()
    fields["predictions"] = fields.pop("result")
    return fields
