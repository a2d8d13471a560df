"""A request straight into an ASGI app, without a server."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson


class Answered(NamedTuple):
    """An answer of the app."""

    status: int
    headers: dict[bytes, bytes]
    body: Any


def send(app: Any, path: str, *headers: tuple[str, str], method: str = "POST", address: str = "127.0.0.1") -> Answered:
    """Send a request without a body; the body of the answer is JSON."""
    parts: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def collect(message: Any) -> None:
        parts.append(message)

    scope = {"type": "http", "method": method, "path": path, "client": (address, 5000), "headers": encode(headers)}
    asyncio.run(app(scope, receive, collect))
    start, *bodies = parts
    return Answered(start["status"], dict(start["headers"]), orjson.loads(b"".join(part["body"] for part in bodies)))


def encode(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]
