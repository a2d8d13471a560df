"""The real gateway before a real Triton, asked over HTTP: what it answers, what it refuses, and what it keeps."""

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

from pipeline.session.golden_answers import read_golden
from serving.jobs.callbacks import verify
from serving.prediction_log.segments import read_tables
from serving.prediction_log.writer import log_url
from serving.release.routing import set_routing
from serving.release.swap import route
from state.database import open_state
from tests.conftest import Project
from tests.faults.stack import Place, lay_out, offline, programs, serving, wait_until
from tests.serving.jobs.receiver import receiving

GOOD = b'{"text": "card declined"}'


class Running(NamedTuple):
    """A stack that serves version 1, with version 2 as challenger."""

    place: Place
    process: subprocess.Popen[bytes]


class Reply(NamedTuple):
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
        place = lay_out(folder, made / "artifacts/package", made / "dvc.lock", changed, factors=(1.0, 2.0))
    with serving(place) as process:
        yield Running(place, process)


def ask(place: Place, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = "") -> Reply:
    connection = http.client.HTTPConnection(place.params.gateway.host, place.params.gateway.port, timeout=30)
    try:
        connection.request(method or ("POST" if body is not None else "GET"), path, body, headers or {})
        reply = connection.getresponse()
        content = reply.read()
    finally:
        connection.close()
    is_json = reply.headers.get("content-type") == "application/json"
    return Reply(reply.status, {k.lower(): v for k, v in reply.headers.items()}, json.loads(content) if is_json else content)


def predict(place: Place, **asked: Any) -> Reply:
    return ask(place, "/v1/predict", json.dumps(asked).encode())


def sample(place: Place, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(ask(place, "/metrics").body.decode())
    found = [s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
    return sum(found)


def rows_of(place: Place) -> list[dict[str, Any]]:
    tables = list(read_tables(log_url(place.params.log, place.home), since=0.0, on_skipped=lambda name: None))
    return list(pa.concat_tables(tables).to_pylist()) if tables else []


def test_answers_are_those_of_the_model_and_say_which_version_gave_them(running: Running, made: Project) -> None:
    texts = read_golden(made / "artifacts/session").texts
    reply = predict(running.place, texts=texts)
    assert reply.status == 200
    expected = offline(running.place.packages)(1, texts).answers()
    assert [one["label"] for one in reply.body["predictions"]] == [label for label, _ in expected]
    assert [one["confidence"] for one in reply.body["predictions"]] == pytest.approx([p for _, p in expected], abs=1e-4)
    assert {one["version"] for one in reply.body["predictions"]} == {1}
    assert len({one["id"] for one in reply.body["predictions"]}) == len(texts)


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
def test_bad_input_is_refused_in_words_and_the_next_request_answered(
    running: Running, body: bytes, status: int, code: str
) -> None:
    reply = ask(running.place, "/v1/predict", body)
    assert (reply.status, reply.body["error"]["code"]) == (status, code)
    assert reply.body["error"]["message"]
    assert reply.body["request_id"] == reply.headers["x-request-id"]
    assert ask(running.place, "/v1/predict", GOOD).status == 200


@pytest.mark.parametrize(("path", "method", "status"), [("/v1/nothing", "GET", 404), ("/v1/predict", "GET", 405)])
def test_wrong_paths_and_methods_have_the_same_shape_of_error(running: Running, path: str, method: str, status: int) -> None:
    reply = ask(running.place, path, method=method)
    assert reply.status == status
    assert reply.body["error"]["code"]


def test_a_body_that_is_sent_in_chunks_is_bounded_too(running: Running) -> None:
    connection = http.client.HTTPConnection(running.place.params.gateway.host, running.place.params.gateway.port, timeout=30)
    try:
        connection.request(
            "POST", "/v1/predict", iter([b"x" * 65536] * 40), encode_chunked=True, headers={"transfer-encoding": "chunked"}
        )
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was closed on us while we were still sending, which is a refusal too
    finally:
        connection.close()
    assert ask(running.place, "/v1/predict", GOOD).status == 200


def test_a_request_id_is_taken_over_and_a_wild_one_is_not(running: Running) -> None:
    assert ask(running.place, "/v1/predict", GOOD, {"x-request-id": "mine-1"}).body["request_id"] == "mine-1"
    assert ask(running.place, "/v1/predict", GOOD, {"x-request-id": "a b\tc"}).body["request_id"] != "a b\tc"


def test_repeats_come_from_the_cache_whatever_their_white_space(running: Running) -> None:
    first, again = (predict(running.place, text=text) for text in ("a text for the cache", "  a text\tfor the cache "))
    assert [reply.body["predictions"][0]["cached"] for reply in (first, again)] == [False, True]
    assert first.body["predictions"][0]["confidence"] == again.body["predictions"][0]["confidence"]
    assert first.body["predictions"][0]["id"] != again.body["predictions"][0]["id"]


def test_equal_texts_at_the_same_time_share_one_call(running: Running) -> None:
    before = sample(running.place, "evergreen_triton_call_texts_sum")
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: predict(running.place, texts=["asked by many at once"] * 4), range(16)))
    assert {one["label"] for reply in replies for one in reply.body["predictions"]} == {
        replies[0].body["predictions"][0]["label"]
    }
    assert sample(running.place, "evergreen_triton_call_texts_sum") - before == 1


