"""HTTP/1.1 to Triton from one event loop: few connections that stay open, one request at a time on each.

Worth its lines because it shares the cores with the models: a call costs a third of what it does over gRPC's own threads, and is
handed from thread to thread less often (EXPERIMENTS: gateway to Triton).
"""

import asyncio
import time
from typing import NamedTuple, cast

import httptools

MAX_AGE_S = 5.0  # a connection is not used longer: then a pod that leaves has no more callers before it goes (k8s: preStop)
IDLE = 64  # connections kept open, at most
LENGTH = b"inference-header-content-length"


class HttpResponse(NamedTuple):
    """What came back; the first `json_bytes` of the body are JSON when there are binary tensors behind them."""

    status: int
    body: bytes
    json_bytes: int


class HttpPool:
    """A pool of connections to one address; belongs to one event loop."""

    def __init__(self, host: str, port: int, age_s: float = MAX_AGE_S) -> None:
        self._host, self._port, self._age_s = host, port, age_s
        self._idle: list[_Connection] = []

    async def ask(self, request: bytes, timeout_s: float) -> HttpResponse:
        """Send a whole request and wait for its answer; raises `OSError` when the server is gone, `TimeoutError` when it is slow.

        A connection that the server closed while it was idle says nothing of the server: the request is sent once more.
        """
        async with asyncio.timeout(timeout_s):
            while self._idle:
                line = self._idle.pop()
                if line.is_closed or time.monotonic() - line.since_s > self._age_s:
                    line.close()
                    continue
                try:
                    return await self._on(line, request)
                except ConnectionResetError:
                    if line.heard_something:
                        raise
                    break
            loop = asyncio.get_running_loop()
            _, line = await loop.create_connection(_Connection, self._host, self._port)
            return await self._on(line, request)

    def close(self) -> None:
        """Close what is idle; nothing else is open when nobody asks."""
        while self._idle:
            self._idle.pop().close()

    async def _on(self, line: "_Line", request: bytes) -> HttpResponse:
        try:
            reply = await line.ask(request)
        except BaseException:  # also when the caller goes: the answer may still come, and must not meet the next request
            line.close()
            raise
        if line.is_closed or len(self._idle) >= IDLE:
            line.close()
        else:
            self._idle.append(line)
        return reply


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.since_s = time.monotonic()
        self.is_closed = self.heard_something = False
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[HttpResponse] | None = None
        self._body: list[bytes] = []
        self._json_bytes = 0

    async def ask(self, request: bytes) -> HttpResponse:
        self.heard_something = False
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        self.is_closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._end(ConnectionResetError(f"the connection was lost: {exc or 'closed by the server'}"))

    def data_received(self, data: bytes) -> None:
        self.heard_something = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.close()
            self._end(ConnectionResetError(f"not an HTTP answer: {error}"))

    def on_message_begin(self) -> None:
        self._body, self._json_bytes = [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == LENGTH:
            self._json_bytes = int(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(HttpResponse(self._parser.get_status_code(), b"".join(self._body), self._json_bytes))

    def _end(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
