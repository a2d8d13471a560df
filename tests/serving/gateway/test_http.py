"""The real gateway in front of a real Triton, over HTTP: its answers, its refusals, and what it stores."""

import asyncio
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

import evergreen
from pipeline.session.golden_answers import read_golden
from serving.batch_prediction.gateway_model import GatewayModel
from serving.gateway_client import http_sender
from serving.jobs.callbacks import verify
from serving.prediction_log.segments import read_tables
from serving.prediction_log.writer import log_url
from serving.release.live.swap import route
from serving.release.routing import set_routing
from state.database import open_state
from tests.conftest import Project
from tests.faults.stack import Installation, lay_out, offline, programs, serving, wait_until
from tests.serving.jobs.receiver import receiving

GOOD = b'{"text": "card declined"}'
JSON = {"content-type": "application/json"}


class Running(NamedTuple):
    """A stack that serves version 1, with version 2 as challenger."""

    stack: Installation
    process: subprocess.Popen[bytes]


class Answer(NamedTuple):
    """An HTTP answer, its JSON parsed."""

    status: int
    headers: dict[str, str]
    body: Any


@pytest.fixture(scope="module")
def running(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gateway")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        params = made.params
        jobs = params.jobs.model_copy(update={"callback_private": "allow", "poll_ms": 50})
        log = params.log.model_copy(update={"flush_s": 0.2})
        changed = params.model_copy(update={"jobs": jobs, "log": log})
        stack = lay_out(folder, made / "artifacts/package", made / "dvc.lock", changed, factors=(1.0, 2.0))
    with serving(stack) as process:
        yield Running(stack, process)


def send(
    stack: Installation, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = ""
) -> Answer:
    connection = http.client.HTTPConnection(stack.params.gateway.host, stack.params.gateway.port, timeout=30)
    try:
        connection.request(method or ("POST" if body is not None else "GET"), path, body, JSON | (headers or {}))
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    is_json = answer.headers.get("content-type") == "application/json"
    return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.loads(content) if is_json else content)


def predict(stack: Installation, **body: Any) -> Answer:
    return send(stack, "/v1/predict", json.dumps(body).encode())


def predict_one(stack: Installation, **body: Any) -> dict[str, Any]:
    (prediction,) = predict(stack, **body).body["predictions"]
    return dict(prediction)