def test_feedback_is_a_label_or_a_proposal_and_the_same_twice_counts_once(running: Running) -> None:
    prediction = predict(running.place, text="is this a label?").body["predictions"][0]
    for label, kind in (("track_order", "label"), ("track_order", "label"), ("battery_problem", "proposal")):
        reply = ask(running.place, "/v1/feedback", json.dumps({"id": prediction["id"], "label": label}).encode())
        assert (reply.status, reply.body["kind"]) == (201, kind)
    with open_state(running.place.home) as engine, engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT label, kind FROM feedback WHERE prediction_id = ?", (prediction["id"],)).all()
    assert sorted(map(tuple, kept)) == [("battery_problem", "proposal"), ("track_order", "label")]
    assert ask(running.place, "/v1/feedback", b'{"id": "nonsense", "label": "x"}').status == 422


def test_a_job_is_answered_found_again_by_its_key_and_told_to_a_signed_callback(running: Running) -> None:
    place = running.place

    async def exchange() -> tuple[Reply, Reply, Reply, Any]:
        async def reply(_request: web.Request) -> web.Response:
            return web.Response(status=204)

        async with receiving(reply) as receiver:
            body = json.dumps(
                {"texts": ["card declined"] * 150, "callback_url": f"http://127.0.0.1:{receiver.port}/told"}
            ).encode()
            first, again = [
                await asyncio.to_thread(ask, place, "/v1/jobs", body, {"idempotency-key": "one job"}) for _ in range(2)
            ]
            other = await asyncio.to_thread(ask, place, "/v1/jobs", GOOD, {"idempotency-key": "one job"})
            deadline = time.monotonic() + 20
            while not receiver.requests and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            return first, again, other, receiver.requests[0]

    first, again, other, sent = asyncio.run(exchange())
    assert (first.status, again.status, other.status) == (202, 202, 409)
    assert first.body["id"] == again.body["id"]
    assert first.headers["location"] == f"/v1/jobs/{first.body['id']}"
    done = ask(place, first.headers["location"]).body
    assert done["status"] == "done"
    assert [one["label"] for one in done["predictions"]] == ["payment_failed"] * 150
    key = (place.home / "callback.key").read_bytes().strip()
    assert verify(sent.body, sent.headers, key, time.time(), 60)
    assert json.loads(sent.body)["id"] == first.body["id"]
    assert sent.headers["Idempotency-Key"] == first.body["id"]


def test_a_job_that_is_not_there_is_said_to_be_missing(running: Running) -> None:
    assert ask(running.place, f"/v1/jobs/{'0' * 32}").status == 404
    assert ask(running.place, "/v1/jobs/%00").status == 404


def test_the_challenger_answers_its_share_of_units_always_the_same_ones_and_no_restart_is_needed(running: Running) -> None:
    place = running.place
    route(place.params, place.home, challenger_weight=0.5, shadow_share=0.0, announce=lambda _: None)
    try:
        wait_until(lambda: ask(place, "/v1/routes").body["challenger_weight"] == 0.5, 10)
        units = [f"customer-{i}" for i in range(80)]
        answered = [predict(place, text="where is it", unit=unit).body["predictions"][0] for unit in units]
        assert 20 <= sum(one["role"] == "challenger" for one in answered) <= 60
        again = [predict(place, text="where is it now", unit=unit).body["predictions"][0]["version"] for unit in units]
        assert again == [one["version"] for one in answered]
        right = {version: offline(place.packages)(version, ["where is it"]).answers()[0] for version in (1, 2)}
        assert all(one["confidence"] == pytest.approx(right[one["version"]][1], abs=1e-4) for one in answered)
        assert predict(place, text="pinned", version=2).body["predictions"][0]["version"] == 2
    finally:
        route(place.params, place.home, challenger_weight=0.0, shadow_share=0.0, announce=lambda _: None)
    wait_until(lambda: ask(place, "/v1/routes").body["challenger_weight"] == 0, 10)
    assert predict(place, text="pinned again", version=2).status == 404


