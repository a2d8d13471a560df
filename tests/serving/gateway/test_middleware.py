"""The gateway's middleware in front of an app that returns what it was given: who may call which route, and under which id."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from pipeline.params import Params
from serving.access.callers import Callers
from serving.access.tokens import add_token
from serving.gateway.app import create_app
from serving.gateway.metrics import Metrics
from serving.gateway.middleware import PUBLIC, GatewayMiddleware, route_label
from tests.serving.gateway.requests import Answered, send

NOW = datetime(2026, 11, 29, tzinfo=UTC)
PREDICT, FEEDBACK = "/v1/predict", "/v1/feedback"
FORWARDED = ("x-forwarded-for", "192.0.2.7")


async def echo(scope: Any, _receive: Any, send: Any) -> None:
    """Answer with the caller and the id of the request; the path /v1/routes fails."""
    status = 500 if scope["path"] == "/v1/routes" else 200
    caller = scope["caller"]
    body = orjson.dumps({"name": caller.name, "key": caller.key, "request_id": scope["request_id"]})
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Gateway:
    """The middleware with the tokens of a folder, listening on `host`."""

    def __init__(self, params: Params, folder: Path) -> None:
        self._params, self._path = params, folder / "tokens.json"

    def token(self, name: str, *scopes: str) -> tuple[str, str]:
        """Add a token and return its header."""
        return "authorization", f"Bearer {add_token(self._path, name, scopes, NOW)}"

    def send(self, path: str, *headers: tuple[str, str], host: str = "127.0.0.1", proxies: tuple[str, ...] = ()) -> Answered:
        settings = self._params.gateway.model_copy(update={"trusted_proxies": proxies})
        return send(GatewayMiddleware(echo, settings, Metrics(), Callers(self._path, host)), path, *headers)


@pytest.fixture
def gateway(params: Params, tmp_path: Path) -> Gateway:
    return Gateway(params, tmp_path)


def code(answer: Answered) -> tuple[int, str]:
    return answer.status, answer.body["error"]["code"]


@pytest.mark.parametrize(
    ("scopes", "refused"),
    [(["predict"], [FEEDBACK]), (["label"], [PREDICT, "/v1/jobs", "/v1/jobs/1"]), (["admin"], []), (["predict", "label"], [])],
)
def test_each_route_asks_for_its_scope(gateway: Gateway, scopes: list[str], refused: list[str]) -> None:
    token = gateway.token("ana", *scopes)
    for path in (PREDICT, "/v1/jobs", "/v1/jobs/1", FEEDBACK):
        answer = gateway.send(path, token)
        if path in refused:
            assert code(answer) == (403, "scope_missing")
            assert "evergreen token add NAME --scope" in answer.body["error"]["message"]
        else:
            assert (answer.status, answer.body["name"]) == (200, "ana")


@pytest.mark.parametrize("header", [(), (("authorization", "Bearer evg_guess"),), (("authorization", "Basic evg_guess"),)])
def test_with_tokens_a_call_without_one_gets_401(gateway: Gateway, header: tuple[tuple[str, str], ...]) -> None:
    gateway.token("ana", "admin")
    for path in (PREDICT, FEEDBACK, "/v1/nothing"):
        answer = gateway.send(path, *header)
        assert code(answer) == (401, "no_token")
        assert answer.headers[b"www-authenticate"] == b"Bearer"


def test_without_tokens_loopback_serves_the_local_user(gateway: Gateway) -> None:
    assert {gateway.send(path).body["name"] for path in (PREDICT, FEEDBACK)} == {"local"}


@pytest.mark.parametrize(("host", "headers"), [("0.0.0.0", ()), ("127.0.0.1", (FORWARDED,))])  # noqa: S104
def test_without_tokens_other_callers_may_only_predict(gateway: Gateway, host: str, headers: tuple[tuple[str, str], ...]) -> None:
    assert gateway.send(PREDICT, *headers, host=host).body["name"] == "anonymous"
    answer = gateway.send(FEEDBACK, *headers, host=host)
    assert code(answer) == (401, "no_token")
    assert "evergreen token add NAME --scope label" in answer.body["error"]["message"]


def test_a_forwarded_address_counts_only_behind_a_trusted_proxy(gateway: Gateway) -> None:
    assert gateway.send(PREDICT, FORWARDED).body["key"] == "127.0.0.1"
    assert gateway.send(PREDICT, FORWARDED, proxies=("127.0.0.0/8",)).body["key"] == "192.0.2.7"


@pytest.mark.parametrize("header", ["x-request-id", "x-correlation-id"])
@pytest.mark.parametrize("given", ["mine-1", "5f1c9a3e7b2d4c6a8e0f1a2b", "5f1c9a3e7b2d4c6a8e0f1a2b-0"])
def test_the_id_that_a_client_chose_is_returned_and_never_becomes_the_requests(gateway: Gateway, header: str, given: str) -> None:
    answer = gateway.send(PREDICT, (header, given))
    assert re.fullmatch("[0-9a-f]{24}", answer.body["request_id"])
    assert answer.body["request_id"] == answer.headers[b"x-request-id"].decode() != given
    assert answer.headers[b"x-correlation-id"] == given.encode()


@pytest.mark.parametrize("given", ["", "a b", "\x1b[2J", "a" * 65])
def test_an_id_that_could_harm_a_log_is_dropped(gateway: Gateway, given: str) -> None:
    assert b"x-correlation-id" not in gateway.send(PREDICT, ("x-request-id", given)).headers


def test_a_failure_is_logged_with_both_ids_and_the_caller(gateway: Gateway) -> None:
    with capture_logs() as logged:
        answer = gateway.send("/v1/routes", ("x-request-id", "mine-1"))
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert (line["request_id"], line["correlation_id"], line["caller"]) == (answer.body["request_id"], "mine-1", "local")


def test_every_route_of_the_app_has_a_scope_or_is_public(params: Params, tmp_path: Path) -> None:
    app = create_app(params, tmp_path, Callers(tmp_path / "tokens.json", "127.0.0.1"))
    document = orjson.loads(orjson.dumps(app._app._app._app.openapi()))  # type: ignore[attr-defined]
    assert {"other"} & {route_label(path.replace("{id}", "1")) for path in document["paths"]} == set()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert path in PUBLIC or {"401", "403"} <= operation["responses"].keys()
