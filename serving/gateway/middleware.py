"""ASGI middleware of the gateway: request ids, tokens, limits, one metric and, on failure, one log line for each request."""

import hashlib
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

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
MAX_CALLERS = 10_000  # that the rate limit remembers; the one silent for longest is forgotten first
PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
ROUTES = PUBLIC | {"/v1/predict", "/v1/jobs", "/v1/feedback", "/v1/routes"}

log = structlog.get_logger()


class RateLimit:
    """A token bucket for each caller: `per_s` texts a second, as many at once; 0 sets no limit."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s, self._clock = per_s, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller → tokens, when counted

    def wait_s(self, caller: str, texts: int) -> float:
        """Charge the caller and return 0, or return the seconds until the texts are allowed."""
        if not self._per_s:
            return 0.0
        now, most = self._clock(), max(1.0, self._per_s)
        tokens, then = self._buckets.pop(caller, (most, now))
        tokens = min(most, tokens + (now - then) * self._per_s)
        wanted = min(texts, most)  # more than a bucket holds passes when it is full, and empties it
        allowed = tokens >= wanted
        self._buckets[caller] = (tokens - texts if allowed else tokens, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (wanted - tokens) / self._per_s


def read_tokens() -> frozenset[bytes]:
    """Return the SHA-256 of each bearer token in the file `EVERGREEN_TOKENS_FILE`, one token a line.

    Without that variable the set is empty, and every caller is accepted.
    """
    path = os.environ.get("EVERGREEN_TOKENS_FILE")
    if not path:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except OSError as error:
        raise InputError(path, f"the tokens cannot be read: {error.strerror}", "correct EVERGREEN_TOKENS_FILE") from None
    if not lines:
        raise InputError(path, "there is no token in this file", "write one token a line, or unset EVERGREEN_TOKENS_FILE")
    return frozenset(hashlib.sha256(line.encode()).digest() for line in lines)


class Refusal(NamedTuple):
    """An answer that the middleware gives in place of the app."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class GatewayMiddleware:
    """Wraps the app. Refuses before anything is parsed, and measures every request."""

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

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        self._open += 1
        try:
            refusal = self._refusal(scope, headers)
            if refusal:
                if refusal.status == 413:
                    await discard_body(receive)
                await _refuse(send_with_id, scope["request_id"], refusal)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            self._open -= 1
            took_s = time.perf_counter() - begun
            route = route_label(scope["path"])
            self._metrics.count_request(route, status, took_s)
            if status >= 500 and status != 503:  # refusals under load are counted, not logged one by one
                log.error(
                    "request failed", request_id=scope["request_id"], route=route, status=status, ms=round(1000 * took_s, 1)
                )

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        path = scope["path"]
        if path in PUBLIC:
            scope["caller"] = ""
            return None
        if self._open > self._settings.max_connections:
            self._metrics.count_refusal("connections")
            return Refusal(503, "overloaded", "too many requests are open; try again", ((b"retry-after", b"1"),))
        caller = self._caller(scope, headers)
        if caller is None:
            self._metrics.count_refusal("token")
            message = "send a valid token: Authorization: Bearer …"
            return Refusal(401, "no_token", message, ((b"www-authenticate", b"Bearer"),))
        scope["caller"] = caller
        if exceeds(headers.get(b"content-length", b""), self._settings.max_body_bytes):
            self._metrics.count_refusal("body")
            return Refusal(413, "body_too_large", f"a body has at most {self._settings.max_body_bytes} bytes")
        return None

    def _caller(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        """Return the caller's key for the rate limit: the token's digest, or the address; None without a valid token."""
        if not self._tokens:
            return str((scope.get("client") or ("",))[0])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()  # comparing digests leaks no prefix of a token through timing
        return digest.hex() if scheme.lower() == b"bearer" and digest in self._tokens else None


def route_label(path: str) -> str:
    """Return the path as a metric label, which has few values whatever is requested."""
    if path in ROUTES:
        return path
    return "/v1/jobs/{id}" if path.startswith("/v1/jobs/") else "other"


async def _refuse(send: Send, request_id: str, refusal: Refusal) -> None:
    body = orjson.dumps({"request_id": request_id, "error": {"code": refusal.code, "message": refusal.message}})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *refusal.headers]
    if refusal.status == 413:
        head.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": refusal.status, "headers": head})
    await send({"type": "http.response.body", "body": body})