def test_shadow_answers_are_logged_and_never_given(running: Running) -> None:
    place = running.place
    route(place.params, place.home, challenger_weight=0.0, shadow_share=1.0, announce=lambda _: None)
    try:
        wait_until(lambda: ask(place, "/v1/routes").body["shadow_share"] == 1.0, 10)
        given = [predict(place, text=f"a copy, please, of number {i}").body["predictions"][0] for i in range(10)]
        assert {one["version"] for one in given} == {1}
        ids = {one["id"] for one in given}
        wait_until(lambda: len([row for row in rows_of(place) if row["id"] in ids and row["role"] == "shadow"]) == 10, 20)
        logged = [row for row in rows_of(place) if row["id"] in ids]
        assert {(row["role"], row["version"]) for row in logged} == {("champion", 1), ("shadow", 2)}
    finally:
        route(place.params, place.home, challenger_weight=0.0, shadow_share=0.0, announce=lambda _: None)


def test_every_answer_stands_in_the_log_with_what_was_said(running: Running) -> None:
    labels = (running.place.packages[1] / "labels.txt").read_text(encoding="utf-8").splitlines()
    reply = predict(running.place, texts=["kept in the log", "and this one"], unit="somebody")
    ids = [one["id"] for one in reply.body["predictions"]]
    wait_until(lambda: len([row for row in rows_of(running.place) if row["id"] in ids]) == 2, 20)
    logged = sorted((row for row in rows_of(running.place) if row["id"] in ids), key=lambda row: ids.index(row["id"]))
    assert [row["text"] for row in logged] == ["kept in the log", "and this one"]
    for row, told in zip(logged, reply.body["predictions"], strict=True):
        assert {name: row[name] for name in ("label", "version", "role")} == {
            name: told[name] for name in ("label", "version", "role")
        }
        assert (row["unit"], row["request_id"], len(row["sketch"])) == ("somebody", reply.body["request_id"], 128)
        probabilities = np.frombuffer(row["probabilities"], np.float16)
        assert probabilities.max() == pytest.approx(told["confidence"], abs=1e-3)
        assert labels[probabilities.argmax()] == told["label"]


def test_metrics_count_requests_predictions_and_refusals(running: Running) -> None:
    place = running.place
    asked, good = (sample(place, name, **labels) for name, labels in COUNTED)
    predict(place, texts=["one", "two"])
    predict(place, text="")
    assert sample(place, *COUNTED[0][:1], **COUNTED[0][1]) == asked + 1
    assert sample(place, *COUNTED[1][:1], **COUNTED[1][1]) == good + 2
    assert sample(place, "evergreen_champion_version") == 1
    assert sample(place, "evergreen_triton_ready") == 1


COUNTED: tuple[tuple[str, dict[str, str]], ...] = (
    ("evergreen_requests_total", {"route": "/v1/predict", "code": "422"}),
    ("evergreen_predictions_total", {"version": "1", "role": "champion"}),
)


def test_schemathesis_finds_nothing(running: Running) -> None:
    program = Path(sys.executable).parent / "schemathesis"
    refusals = "[400, 401, 404, 405, 409, 413, 415, 422]"  # 413, too many texts, is not among those it expects by itself
    (running.place.folder / "schemathesis.toml").write_text(f"[checks.negative_data_rejection]\nexpected-statuses = {refusals}\n")
    command = [str(program), "run", f"{running.place.url}/openapi.json", "--max-examples=25", "--seed=1", "--no-color"]
    folder = running.place.folder
    done = subprocess.run(
        [*command, "--phases=examples,coverage,fuzzing"], capture_output=True, text=True, timeout=300, cwd=folder
    )
    assert done.returncode == 0, "\n".join(line[:300] for line in done.stdout.splitlines())


def test_without_triton_it_says_503_and_then_answers_again(running: Running) -> None:
    place = running.place
    for stub in programs(running.process)["triton"]:
        stub.kill()
    seen = set()

    def answered() -> bool:
        reply = predict(place, text=f"are you there {time.monotonic()}")
        seen.add(reply.status)
        assert reply.status == 200 or reply.headers["retry-after"]
        return reply.status == 200 and 503 in seen

    wait_until(answered, 60)
    assert seen == {200, 503}


def test_no_share_is_given_to_a_challenger_that_is_not_there(running: Running) -> None:
    with open_state(running.place.home) as engine, engine.begin() as connection, pytest.raises(Exception, match="no share"):
        set_routing(connection, challenger_weight=2.0, shadow_share=0.0)
