"""A gateway as a batch's model: it is asked for no more than it can answer, waited for, and asked again."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from pipeline.errors import InputError, ToolError
from serving.batch_prediction.gateway_model import GIVE_UP_S, GatewayModel
from serving.gateway_client import Reply, http_sender
from tests.http_servers import serving_in_thread

LABELS = ["a", "b"]


class Gateway:
    """Answers as ours does, with limits that a test sets; records the size of each call."""

    def __init__(self) -> None:
        self.version, self.labels = 1, LABELS
        self.most_texts = 64
        self.refusals: list[Reply] = []
        self.route_faults: list[Reply] = []
        self.calls: list[int] = []
        self.slept: list[float] = []
        self.now = 0.0

    def send(self, method: str, path: str, body: bytes | None) -> Reply:
        if path == "/v1/routes":
            if self.route_faults:
                return self.route_faults.pop(0)
            return Reply(200, {"champion": self.version, "labels": self.labels}, 0.0)
        request = json.loads(body or b"")
        self.calls.append(len(request["texts"]))
        if self.refusals:
            return self.refusals.pop(0)
        if request["version"] != self.version:
            return refusal(404, "version_not_served")
        if len(request["texts"]) > self.most_texts:
            return refusal(413, "too_many_texts")
        if any(text == "bad" for text in request["texts"]):
            return refusal(422, "text_not_valid")
        return Reply(200, {"predictions": [self.answer(text) for text in request["texts"]]}, 0.0)

    def answer(self, text: str) -> dict[str, Any]:
        return {"label": text[0], "confidence": 0.75, "version": self.version, "probabilities": {"b": 0.25, "a": 0.75}}

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def model(self) -> GatewayModel:
        return GatewayModel("http://gateway", self.send, sleep=self.sleep, clock=lambda: self.now)


def refusal(status: int, code: str, retry_after_s: float = 0.0) -> Reply:
    return Reply(status, {"error": {"code": code, "message": f"it is {code}"}}, retry_after_s)


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


def test_answers_are_in_order_with_probabilities_in_the_order_of_the_labels(gateway: Gateway) -> None:
    model = gateway.model()
    answers = model.predict(["a1", "b1"])
    assert [(answer.label, answer.version, answer.probabilities) for answer in answers] == [
        ("a", 1, [0.75, 0.25]),
        ("b", 1, [0.75, 0.25]),
    ]
    assert (list(model.labels), model.version) == (LABELS, 1)
    assert model.predict([]) == []


def test_an_answer_of_which_the_model_is_unsure_keeps_its_confidence_and_probabilities(gateway: Gateway) -> None:
    model = gateway.model()
    given = gateway.answer("a") | {"label": None, "reason": "unsure", "suggestion": "a"}
    gateway.refusals.append(Reply(200, {"predictions": [given]}, 0.0))
    (answer,) = model.predict(["a"])
    assert (answer.label, answer.reason, answer.confidence, answer.probabilities) == (None, "unsure", 0.75, [0.75, 0.25])
    assert not answer.is_failed


def test_a_refused_text_costs_no_other(gateway: Gateway) -> None:
    texts = ["a"] * 10
    texts[6] = "bad"
    answers = gateway.model().predict(texts)
    assert [n for n, answer in enumerate(answers) if answer.label is None] == [6]
    assert answers[6].reason == "the gateway refuses the text: it is text_not_valid"


def test_calls_shrink_to_what_the_gateway_accepts(gateway: Gateway) -> None:
    gateway.most_texts = 16
    assert all(answer.label for answer in gateway.model().predict(["a"] * 40))
    assert gateway.calls == [40, 20, 10, 10, 10, 10]
    assert gateway.slept == []


def test_a_busy_gateway_is_waited_for_with_smaller_calls(gateway: Gateway) -> None:
    gateway.refusals = [refusal(503, "overloaded", 2.0), refusal(429, "too_fast", 3.0), Reply(0, {}, 0.0, "refused")]
    assert len(gateway.model().predict(["a"] * 64)) == 64
    assert gateway.slept == [2.0, 3.0, 1.0]
    assert gateway.calls[:4] == [64, 32, 16, 8]


def test_it_gives_up_when_no_answer_comes(gateway: Gateway) -> None:
    model = gateway.model()
    gateway.refusals = [Reply(0, {}, 0.0, "connection refused")] * 1000
    with pytest.raises(ToolError, match="no answer for 120 seconds: connection refused"):
        model.predict(["a"])
    assert GIVE_UP_S < gateway.now < GIVE_UP_S + 5


def test_a_gateway_that_never_answered_is_not_waited_for(gateway: Gateway) -> None:
    gateway.route_faults = [Reply(0, {}, 0.0, "connection refused")] * 1000
    with pytest.raises(ToolError, match="no gateway answers there: connection refused"):
        gateway.model()
    assert gateway.slept == []


def test_a_gateway_that_starts_or_restarts_is_waited_for(gateway: Gateway) -> None:
    gateway.route_faults = [refusal(503, "starting", 2.0), Reply(0, {}, 0.0, "connection refused")]
    assert gateway.model().version == 1
    assert gateway.slept == [2.0, 1.0]


def test_a_new_champion_with_the_same_labels_takes_over(gateway: Gateway) -> None:
    model = gateway.model()
    gateway.version = 2
    assert [answer.version for answer in model.predict(["a", "b"])] == [2, 2]
    gateway.version, gateway.labels = 3, ["a", "c"]
    with pytest.raises(ToolError, match="version 3 has other labels"):
        model.predict(["a"])


def test_a_champion_that_is_not_served_yet_is_waited_for(gateway: Gateway) -> None:
    model = gateway.model()
    gateway.refusals = [refusal(404, "version_not_served")] * 3
    assert [answer.version for answer in model.predict(["a"])] == [1]
    assert gateway.slept == [1.0, 1.0, 1.0]
    gateway.refusals = [refusal(404, "version_not_served")] * 1000
    with pytest.raises(ToolError, match="no answer for 120 seconds: version 1 is champion, but is not served"):
        model.predict(["a"])


@pytest.mark.parametrize(
    ("reply", "error", "what"),
    [
        (refusal(401, "no_token"), InputError, "EVERGREEN_TOKEN"),
        (refusal(422, "not_valid"), InputError, "refuses our request"),
        (refusal(500, "fault"), ToolError, "answered 500"),
    ],
)
def test_other_refusals_end_the_run(gateway: Gateway, reply: Reply, error: type[Exception], what: str) -> None:
    model = gateway.model()
    gateway.refusals = [reply]
    with pytest.raises(error, match=what):
        model.predict(["a"])


def handler(answer: Callable[[BaseHTTPRequestHandler], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def test_requests_go_out_with_the_token_and_answers_come_back_parsed() -> None:
    seen: list[tuple[str, str | None, bytes]] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        seen.append((request.path, request.headers["authorization"], body))
        content = b'{"error": {"code": "overloaded", "message": "later"}}'
        request.send_response(503)
        request.send_header("retry-after", "7")
        request.send_header("connection", "close")
        request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    with serving_in_thread(HTTPServer(("127.0.0.1", 0), handler(answer))) as url:
        send = http_sender(f"{url}/behind", {"authorization": "Bearer t"})
        reply = send("POST", "/v1/predict", b"{}")
        assert (reply.status, reply.code, reply.message, reply.retry_after_s) == (503, "overloaded", "later", 7.0)
        assert send("POST", "/v1/predict", b"{}").status == 503
    assert seen[0] == ("/behind/v1/predict", "Bearer t", b"{}")
    assert send("POST", "/v1/predict", b"{}").status == 0


def test_a_pause_of_the_reader_is_not_a_silence_of_the_gateway(gateway: Gateway) -> None:
    model = gateway.model()
    gateway.now += 2 * GIVE_UP_S  # the output goes to a pager
    gateway.refusals = [refusal(503, "overloaded")]
    assert [answer.label for answer in model.predict(["a"])] == ["a"]
