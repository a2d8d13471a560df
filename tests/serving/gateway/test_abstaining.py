"""A version that abstains: what callers, jobs, the log and the metrics get. Version 1 abstains, version 2 is older and cannot."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from pipeline.abstention import NEVER, Abstention
from pipeline.params import Params
from pipeline.runtime.outputs import ModelOutputs
from serving.gateway.answering.query import Query
from serving.gateway.app import answer_job
from serving.gateway.metrics import Metrics
from serving.gateway.predictor import Predictor
from serving.jobs.queue import Claim
from serving.prediction import Prediction
from serving.prediction_ids import PredictionIds
from serving.release.routing import NO_ROUTES, Routes
from serving.triton.client import Connection, ModelSchema
from tests.http_servers import serving_in_thread
from tests.serving.gateway.fake_triton import LABELS, FakeConnection, running_gateway

CONFIDENCE = {"clear": 0.9, "at the threshold": 0.75, "vague": 0.625}
SHADOWED = Routes(1, 1, 2, 0.0, 1.0, "salt")


class UnsureTriton(FakeConnection):
    """Is as confident of the first label as `CONFIDENCE` says; the first version abstains below 0.75."""

    fallback = ""

    async def schema(self, model: str) -> ModelSchema:
        return ModelSchema(LABELS, Abstention(0.75, self.fallback, 0.125) if model == "intent-1" else NEVER)

    async def infer(self, model: str, texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        outputs = await super().infer(model, texts, timeout_s)
        first = np.array([CONFIDENCE[text] for text in texts], np.float32)
        return outputs._replace(probabilities=np.stack([first, 1 - first], axis=1))


class PersonTriton(UnsureTriton):
    """Sends texts of which it is unsure to a person."""

    fallback = "ask a person"


class Log:
    """Keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Prediction] = []

    def add(self, row: Prediction) -> None:
        self.rows.append(row)


async def no_routes() -> Routes:
    return NO_ROUTES


def run(params: Params, ask: Callable[[Predictor], Any], triton: type[UnsureTriton] = UnsureTriton) -> tuple[Any, Log, Metrics]:
    """Return the result of `ask` with a predictor, and what was logged and counted."""
    log, metrics = Log(), Metrics()

    async def asked() -> Any:
        ids = PredictionIds(b"k" * 32)
        predictor = Predictor(triton(), params.gateway, log, metrics, ids, no_routes)  # type: ignore[arg-type]
        await predictor.follow(SHADOWED)
        answer = await ask(predictor)
        await asyncio.sleep(0)  # shadow copies share no call with their originals
        while any(not queue.is_idle for queue in predictor.shadows.queues.values()):
            await asyncio.sleep(0)
        return answer

    return asyncio.run(asked()), log, metrics


def test_below_its_threshold_the_model_gives_no_label_and_a_suggestion(params: Params) -> None:
    predictions, _, _ = run(params, lambda predictor: predictor.predict(Query("r", "k", list(CONFIDENCE), None, None), 5.0))
    clear, boundary, vague = (prediction.as_response() for prediction in predictions)
    assert (clear["label"], boundary["label"]) == ("refund", "refund")
    assert "reason" not in clear  # answers of other texts have the fields that they always had
    assert (vague["label"], vague["reason"], vague["suggestion"]) == (None, "unsure", "refund")
    assert (vague["confidence"], vague["runner_up"]) == (0.625, "track")


def test_the_log_keeps_the_models_label_so_that_the_monitor_sees_what_it_always_saw(params: Params) -> None:
    _, log, _ = run(params, lambda predictor: predictor.predict(Query("r", "k", ["vague", "clear"], None, None), 5.0))
    champion = [row for row in log.rows if row.role == "champion"]
    assert [(row.label, row.abstained) for row in champion] == [("refund", True), ("refund", False)]


def test_a_shadow_copy_follows_the_challengers_threshold(params: Params) -> None:
    _, log, metrics = run(params, lambda predictor: predictor.predict(Query("r", "k", ["vague"], None, None), 5.0))
    assert {row.role: row.abstained for row in log.rows} == {"champion": True, "shadow": False}
    value = metrics.registry.get_sample_value
    assert value("evergreen_abstentions_total", {"version": "1", "role": "champion"}) == 1
    assert value("evergreen_abstentions_total", {"version": "2", "role": "shadow"}) is None
    assert value("evergreen_abstention_expected_ratio", {"version": "1"}) == 0.125
    assert value("evergreen_abstention_expected_ratio", {"version": "2"}) is None  # it promised nothing: no alert


def test_an_older_version_answers_as_it_always_did(params: Params) -> None:
    query = Query("r", "k", ["vague"], None, 2)
    (prediction,), log, _ = run(params, lambda predictor: predictor.predict(query, 5.0))
    assert set(prediction.as_response()) == {"id", "label", "confidence", "runner_up", "version", "role", "cached"}
    assert not log.rows[0].abstained


@pytest.mark.parametrize(("triton", "label"), [(UnsureTriton, None), (PersonTriton, "ask a person")])
def test_a_job_abstains_as_a_call_does(params: Params, triton: type[UnsureTriton], label: str | None) -> None:
    claim = Claim("1" * 32, {"texts": ["clear", "vague"], "unit": None, "version": None}, 1, 1)
    (clear, vague), _, _ = run(params, lambda predictor: answer_job(predictor, claim), triton)
    assert clear["label"] == "refund"
    assert (vague["label"], vague["reason"], vague["suggestion"]) == (label, "unsure", "refund")


class ConfigTriton(BaseHTTPRequestHandler):
    """Answers the config of a model that may abstain, and of an older one, as Triton does."""

    def do_GET(self) -> None:
        parameters = {"labels": json.dumps(LABELS)}
        if "intent-1" in self.path:
            parameters["abstain"] = Abstention(0.625, "a person", 0.25).as_parameter()
        body = json.dumps({"parameters": {name: {"string_value": value} for name, value in parameters.items()}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_the_threshold_is_read_from_the_models_config_and_an_older_model_has_none(params: Params) -> None:
    triton = HTTPServer(("127.0.0.1", 0), ConfigTriton)

    async def read() -> list[ModelSchema]:
        connection = Connection(params.serve.model_copy(update={"http_port": triton.server_port}))
        schemas = [await connection.schema(model) for model in ("intent-1", "intent-2")]
        await connection.close()
        return schemas

    with serving_in_thread(triton):
        assert asyncio.run(read()) == [ModelSchema(LABELS, Abstention(0.625, "a person", 0.25)), ModelSchema(LABELS, NEVER)]


@pytest.fixture
def url(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    with running_gateway(params, tmp_path, connection=PersonTriton) as port:
        yield f"http://127.0.0.1:{port}"


def test_over_http_a_fallback_label_stands_in_and_feedback_counts(url: str) -> None:
    body = {"texts": ["vague", "clear"], "probabilities": True}
    vague, clear = requests.post(f"{url}/v1/predict", json=body, timeout=20).json()["predictions"]
    assert (vague["label"], vague["suggestion"], vague["probabilities"]["refund"]) == ("ask a person", "refund", 0.625)
    assert clear["label"] == "refund"
    feedback = requests.post(f"{url}/v1/feedback", json={"id": vague["id"], "label": "track"}, timeout=20)
    assert (feedback.status_code, feedback.json()["kind"]) == (201, "label")
    assert 'evergreen_abstentions_total{role="champion",version="1"} 1.0' in requests.get(f"{url}/metrics", timeout=20).text
