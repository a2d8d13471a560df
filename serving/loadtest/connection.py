"""A keep-alive HTTP connection with at most one request at a time; httptools parses the answers.

The client shares two cores with the server that it measures, and a request costs a third of aiohttp's.
"""

import asyncio
import time
from typing import Protocol, cast

import httptools

NO_REQUEST = -1
JSON_BYTES = b"inference-header-content-length"


class Listener(Protocol):
    """Callbacks of a connection."""

    def on_open(self, connection: "LoadConnection") -> None: ...
    def on_answer(self, connection: "LoadConnection", request: int, status: int, now_s: float) -> None: ...
    def on_unreadable(self, request: int) -> None: ...
    def on_closed(self, connection: "LoadConnection", request: int) -> None: ...


class LoadConnection(asyncio.Protocol):
    """`request` is the number of the request in flight; `body` and `json_bytes` belong to the last answer."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport  # set in connection_made, before the listener knows this connection
        self._parser = httptools.HttpResponseParser(self)
        self.request = NO_REQUEST
        self.body = b""
        self.json_bytes = 0
        self.keep = True
        self.idle_since_s = 0.0

    def send(self, request: int, data: bytes) -> None:
        self.request = request
        self._transport.write(data)

    def drop(self) -> None:
        """Close at once; the caller has recorded the request."""
        self.request, self.keep = NO_REQUEST, False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._listener.on_open(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            request = self.request
            self.drop()
            if request != NO_REQUEST:
                self._listener.on_unreadable(request)

    def connection_lost(self, exc: Exception | None) -> None:
        request, self.request, self.keep = self.request, NO_REQUEST, False
        self._listener.on_closed(self, request)

    def on_message_begin(self) -> None:
        self.body, self.json_bytes = b"", 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == len(JSON_BYTES) and name.lower() == JSON_BYTES:
            self.json_bytes = int(value)

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        now_s = time.monotonic()
        request, self.request = self.request, NO_REQUEST
        status = self._parser.get_status_code()
        if request == NO_REQUEST or not self._parser.should_keep_alive():
            self.drop()
        if request != NO_REQUEST:
            self._listener.on_answer(self, request, status, now_s)
