"""The gateway's front: request ids, tokens, bounds, one metric and one log line a request. Pure ASGI, and cheap."""

import hashlib
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import orjson
import structlog

from pipeline.errors import InputError
from pipeline.params import Gateway
from serving.gateway.metrics import Metrics
from serving.processes.http_body import Receive, discard_body, exceeds

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
CALLERS = 10_000  # remembered by the rate limit; the one that was silent longest is forgotten
OPEN = frozenset({"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
ROUTES = OPEN | {"/v1/predict", "/v1/jobs", "/v1/feedback", "/v1/routes"}

log = structlog.get_logger()


class RateLimit:
    """A token bucket for each caller: `per_s` texts a second, as many at once; 0 sets no limit."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s, self._clock = per_s, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller → tokens, when counted

    def wait_s(self, caller: str, texts: int) -> float:
        """0 when the caller may go on (and it is charged), else the seconds until it may."""
        if not self._per_s:
            return 0.0
        now, most = self._clock(), max(1.0, self._per_s)
        tokens, then = self._buckets.pop(caller, (most, now))
        tokens = min(most, tokens + (now - then) * self._per_s)
        wanted = min(texts, most)  # more than a bucket holds passes when it is full, and empties it
        allowed = tokens >= wanted
        self._buckets[caller] = (tokens - texts if allowed else tokens, now)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (wanted - tokens) / self._per_s


def read_tokens() -> frozenset[bytes]:
    """SHA-256 of the bearer tokens in the file that `EVERGREEN_TOKENS_FILE` names, one a line; none: everybody may ask."""
    path = os.environ.get("EVERGREEN_TOKENS_FILE")
    if not path:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except OSError as error:
        raise InputError(path, f"the tokens cannot be read: {error.strerror}", "mend EVERGREEN_TOKENS_FILE") from None
    if not lines:
        raise InputError(path, "there is no token in this file", "write one token a line, or unset EVERGREEN_TOKENS_FILE")
    return frozenset(hashlib.sha256(line.encode()).digest() for line in lines)


class Guard:
    """Wraps the app. A refusal here costs no parsing and no work behind it."""

    def __init__(self, app: App, settings: Gateway, metrics: Metrics, tokens: frozenset[bytes]) -> None:
        self._app, self._settings, self._metrics, self._tokens = app, settings, metrics, tokens
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12).encode()
        scope["request_id"] = request_id.decode()

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        self._open += 1
        try:
            refusal = self._refusal(scope, headers)
            if refusal:
                if refusal[0] == 413:
                    await discard_body(receive)
                await _refuse(send_marked, scope["request_id"], *refusal)
            else:
                await self._app(scope, receive, send_marked)
        finally:
            self._open -= 1
            took_s = time.perf_counter() - begun
            route = route_name(scope["path"])
            self._metrics.requested(route, status)()
            self._metrics.request_took(route)(took_s)
            if status >= 500 and status != 503:  # a storm of refusals is counted, not written line by line
                log.error(
                    "request failed", request_id=scope["request_id"], route=route, status=status, ms=round(1000 * took_s, 1)
                )

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str, str, list[tuple[bytes, bytes]]] | None:
        path = scope["path"]
        if path in OPEN:
            scope["caller"] = ""
            return None
        if self._open > self._settings.max_connections:
            self._metrics.refused("connections")
            return 503, "overloaded", "too many requests are open; try again", [(b"retry-after", b"1")]
        caller = self._caller(scope, headers)
        if caller is None:
            self._metrics.refused("token")
            return 401, "no_token", "send a valid token: Authorization: Bearer …", [(b"www-authenticate", b"Bearer")]
        scope["caller"] = caller
        if exceeds(headers.get(b"content-length", b""), self._settings.max_body_bytes):
            self._metrics.refused("body")
            return 413, "body_too_large", f"a body has at most {self._settings.max_body_bytes} bytes", []
        return None

    def _caller(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        """Who asks, for the rate limit: the token's digest or the address; None without a token that is known."""
        if not self._tokens:
            return str((scope.get("client") or ("",))[0])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()  # digests are compared: their prefix tells nothing of a token's
        return digest.hex() if scheme.lower() == b"bearer" and digest in self._tokens else None


def route_name(path: str) -> str:
    """The path as a label: few values, whatever is asked."""
    if path in ROUTES:
        return path
    return "/v1/jobs/{id}" if path.startswith("/v1/jobs/") else "other"


async def _refuse(send: Send, request_id: str, status: int, code: str, message: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = orjson.dumps({"request_id": request_id, "error": {"code": code, "message": message}})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    if status == 413:
        head.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
