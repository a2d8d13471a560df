"""What a peer may do before its request is answered: raw sockets against a real server with small limits."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from pipeline.params import Http, load_params
from serving.processes import http_refusals
from serving.processes.http_body import BodyError, read_body
from serving.processes.http_connections import OpenConnections, peer_name
from serving.processes.http_guard import HttpGuard
from serving.processes.http_protocol import MAX_PIPELINED
from serving.processes.http_refusals import LOG_EVERY_S, RefusalLog
from serving.processes.ports import free_port
from tests.http_servers import serving_app
from tests.raw_http import chunked, connect, exchange, get, is_closed, post, read_answer

OPEN, PER_PEER = 8, 4
OTHER_PEER = "127.0.0.2"
H2C = ("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA", "Upgrade: h2c")


class Service(NamedTuple):
    """A running service: `/wait` answers after `go`, `/large` sends more than anyone reads, other paths describe the request."""

    port: int
    go: threading.Event
    begun: threading.Semaphore  # released by each request to `/wait`
    large_ended: threading.Event


def settings(**changed: Any) -> Http:
    limits = {
        "max_head_bytes": 2000,
        "max_headers": 20,
        "head_within_s": 0.3,
        "body_within_s": 0.3,
        "peer_share": PER_PEER / OPEN,
    }
    return load_params().http.model_copy(update=limits | {"held_body_bytes": 100_000} | changed)


@pytest.fixture(scope="module")
def patient() -> Iterator[Service]:
    """Run a service that gives its peers enough time."""
    with running(settings(head_within_s=60, body_within_s=60)) as service:
        yield service


@pytest.fixture(scope="module")
def hasty() -> Iterator[Service]:
    """Run a service that gives its peers little time."""
    with running(settings()) as service:
        yield service


class running:  # noqa: N801 (a context manager)
    def __init__(self, limits: Http) -> None:
        self.service = Service(free_port(), threading.Event(), threading.Semaphore(0), threading.Event())
        app = HttpGuard(self._app, limits, "127.0.0.1", lambda reason: None)
        self._serving = serving_app(app, "127.0.0.1", self.service.port, limits, max_open=OPEN)

    def __enter__(self) -> Service:
        self._serving.__enter__()
        return self.service

    def __exit__(self, *error: Any) -> None:
        self.service.go.set()
        self._serving.__exit__(*error)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/wait":
            self.service.begun.release()
            await asyncio.to_thread(self.service.go.wait)
        body, status = b"", 200
        try:
            body = await read_body(scope, receive, max_bytes=50_000, within_s=60 if scope["path"] == "/held" else 0.3)
        except BodyError as error:
            status, body = error.status, error.code.encode()
        names = [name.decode() for name, _ in scope["headers"]]
        content = json.dumps({"method": scope["method"], "headers": names, "body": body.decode()}).encode()
        if scope["path"] == "/large":
            content = b"x" * 50_000_000
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content[:1_000_000], "more_body": len(content) > 1_000_000})
        if len(content) > 1_000_000:
            await send({"type": "http.response.body", "body": content[1_000_000:]})
            self.service.large_ended.set()


def body_of(answer: Any) -> Any:
    return json.loads(answer.body)


HEADS = {
    "one header without an end": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 3000,
    "one long header": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 3000 + b"\r\n\r\n",
    "a long name": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"y" * 3000 + b": 1\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(20)) + b"\r\n",
    "many headers without an end": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"x-%d: %090d\r\n" % (n, n) for n in range(30)),
    "a long address": b"GET /" + b"y" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address without an end": b"GET /" + b"y" * 3000,
    "empty lines for ever": b"\r\n" * 2000,
}


@pytest.mark.parametrize("what", HEADS)
def test_a_head_is_bounded_in_bytes_and_headers(patient: Service, what: str) -> None:
    answer = exchange(patient.port, HEADS[what])
    assert (answer.status, answer.code, answer.headers["connection"]) == (431, "head_size", "close")


def test_a_head_within_the_limits_passes_also_before_a_body_that_is_larger(patient: Service) -> None:
    head = [f"x-{number}: {number:080d}" for number in range(17)]
    assert len(body_of(exchange(patient.port, get("/", *head)))["headers"]) == 18
    assert body_of(exchange(patient.port, post("/", b"7" * 40_000, *head[:15])))["body"] == "7" * 40_000


def test_trailers_are_bounded_too_and_never_become_headers(patient: Service) -> None:
    answer = exchange(patient.port, chunked("/", b"1", trailers=b"Authorization: Bearer x\r\n"))
    assert "authorization" not in body_of(answer)["headers"]
    endless = chunked("/held", b"1", trailers=b"X: " + b"y" * 300_000)
    assert exchange(patient.port, endless).status != 200


def test_a_refused_head_leaves_the_server_well(patient: Service) -> None:
    assert exchange(patient.port, b"no HTTP at all\r\n\r\n").code == "malformed"
    assert exchange(patient.port, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n").code == "tunnel"
    assert exchange(patient.port, get()).status == 200


def test_half_a_head_is_given_up_and_said(hasty: Service) -> None:
    assert exchange(hasty.port, b"GET / HTTP/1.1\r\nHos").code == "head_time"


def test_a_peer_that_connects_and_vanishes_is_given_up_without_a_word(hasty: Service) -> None:
    with connect(hasty.port) as connection:
        assert is_closed(connection)


def test_a_body_that_does_not_arrive_is_given_up(hasty: Service) -> None:
    answer = exchange(hasty.port, post("/", b"12345")[:-1])
    assert (answer.status, body_of(answer)["body"]) == (408, "body_too_slow")


def test_a_peer_that_does_not_read_its_answer_is_disconnected(hasty: Service) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall(get("/large"))
        assert hasty.large_ended.wait(20)


def test_half_sent_requests_give_way_to_the_next_of_the_same_peer(patient: Service) -> None:
    half = [connect(patient.port) for _ in range(3 * OPEN)]
    for connection in half:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX")
    assert exchange(patient.port, get("/healthz")).status == 200
    assert all(is_closed(connection) for connection in half[:-PER_PEER])
    for connection in half:
        connection.close()


def test_half_sent_bodies_give_way_too(patient: Service) -> None:
    half = [connect(patient.port) for _ in range(3 * OPEN)]
    for connection in half:
        connection.sendall(post("/held", b"12345")[:-1])
    assert exchange(patient.port, get("/healthz")).status == 200
    for connection in half:
        connection.close()


def test_one_peer_cannot_take_the_places_of_another(patient: Service) -> None:
    patient.go.clear()
    busy = [connect(patient.port) for _ in range(PER_PEER)]
    for connection in busy:
        connection.sendall(get("/wait"))
    assert all(patient.begun.acquire(timeout=20) for _ in busy)
    assert exchange(patient.port, get("/healthz")).code == "connections"
    assert exchange(patient.port, get("/healthz"), source=OTHER_PEER).status == 200
    patient.go.set()
    assert [read_answer(connection).status for connection in busy] == [200] * PER_PEER
    for connection in busy:
        connection.close()


def test_more_pipelined_requests_than_anyone_sends_end_the_connection_and_no_app_fails(
    patient: Service, caplog: pytest.LogCaptureFixture
) -> None:
    patient.go.clear()
    with connect(patient.port) as connection:
        connection.sendall(get("/wait") + get() * (MAX_PIPELINED + 1))
        assert is_closed(connection)
    patient.go.set()
    with connect(patient.port) as connection:  # answered after the request that had lost its connection
        connection.sendall(get("/wait"))
        assert read_answer(connection).status == 200
    assert not [record for record in caplog.records if record.name == "uvicorn.error"]


def test_a_few_pipelined_requests_are_answered_in_order(patient: Service) -> None:
    patient.go.clear()
    with connect(patient.port) as connection:
        connection.sendall(get("/wait") + get() * 10)
        patient.go.set()
        assert read_answer(connection).status == 200


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_request_that_offers_another_protocol_is_answered_in_this_one(patient: Service, is_chunked: bool) -> None:
    request = chunked("/", b'{"a": 1}', *H2C) if is_chunked else post("/", b'{"a": 1}', *H2C)
    with connect(patient.port) as connection:
        for _ in range(2):  # the connection stays open
            connection.sendall(request)
            answer = read_answer(connection)
            assert (answer.status, body_of(answer)["body"]) == (200, '{"a": 1}')
        assert not {"upgrade", "connection", "http2-settings"} & set(body_of(answer)["headers"])


def test_such_a_request_may_arrive_byte_by_byte_and_pipelined(patient: Service) -> None:
    request = post("/", b'{"a": 1}', *H2C)
    with connect(patient.port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            connection.sendall(bytes([byte]))
        assert body_of(read_answer(connection))["body"] == '{"a": 1}'
    assert exchange(patient.port, post("/", b"1", *H2C, "Upgrade: websocket") + request).status == 200


class Connection:
    """Remembers that it was ended."""

    def __init__(self) -> None:
        self.is_ended = False

    def abort(self) -> None:
        self.is_ended = True


def test_the_place_is_taken_from_the_peer_with_most_connections_and_there_from_the_longest_wait() -> None:
    table = OpenConnections(at_most=4, per_peer=3)
    lone, first, second, third, new, last = (Connection() for _ in range(6))
    assert table.admit(lone, "10.0.0.1")
    assert all(table.admit(connection, "10.0.0.2") for connection in (first, second, third))
    table.work(first)
    assert table.admit(new, "10.0.0.3")
    assert second.is_ended and not (lone.is_ended or first.is_ended or third.is_ended)
    table.wait(first)
    table.work(lone)
    table.work(new)
    table.work(third)
    assert table.admit(last, "10.0.0.4") and first.is_ended
    table.work(last)
    assert not table.admit(Connection(), "10.0.0.5") and len(table) == 4
    for connection in (lone, third, new, last, last):
        table.remove(connection)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_a_host_with_many_ipv6_addresses_is_one_peer(one: str, other: str, are_same: bool) -> None:
    assert (peer_name(one) == peer_name(other)) is are_same


def test_a_flood_of_refusals_is_counted_whole_and_logged_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    lines: list[tuple[str, int]] = []
    log = SimpleNamespace(warning=lambda event, reason, count: lines.append((reason, count)))
    monkeypatch.setattr(http_refusals, "log", log)
    now = 0.0
    refused = RefusalLog(counted.append, lambda: now)
    for _ in range(1000):
        refused("head_size")
    now = LOG_EVERY_S
    refused("head_size")
    assert len(counted) == 1001
    assert lines == [("head_size", 1), ("head_size", 1000)]
