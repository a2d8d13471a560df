"""Reads a request body within limits of size, time and memory, straight from ASGI. Knows no routes and no error format."""

import asyncio
import codecs
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

DISCARD_S, DISCARD_BYTES = 2.0, 16 * 2**20
HELD_BODY = "evergreen.held_body"  # keys of a scope: the request's `HeldBody`,
HEADERS = "evergreen.headers"  # its headers as a dictionary,
WHOLE_BODY = "evergreen.whole_body"  # and there when the body has arrived already: a timer costs as much as its parsing
GZIP = zlib.MAX_WBITS | 16
BYTE_ORDER_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class BodyError(Exception):
    """The body cannot be used: the status of the answer, and a code for programs."""

    status, code = 400, "body"


class BodyTooLargeError(BodyError):
    """The body is longer than the limit, as it is or decompressed."""

    status, code = 413, "body_too_large"


class BodyTooSlowError(BodyError):
    """The body did not arrive in time."""

    status, code = 408, "body_too_slow"


class BodyCutOffError(BodyError):
    """The client disconnected before the body was complete."""

    status, code = 400, "body_cut_off"


class BodyEncodingError(BodyError):
    """The body is compressed in a way that we do not read."""

    status, code = 415, "body_encoding"


class BodyDamagedError(BodyError):
    """The body is not what its headers or its first bytes promise."""

    status, code = 400, "body_damaged"


class BodiesFullError(BodyError):
    """The bodies of all requests together need too much memory."""

    status, code = 503, "overloaded"


class HeldBodies:
    """The bytes of all bodies that a process holds, bounded: a thousand slow clients must not fill its memory."""

    def __init__(self, at_most: int) -> None:
        self.bytes, self._at_most = 0, at_most

    def add(self, size: int) -> bool:
        """Count bytes, or return False when they are too many."""
        if self.bytes + size > self._at_most:
            return False
        self.bytes += size
        return True


class HeldBody:
    """The part of one request, from its first byte until it is answered."""

    __slots__ = ("_bodies", "_bytes")

    def __init__(self, bodies: HeldBodies) -> None:
        self._bodies, self._bytes = bodies, 0

    def add(self, size: int) -> None:
        """Count bytes of the body; raise `BodiesFullError` when all bodies together are too large."""
        if not self._bodies.add(size):
            raise BodiesFullError("the bodies of all open requests are too large together; try again")
        self._bytes += size

    def release(self) -> None:
        """Give the bytes back."""
        self._bodies.bytes -= self._bytes
        self._bytes = 0


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int, within_s: float) -> bytes:
    """Return the whole body, decompressed and as UTF-8 without a byte order mark; raise a `BodyError` that says what is wrong.

    A body that is too large, by its bytes or by its Content-Length, is discarded first, so that the client can read the answer.
    """
    headers = scope.get(HEADERS) or dict(scope["headers"])
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding not in (b"", b"identity", b"gzip", b"x-gzip"):
        raise BodyEncodingError("send the body as it is, or with Content-Encoding: gzip")
    held = scope.get(HELD_BODY)
    parts = _receive_parts(receive, held, max_bytes, headers.get(b"content-length", b""))
    if WHOLE_BODY in scope:
        body = await parts
    else:
        try:
            async with asyncio.timeout(within_s):
                body = await parts
        except TimeoutError:
            raise BodyTooSlowError(f"the body did not arrive within {within_s:g} s") from None
    if body is None:
        raise BodyTooLargeError(f"a body has at most {max_bytes} bytes; send less in one request")
    if encoding.endswith(b"gzip"):
        body = _decompress(body, max_bytes)
        if held:
            held.add(len(body))
    return _as_utf8(body) if body[:1] in b"\xef\xfe\xff\0" else body


async def _receive_parts(receive: Receive, held: HeldBody | None, max_bytes: int, content_length: bytes) -> bytes | None:
    """Return the body as it was sent; None when it is too large, and then the rest has been discarded."""
    parts, size = [], 0
    is_too_large, has_more = exceeds(content_length, max_bytes), True
    while has_more and not is_too_large:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyCutOffError("the connection was closed before the body was complete")
        part, has_more = message.get("body", b""), message.get("more_body", False)
        if held:
            held.add(len(part))
        parts.append(part)
        size += len(part)
        is_too_large = size > max_bytes
    if is_too_large and has_more:
        await discard_body(receive)
    return None if is_too_large else b"".join(parts)


def _decompress(body: bytes, max_bytes: int) -> bytes:
    """Return the content of a gzip body; never more than `max_bytes` are decompressed."""
    stream = zlib.decompressobj(GZIP)
    try:
        content = stream.decompress(body, max_bytes + 1)
    except zlib.error:
        raise BodyDamagedError("the body is not gzip, as Content-Encoding says") from None
    if len(content) > max_bytes:
        raise BodyTooLargeError(f"a body has at most {max_bytes} bytes when decompressed; send less in one request")
    if not stream.eof or stream.unused_data:
        raise BodyDamagedError("the gzip body is incomplete, or something follows it")
    return content


def _as_utf8(body: bytes) -> bytes:
    """Return a body that begins with a byte order mark as UTF-8 without one; .NET and PowerShell write them."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if body.startswith(mark):
            content = body[len(mark) :]
            try:
                return content if encoding == "utf-8" else content.decode(encoding).encode()
            except UnicodeError:
                raise BodyDamagedError(f"the body is not {encoding}, as its byte order mark says; send UTF-8") from None
    return body


def exceeds(content_length: bytes, max_bytes: int) -> bool:
    """Return whether a Content-Length header announces more than `max_bytes`."""
    return content_length.isdigit() and int(content_length) > max_bytes


async def discard_body(receive: Receive) -> None:
    """Read and drop the rest of a body, for `DISCARD_S` at most.

    Closing the connection while the client still sends would reset it, and the client would never see the answer.
    """
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            while size < DISCARD_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
