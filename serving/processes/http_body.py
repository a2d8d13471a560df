"""Reads a request body up to a size and within a time, straight from ASGI's `receive`. Knows no routes and no error format."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

DISCARD_S, DISCARD_BYTES = 2.0, 16 * 2**20


class BodyError(Exception):
    """The body cannot be used."""


class BodyTooLargeError(BodyError):
    """The body is longer than the limit."""


class BodyTooSlowError(BodyError):
    """The body did not arrive in time."""


class BodyCutOffError(BodyError):
    """The client disconnected before the body was complete."""


async def read_body(receive: Receive, *, max_bytes: int, within_s: float, content_length: str = "") -> bytes:
    """Return the whole body; raise a `BodyError` when it is too large, too slow or incomplete.

    A body that is too large, by its bytes or by its `content_length`, is discarded first, so that the client can read the answer.
    """
    parts, size = [], 0
    is_too_large, has_more = exceeds(content_length, max_bytes), True
    try:
        async with asyncio.timeout(within_s):
            while has_more and not is_too_large:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BodyCutOffError
                part, has_more = message.get("body", b""), message.get("more_body", False)
                parts.append(part)
                size += len(part)
                is_too_large = size > max_bytes
    except TimeoutError:
        raise BodyTooSlowError from None
    if is_too_large:
        if has_more:
            await discard_body(receive)
        raise BodyTooLargeError
    return b"".join(parts)


def exceeds(content_length: str | bytes, max_bytes: int) -> bool:
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
