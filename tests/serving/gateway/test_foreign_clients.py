"""What real HTTP clients send to the gateway, byte by byte, and how an unreachable Triton looks from outside."""

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.params import load_params
from serving.gateway.answering.response_cache import ENTRY_BYTES
from serving.triton.client import Connection
from tests.http_servers import serving_in_thread
from tests.raw_http import chunked, connect, exchange, get, post, read_answer
from tests.serving.gateway.fake_triton import LABELS, running_gateway

TEXT = json.dumps({"text": "where is my parcel?"}).encode()
JAVA = (
    "Connection: Upgrade, HTTP2-Settings",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "Upgrade: h2c",
    "User-Agent: Java-http-client/21",
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_gateway(load_params(), tmp_path_factory.mktemp("gateway")) as port:
        yield port


GOOD = {
    "plain": post("/v1/predict", TEXT),
    "Java 11, with a length": post("/v1/predict", TEXT, *JAVA),
    "Java 11, chunked": chunked("/v1/predict", TEXT, *JAVA),
    "chunked": chunked("/v1/predict", TEXT),
    "gzip": post("/v1/predict", gzip.compress(TEXT), "Content-Encoding: gzip"),
    "HTTP/1.0": post("/v1/predict", TEXT).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0 without a host": post("/v1/predict", TEXT).replace(b"HTTP/1.1\r\nHost: 127.0.0.1", b"HTTP/1.0"),
    ".NET, with a byte order mark": post("/v1/predict", b"\xef\xbb\xbf" + TEXT),
    "UTF-16": post("/v1/predict", TEXT.decode().encode("utf-16"), content_type="application/json; charset=utf-16"),
    "with a charset": post("/v1/predict", TEXT, content_type="Application/JSON; charset=UTF-8"),
    "with a query": post("/v1/predict?trace=1", TEXT),
}


@pytest.mark.parametrize("client", GOOD)
def test_a_body_is_read_from_every_client(port: int, client: str) -> None:
    answer = exchange(port, GOOD[client])
    assert answer.status == 200
    assert json.loads(answer.body)["predictions"][0]["label"] == LABELS[0]


BAD = {
    "latin-1": (post("/v1/predict", '{"text": "où"}'.encode("latin-1")), 400, "not_json"),
    "brotli": (post("/v1/predict", TEXT, "Content-Encoding: br"), 415, "body_encoding"),
    "gzip that is none": (post("/v1/predict", TEXT, "Content-Encoding: gzip"), 400, "body_damaged"),
    "a form": (post("/v1/predict", b"text=hi", content_type="application/x-www-form-urlencoded"), 415, "content_type"),
    "another site": (post("/v1/predict", TEXT, "Origin: https://example.org"), 403, "cross_site"),
}


@pytest.mark.parametrize("client", BAD)
def test_a_refusal_has_the_shape_of_every_error_and_is_counted(port: int, client: str) -> None:
    request, status, code = BAD[client]
    answer = exchange(port, request)
    assert (answer.status, answer.code) == (status, code)
    assert json.loads(answer.body)["request_id"] == answer.headers["x-request-id"]
    page = exchange(port, get("/metrics")).body.decode()
    assert f'evergreen_requests_total{{code="{status}",route="/v1/predict"}}' in page
    assert f'evergreen_refused_total{{reason="{code}"}}' in page


def test_a_client_that_expects_100_continue_gets_it(port: int) -> None:
    head, _, body = post("/v1/predict", TEXT, "Expect: 100-continue").partition(b"\r\n\r\n")
    with connect(port) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection).status == 200


def test_the_memory_of_the_cache_is_a_gauge(port: int) -> None:
    exchange(port, post("/v1/predict", TEXT))
    lines = exchange(port, get("/metrics")).body.decode().splitlines()
    gauges = dict(line.split() for line in lines if line.startswith("evergreen_cache_"))
    assert float(gauges["evergreen_cache_bytes"]) > ENTRY_BYTES * float(gauges["evergreen_cache_entries"]) > 0


class SilentTriton(BaseHTTPRequestHandler):
    """Has the model ready, and takes a text without ever answering: half-open, or seconds away."""

    protocol_version = "HTTP/1.1"
    given_up = threading.Event()

    def do_GET(self) -> None:
        labels = {"parameters": {"labels": {"string_value": json.dumps(LABELS)}}}
        body = json.dumps(labels).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.given_up.wait()

    def log_message(self, *_: object) -> None: ...


def test_a_triton_that_accepts_and_never_answers_costs_a_503_at_the_deadline_and_no_probe(tmp_path: Path) -> None:
    triton = ThreadingHTTPServer(("127.0.0.1", 0), SilentTriton)
    params = load_params()
    hasty = {
        "serve": params.serve.model_copy(update={"http_port": triton.server_port}),
        "gateway": params.gateway.model_copy(update={"deadline_ms": 200}),
    }
    with serving_in_thread(triton), running_gateway(params.model_copy(update=hasty), tmp_path, connection=Connection) as port:
        while exchange(port, get("/readyz")).status != 200:
            assert exchange(port, get("/healthz")).status == 200
        for number in range(params.gateway.in_flight + 1):  # a call that never ends keeps no place
            answer = exchange(port, post("/v1/predict", b'{"text": "text %d"}' % number))
            assert (answer.status, answer.code) == (503, "triton_unavailable")
        assert exchange(port, get("/healthz")).status == 200
        SilentTriton.given_up.set()
