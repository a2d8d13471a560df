"""HTTP/1.1 to Triton from one event loop: few connections that stay open, one request at a time on each.

A client of our own, because it shares the cores with the models: a call costs a third of what it does over gRPC's own threads,
and changes threads less often (docs/experiments/serving.md).
"""

import asyncio
import time
from typing import NamedTuple, cast

import httptools

MAX_AGE_S = 5.0  # of a connection: a pod that shuts down has lost all its callers by then (k8s: preStop)
MAX_IDLE = 64  # connections kept open
JSON_LENGTH = b"inference-header-content-length"


class HttpResponse(NamedTuple):
    """Triton's answer; the first `json_bytes` of the body are JSON when binary tensors follow them."""

    status: int
    body: bytes
    json_bytes: int


class HttpPool:
    """A pool of connections to one address; belongs to one event loop."""

    def __init__(self, host: str, port: int, max_age_s: float = MAX_AGE_S) -> None:
        self._host, self._port, self._max_age_s = host, port, max_age_s
        self._idle: list[_Connection] = []

    async def request(self, message: bytes, timeout_s: float) -> HttpResponse:
        """Send a whole request and return the answer; raise `OSError` when the server is gone, `TimeoutError` when it is slow.

        The request is sent once more when the server closed the connection while it was idle, which is no sign of failure.
        """
        async with asyncio.timeout(timeout_s):
            while self._idle:
                connection = self._idle.pop()
                if connection.is_closed or time.monotonic() - connection.opened_s > self._max_age_s:
                    connection.close()
                    continue
                try:
                    return await self._request_on(connection, message)
                except ConnectionResetError:
                    if connection.has_received:
                        raise
                    break
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
            return await self._request_on(connection, message)

    def close(self) -> None:
        """Close the idle connections; no other is open while no request runs."""
        while self._idle:
            self._idle.pop().close()

    async def _request_on(self, connection: "_Connection", message: bytes) -> HttpResponse:
        try:
            response = await connection.request(message)
        except BaseException:  # also when the caller is cancelled: a late answer must not reach the next request
            connection.close()
            raise
        if connection.is_closed or len(self._idle) >= MAX_IDLE:
            connection.close()
        else:
            self._idle.append(connection)
        return response


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.opened_s = time.monotonic()
        self.is_closed = self.has_received = False
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[HttpResponse] | None = None
        self._body: list[bytes] = []
        self._json_bytes = 0

    async def request(self, message: bytes) -> HttpResponse:
        self.has_received = False
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return await self._waiting

    def close(self) -> None:
        self.is_closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._fail(ConnectionResetError(f"the connection was lost: {exc or 'closed by the server'}"))

    def data_received(self, data: bytes) -> None:
        self.has_received = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.close()
            self._fail(ConnectionResetError(f"not an HTTP answer: {error}"))

    def on_message_begin(self) -> None:
        self._body, self._json_bytes = [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == JSON_LENGTH:
            self._json_bytes = int(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(HttpResponse(self._parser.get_status_code(), b"".join(self._body), self._json_bytes))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
