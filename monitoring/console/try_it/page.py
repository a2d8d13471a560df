"""The routes of the page Try it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from monitoring.console.try_it.answer import answer_of
from monitoring.console.try_it.asking import ExplainedRefusal, ask, caller_headers, explain, gateway_url, give_label
from monitoring.console.try_it.examples import example_texts
from monitoring.console.try_it.neighbours import find_neighbours
from monitoring.pages.rendering import HEADERS
from monitoring.pages.site import Page, Site
from serving.processes.http_body import BodyError, read_body

PREDICT = "/v1/predict"


class Question(BaseModel):
    """A text to classify."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str


class Correction(BaseModel):
    """The right label of a prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    label: str


def try_routes(site: Site) -> Sequence[Route]:
    """Return the routes of the page: the page, an answer and a correction, both as pieces of HTML."""
    gateway = gateway_url(site.params)

    async def show(_request: Request) -> Response:
        examples = await asyncio.to_thread(example_texts, site.home)
        return await site.html(TRY_IT, "try.html", examples=examples)

    async def answer(request: Request) -> Response:
        try:
            question = Question.model_validate_json(await _body(request, site))
        except (BodyError, ValidationError) as error:
            return _unusable(error)
        sent_at = time.perf_counter()
        body = {"text": question.text, "probabilities": True}
        reply = await asyncio.to_thread(ask, gateway, PREDICT, body, caller_headers(request))
        latency_ms = 1000 * (time.perf_counter() - sent_at)
        if reply.status != 200:
            return _piece("refusal.html", explain(reply, gateway))
        prediction = reply.body["predictions"][0]
        neighbours = await find_neighbours(question.text, int(prediction["version"]), site.params, site.home)
        return _piece("answer.html", answer_of(prediction, latency_ms, neighbours))

    async def correct(request: Request) -> Response:
        try:
            correction = Correction.model_validate_json(await _body(request, site))
        except (BodyError, ValidationError) as error:
            return _unusable(error)
        reply = await asyncio.to_thread(give_label, gateway, correction.id, correction.label, caller_headers(request))
        if reply.status != 201:
            return _piece("refusal.html", explain(reply, gateway))
        return _piece("thanks.html", reply.body.get("kind"), labels=site.params.labels, retrain=site.params.retrain)

    def _piece(template: str, shown: Any, **values: Any) -> Response:
        text = site.environment.get_template(template).render(shown=shown, **values)
        return HTMLResponse(text, headers=HEADERS)

    def _unusable(error: BodyError | ValidationError) -> Response:
        site.count_refusal(error.code if isinstance(error, BodyError) else "body")
        refusal = ExplainedRefusal("The console cannot read this request.", "Load the page again.")
        text = site.environment.get_template("refusal.html").render(shown=refusal)
        return HTMLResponse(text, error.status if isinstance(error, BodyError) else 422, headers=HEADERS)

    return [
        Route(TRY_IT.path, show),
        Route(f"{TRY_IT.path}/answer", answer, methods=["POST"]),
        Route(f"{TRY_IT.path}/correction", correct, methods=["POST"]),
    ]


async def _body(request: Request, site: Site) -> bytes:
    limit, within_s = site.params.gateway.max_body_bytes, site.params.http.body_within_s
    return await read_body(request.scope, request.receive, max_bytes=limit, within_s=within_s)


TRY_IT = Page("Try it", "/try", try_routes)