def metric(stack: Installation, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(send(stack, "/metrics").body.decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def rows_of(stack: Installation) -> list[dict[str, Any]]:
    tables = list(read_tables(log_url(stack.params.log, stack.home), since=0.0, on_skipped=lambda name: None))
    return list(pa.concat_tables(tables).to_pylist()) if tables else []


def test_predictions_are_those_of_the_model_and_name_its_version(running: Running, made: Project) -> None:
    texts = read_golden(made / "artifacts/session").texts
    answer = predict(running.stack, texts=texts)
    assert answer.status == 200
    expected = offline(running.stack.packages)(1, texts).answers()
    assert [prediction["label"] for prediction in answer.body["predictions"]] == [label for label, _ in expected]
    assert [prediction["confidence"] for prediction in answer.body["predictions"]] == pytest.approx(
        [p for _, p in expected], abs=1e-4
    )
    assert {prediction["version"] for prediction in answer.body["predictions"]} == {1}
    assert len({prediction["id"] for prediction in answer.body["predictions"]}) == len(texts)


BAD: list[tuple[str, bytes, int, str]] = [
    ("empty text", b'{"text": ""}', 422, "text_empty"),
    ("only white space and invisible characters", b'{"text": " \\u200b\\t"}', 422, "text_empty"),
    ("NUL", b'{"text": "a\\u0000b"}', 422, "text_not_valid"),
    ("a lone surrogate", b'{"text": "\\ud800"}', 400, "not_json"),
    ("a text of a megabyte", json.dumps({"text": "x" * 1_000_000}).encode(), 422, "text_too_long"),
    ("more than a body may have", json.dumps({"text": "x" * 2_000_000}).encode(), 413, "body_too_large"),
    ("ten thousand texts", json.dumps({"texts": ["a"] * 10_000}).encode(), 413, "too_many_texts"),
    ("no texts", b'{"texts": []}', 422, "not_valid"),
    ("neither text nor texts", b"{}", 422, "not_valid"),
    ("both", b'{"text": "a", "texts": ["b"]}', 422, "not_valid"),
    ("half a body", b'{"text": ', 400, "not_json"),
    ("no body", b"", 400, "not_json"),
    ("a list", b"[]", 422, "not_valid"),
    ("a number for a text", b'{"text": 7}', 422, "not_valid"),
    ("null among texts", b'{"texts": ["a", null]}', 422, "not_valid"),
    ("a key that is not there", b'{"text": "a", "txet": "b"}', 422, "not_valid"),
    ("bytes that are not UTF-8", b'{"text": "\xff\xfe"}', 400, "not_json"),
    ("a version that is not served", b'{"text": "a", "version": 99}', 404, "version_not_served"),
    ("a version that is no number", b'{"text": "a", "version": "1"}', 422, "not_valid"),
    ("an empty unit", b'{"text": "a", "unit": ""}', 422, "not_valid"),
]


@pytest.mark.parametrize(("body", "status", "code"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_with_a_message_and_the_next_request_answered(
    running: Running, body: bytes, status: int, code: str
) -> None:
    answer = send(running.stack, "/v1/predict", body)
    assert (answer.status, answer.body["error"]["code"]) == (status, code)
    assert answer.body["error"]["message"]
    assert answer.body["request_id"] == answer.headers["x-request-id"]
    assert send(running.stack, "/v1/predict", GOOD).status == 200


@pytest.mark.parametrize(("path", "method", "status"), [("/v1/nothing", "GET", 404), ("/v1/predict", "GET", 405)])
def test_wrong_paths_and_methods_have_the_same_shape_of_error(running: Running, path: str, method: str, status: int) -> None:
    answer = send(running.stack, path, method=method)
    assert answer.status == status
    assert answer.body["error"]["code"]


def test_a_body_that_is_sent_in_chunks_is_bounded_too(running: Running) -> None:
    connection = http.client.HTTPConnection(running.stack.params.gateway.host, running.stack.params.gateway.port, timeout=30)
    try:
        connection.request(
            "POST", "/v1/predict", iter([b"x" * 65536] * 40), encode_chunked=True, headers=JSON | {"transfer-encoding": "chunked"}
        )
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the connection was closed while we were still sending: a refusal too
    finally:
        connection.close()
    assert send(running.stack, "/v1/predict", GOOD).status == 200


def test_the_request_id_is_the_gateways_and_the_clients_is_returned_as_correlation_id(running: Running) -> None:
    answer = send(running.stack, "/v1/predict", GOOD, {"x-request-id": "mine-1"})
    assert answer.body["request_id"] != "mine-1"
    assert answer.headers["x-correlation-id"] == "mine-1"


def test_repeats_come_from_the_cache_whatever_their_white_space(running: Running) -> None:
    first, again = (predict(running.stack, text=text) for text in ("a text for the cache", "  a text\tfor the cache "))
    assert [answer.body["predictions"][0]["cached"] for answer in (first, again)] == [False, True]
    assert first.body["predictions"][0]["confidence"] == again.body["predictions"][0]["confidence"]
    assert first.body["predictions"][0]["id"] != again.body["predictions"][0]["id"]


def test_equal_texts_at_the_same_time_share_one_call(running: Running) -> None:
    before = metric(running.stack, "evergreen_triton_call_texts_sum")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: predict(running.stack, texts=["sent by many at once"] * 4), range(16)))
    assert {prediction["label"] for answer in answers for prediction in answer.body["predictions"]} == {
        answers[0].body["predictions"][0]["label"]
    }
    assert metric(running.stack, "evergreen_triton_call_texts_sum") - before == 1


def test_a_batch_gets_the_answers_of_single_requests_with_all_probabilities(running: Running, made: Project) -> None:
    texts = read_golden(made / "artifacts/session").texts * 4  # more than one call
    url = f"http://{running.stack.params.gateway.host}:{running.stack.params.gateway.port}"
    model = GatewayModel(url, http_sender(url, {}))
    answers = model.predict(texts)
    expected = offline(running.stack.packages)(1, texts).answers()
    assert [answer.label for answer in answers] == [label for label, _ in expected]
    for answer in answers:
        shares = dict(zip(model.labels, answer.probabilities, strict=True))
        assert answer.label == max(shares, key=shares.__getitem__)
        assert shares[answer.label] == pytest.approx(answer.confidence, abs=1e-3)
        assert sum(shares.values()) == pytest.approx(1, abs=5e-3)


def test_a_model_loaded_in_python_answers_as_the_gateway(
    running: Running, made: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(running.stack.home))
    loaded = evergreen.load("champion")
    texts = read_golden(made / "artifacts/session").texts
    url = f"http://{running.stack.params.gateway.host}:{running.stack.params.gateway.port}"
    asked = GatewayModel(url, http_sender(url, {}))
    answers = asked.predict(texts)
    assert (loaded.version, loaded.labels) == (asked.version, list(asked.labels))
    assert loaded.predict(texts) == [answer.label for answer in answers]
    np.testing.assert_allclose(loaded.predict_proba(texts), [answer.probabilities for answer in answers], atol=2e-3)


def test_feedback_is_a_label_or_a_proposal_and_the_same_twice_counts_once(running: Running) -> None:
    prediction = predict_one(running.stack, text="is this a label?")
    for label, kind in (("track_order", "label"), ("track_order", "label"), ("battery_problem", "proposal")):
        answer = send(running.stack, "/v1/feedback", json.dumps({"id": prediction["id"], "label": label}).encode())
        assert (answer.status, answer.body["kind"]) == (201, kind)
    with open_state(running.stack.home) as engine, engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT label, kind FROM feedback WHERE prediction_id = ?", (prediction["id"],)).all()
    assert sorted(map(tuple, rows)) == [("battery_problem", "proposal"), ("track_order", "label")]
    assert send(running.stack, "/v1/feedback", b'{"id": "nonsense", "label": "x"}').status == 422
    forged = prediction["id"][:-1] + ("0" if prediction["id"][-1] != "0" else "1")
    assert send(running.stack, "/v1/feedback", json.dumps({"id": forged, "label": "track_order"}).encode()).status == 404


def test_a_job_is_answered_found_again_by_its_key_and_announced_by_a_signed_callback(running: Running) -> None:
    stack = running.stack

    async def exchange() -> tuple[Answer, Answer, Answer, Any]:
        async def accept(_request: web.Request) -> web.Response:
            return web.Response(status=204)

        async with receiving(accept) as receiver:
            body = json.dumps(
                {"texts": ["card declined"] * 150, "callback_url": f"http://127.0.0.1:{receiver.port}/done"}
            ).encode()
            first, again = [
                await asyncio.to_thread(send, stack, "/v1/jobs", body, {"idempotency-key": "one job"}) for _ in range(2)
            ]
            other = await asyncio.to_thread(send, stack, "/v1/jobs", GOOD, {"idempotency-key": "one job"})
            deadline = time.monotonic() + 20
            while not receiver.requests and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            return first, again, other, receiver.requests[0]

    first, again, other, callback = asyncio.run(exchange())
    assert (first.status, again.status, other.status) == (202, 202, 409)
    assert first.body["id"] == again.body["id"]
    assert first.headers["location"] == f"/v1/jobs/{first.body['id']}"
    done = send(stack, first.headers["location"]).body
    assert done["status"] == "done"
    assert [prediction["label"] for prediction in done["predictions"]] == ["payment_failed"] * 150
    key = (stack.home / "callback.key").read_bytes().strip()
    assert verify(callback.body, callback.headers, key, time.time(), 60)
    assert json.loads(callback.body)["id"] == first.body["id"]
    assert callback.headers["Idempotency-Key"] == first.body["id"]


def test_an_unknown_job_is_not_found(running: Running) -> None:
    assert send(running.stack, f"/v1/jobs/{'0' * 32}").status == 404
    assert send(running.stack, "/v1/jobs/%00").status == 404


def test_the_challenger_answers_its_share_of_units_always_the_same_ones_without_a_restart(running: Running) -> None:
    stack = running.stack
    route(stack.params, stack.home, challenger_weight=0.5, shadow_share=0.0, announce=lambda _: None)
    try:
        wait_until(lambda: send(stack, "/v1/routes").body["challenger_weight"] == 0.5, 10)
        units = [f"customer-{i}" for i in range(80)]
        predictions = [predict_one(stack, text="where is it", unit=unit) for unit in units]
        assert 20 <= sum(prediction["role"] == "challenger" for prediction in predictions) <= 60
        again = [predict_one(stack, text="where is it now", unit=unit)["version"] for unit in units]
        assert again == [prediction["version"] for prediction in predictions]
        expected = {version: offline(stack.packages)(version, ["where is it"]).answers()[0] for version in (1, 2)}
        assert all(
            prediction["confidence"] == pytest.approx(expected[prediction["version"]][1], abs=1e-4) for prediction in predictions
        )
        assert predict_one(stack, text="pinned", version=2)["version"] == 2
    finally:
        route(stack.params, stack.home, challenger_weight=0.0, shadow_share=0.0, announce=lambda _: None)
    wait_until(lambda: send(stack, "/v1/routes").body["challenger_weight"] == 0, 10)
    assert predict(stack, text="pinned again", version=2).status == 404


def test_shadow_predictions_are_logged_and_never_returned(running: Running) -> None:
    stack = running.stack
    route(stack.params, stack.home, challenger_weight=0.0, shadow_share=1.0, announce=lambda _: None)
    try:
        wait_until(lambda: send(stack, "/v1/routes").body["shadow_share"] == 1.0, 10)
        predictions = [predict_one(stack, text=f"a copy, please, of number {i}") for i in range(10)]
        assert {prediction["version"] for prediction in predictions} == {1}
        ids = {prediction["id"] for prediction in predictions}
        wait_until(lambda: len([row for row in rows_of(stack) if row["id"] in ids and row["role"] == "shadow"]) == 10, 20)
        logged = [row for row in rows_of(stack) if row["id"] in ids]
        assert {(row["role"], row["version"]) for row in logged} == {("champion", 1), ("shadow", 2)}
    finally:
        route(stack.params, stack.home, challenger_weight=0.0, shadow_share=0.0, announce=lambda _: None)


def test_every_prediction_is_in_the_log_with_its_answer(running: Running) -> None:
    labels = (running.stack.packages[1] / "labels.txt").read_text(encoding="utf-8").splitlines()
    answer = predict(running.stack, texts=["stored in the log", "and this one"], unit="somebody")
    ids = [prediction["id"] for prediction in answer.body["predictions"]]
    wait_until(lambda: len([row for row in rows_of(running.stack) if row["id"] in ids]) == 2, 20)
    logged = sorted((row for row in rows_of(running.stack) if row["id"] in ids), key=lambda row: ids.index(row["id"]))
    assert [row["text"] for row in logged] == ["stored in the log", "and this one"]
    for row, prediction in zip(logged, answer.body["predictions"], strict=True):
        assert {name: row[name] for name in ("label", "version", "role")} == {
            name: prediction[name] for name in ("label", "version", "role")
        }
        assert (row["unit"], row["request_id"], len(row["sketch"])) == ("somebody", answer.body["request_id"], 128)
        probabilities = np.frombuffer(row["probabilities"], np.float16)
        assert probabilities.max() == pytest.approx(prediction["confidence"], abs=1e-3)
        assert labels[probabilities.argmax()] == prediction["label"]


def test_metrics_count_requests_predictions_and_refusals(running: Running) -> None:
    stack = running.stack
    refused, predicted = (metric(stack, name, **labels) for name, labels in COUNTED)
    predict(stack, texts=["one", "two"])
    predict(stack, text="")
    assert metric(stack, *COUNTED[0][:1], **COUNTED[0][1]) == refused + 1
    assert metric(stack, *COUNTED[1][:1], **COUNTED[1][1]) == predicted + 2
    assert metric(stack, "evergreen_champion_version") == 1
    assert metric(stack, "evergreen_triton_ready") == 1


COUNTED: tuple[tuple[str, dict[str, str]], ...] = (
    ("evergreen_requests_total", {"route": "/v1/predict", "code": "422"}),
    ("evergreen_predictions_total", {"version": "1", "role": "champion"}),
)


def test_schemathesis_finds_no_fault(running: Running) -> None:
    program = Path(sys.executable).parent / "schemathesis"
    refusals = "[400, 401, 404, 405, 409, 413, 415, 422]"  # its defaults lack 413, too many texts
    (running.stack.folder / "schemathesis.toml").write_text(f"[checks.negative_data_rejection]\nexpected-statuses = {refusals}\n")
    command = [str(program), "run", f"{running.stack.url}/openapi.json", "--max-examples=25", "--seed=1", "--no-color"]
    options = ["--phases=examples,coverage,fuzzing", "--exclude-checks=unsupported_method"]  # 415 comes before 404 and 405
    folder = running.stack.folder
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, cwd=folder)
    assert result.returncode == 0, "\n".join(line[:300] for line in result.stdout.splitlines())


def test_without_triton_it_answers_503_until_triton_is_back(running: Running) -> None:
    stack = running.stack
    for stub in programs(running.process)["triton"]:
        stub.kill()
    statuses = set()

    def is_back() -> bool:
        answer = predict(stack, text=f"are you there {time.monotonic()}")
        statuses.add(answer.status)
        assert answer.status == 200 or answer.headers["retry-after"]
        return answer.status == 200 and 503 in statuses

    wait_until(is_back, 60)
    assert statuses == {200, 503}


def test_a_share_above_one_is_refused(running: Running) -> None:
    with open_state(running.stack.home) as engine, engine.begin() as connection, pytest.raises(Exception, match="not a share"):
        set_routing(connection, challenger_weight=2.0, shadow_share=0.0)
