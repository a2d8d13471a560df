"""One HTTP/1.1 connection: uvicorn's httptools protocol, with limits on what a peer may send before its request is answered.

uvicorn has none for heads. Here a head is bounded in bytes, headers and time, pipelined requests in number, and a peer that does
not read its answer in time is disconnected. Knows no routes.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pipeline.params import Http
from serving.processes.http_body import WHOLE_BODY
from serving.processes.http_connections import OpenConnections

MAX_PIPELINED = 32  # requests that wait on one connection for the answer to an earlier one
Headers = list[tuple[bytes, bytes]]


class ConnectionRefusal(NamedTuple):
    """An answer that ends a connection before any app has seen its request."""

    status: HTTPStatus
    reason: str
    message: str


MALFORMED = ConnectionRefusal(HTTPStatus.BAD_REQUEST, "malformed", "this is not an HTTP/1.1 request")
TUNNEL = ConnectionRefusal(HTTPStatus.METHOD_NOT_ALLOWED, "tunnel", "this is not a proxy")
HEAD_TOO_LARGE = ConnectionRefusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_size", "the request has too many or too long headers"
)
HEAD_TOO_SLOW = ConnectionRefusal(HTTPStatus.REQUEST_TIMEOUT, "head_time", "the headers of the request did not arrive in time")
PIPELINE_FULL = ConnectionRefusal(HTTPStatus.TOO_MANY_REQUESTS, "pipeline", "wait for an answer before you send more requests")
NO_PLACE = ConnectionRefusal(HTTPStatus.SERVICE_UNAVAILABLE, "connections", "too many connections are open; try again")


class RefusalError(Exception):
    """Ends the parsing of a request inside a callback of httptools."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection within limits. While no request is being answered, a timer runs until the next head is complete."""

    def __init__(self, *, limits: Http, connections: OpenConnections, refused: Callable[[str], None], **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._limits, self._open, self._count_refusal = limits, connections, refused
        self._refusal = MALFORMED  # what the end of the parsing means
        self._undelivered = 0  # bytes since the parser last completed a head or returned a part of a body
        self._answered: RequestResponseCycle | None = None  # the request that is being answered; `cycle` is the newest
        self._head_timer: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or refuse it."""
        super().connection_made(transport)
        if self._open.admit(self, self.client[0] if self.client else ""):
            self._start_head_timer()
        else:
            self._refuse(NO_PLACE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free everything that the connection holds."""
        self._open.remove(self)
        self._stop_head_timer()
        self._stop_abort_timer()
        self._unset_keepalive_if_required()
        self._silence()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, within the limits."""
        if self.transport.is_closing():
            return
        self._undelivered += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self.transport.is_closing():
            return
        if self._undelivered > self._limits.max_head_bytes:
            self._refuse(HEAD_TOO_LARGE)
        elif self._head_timer is None and not self._is_answering():
            self._start_head_timer()

    def _feed(self, data: bytes) -> None:
        """Parse; a request that asks for another protocol is parsed again as one that does not.

        httptools takes its body for the other protocol, and no service speaks one. Java and Spring ask for h2c with every POST.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                self._refuse(TUNNEL)
                return
            head = _head_without_upgrade(self.parser, self.url, self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self._feed(head + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal)

    def on_headers_complete(self) -> None:
        """Start the request if its head is within the limits."""
        limits = self._limits
        if len(self.headers) > limits.max_headers or (
            self._undelivered > limits.max_head_bytes and _size(self.url, self.headers) > limits.max_head_bytes
        ):
            self._end_parsing(HEAD_TOO_LARGE)
        if len(self.pipeline) >= MAX_PIPELINED:
            self._end_parsing(PIPELINE_FULL)
        self._undelivered = 0
        if self.parser.should_upgrade():
            return  # `_feed` parses it again
        self._stop_head_timer()
        super().on_headers_complete()
        self.headers = []  # trailers behind the body are no headers

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        self._undelivered = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the peer has nothing more to send for now."""
        if self.parser.should_upgrade():
            return
        self._undelivered = 0
        super().on_message_complete()
        if self._is_answering():
            self.cycle.scope[WHOLE_BODY] = True  # type: ignore[literal-required]
            self._open.work(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Note that the peer may send the next request."""
        if not self.pipeline:
            self._open.wait(self)
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that has been idle for long."""
        self._hang_up()

    def pause_writing(self) -> None:
        """Give a peer that does not read its answer a limited time."""
        super().pause_writing()
        self._start_abort_timer()

    def resume_writing(self) -> None:
        """Note that the peer reads."""
        super().resume_writing()
        self._stop_abort_timer()

    def abort(self) -> None:
        """End the connection at once, whatever has not been sent yet."""
        self._silence()
        self.transport.abort()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end_parsing(self, refusal: ConnectionRefusal) -> None:
        self._refusal = refusal
        raise RefusalError(refusal.reason)

    def _refuse(self, refusal: ConnectionRefusal) -> None:
        """Answer and end the connection; while an earlier request is being answered, only end it."""
        self._count_refusal(refusal.reason)
        if not self._is_answering():
            self.transport.write(_answer(refusal))
        self._hang_up()

    def _hang_up(self) -> None:
        """End the connection once everything is sent, and after a while in any case."""
        self._silence()
        self.transport.close()
        self._start_abort_timer()

    def _silence(self) -> None:
        """Drop what the app still sends: uvloop raises when a closed connection is written to."""
        if self._answered:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _head_overdue(self) -> None:
        if self._undelivered:
            self._refuse(HEAD_TOO_SLOW)
        else:
            self._hang_up()  # a client that connects ahead would take an answer for that of its first request

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_within_s, self._head_overdue)

    def _stop_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_abort_timer(self) -> None:
        self._stop_abort_timer()
        self._abort_timer = self.loop.call_later(self._limits.body_within_s, self.abort)

    def _stop_abort_timer(self) -> None:
        if self._abort_timer:
            self._abort_timer.cancel()
            self._abort_timer = None


def _size(url: bytes, headers: Headers) -> int:
    return len(url) + sum(len(name) + len(value) for name, value in headers)


def _head_without_upgrade(parser: Any, url: bytes, headers: Headers) -> bytes:
    """Return the head of a request without the headers that ask for another protocol."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    for name, value in headers:
        if name not in (b"upgrade", b"http2-settings", b"connection"):
            lines.append(b"%s: %s" % (name, value))
        elif name == b"connection" and b"close" in value.lower():
            lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _answer(refusal: ConnectionRefusal) -> bytes:
    body = b'{"request_id":"","error":{"code":"%s","message":"%s"}}' % (refusal.reason.encode(), refusal.message.encode())
    retry = "retry-after: 1\r\n" if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    return (
        f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n{retry}\r\n"
    ).encode() + body
