"""ASGI middleware of the gateway: request ids, callers, limits, one metric and, on failure, one log line for each request."""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import orjson
import structlog

from pipeline.params import Gateway
from serving.access.callers import Callers
from serving.access.proxies import TrustedProxies
from serving.access.tokens import Scope as TokenScope
from serving.gateway.docs_page import PAGES
from serving.gateway.errors import failures, log_fields
from serving.gateway.metrics import Metrics
from serving.processes.http_body import HEADERS, Receive, discard_body, exceeds

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CORRELATION_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
MAX_CALLERS = 10_000  # that the rate limit remembers; the one silent for longest is forgotten first
PUBLIC = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json", *PAGES})
JOB, LABELS = "/v1/jobs/{id}", "/v1/feedback/{id}"
SCOPES: dict[str, TokenScope] = {  # that each route asks for; a path that is no route asks for none, and gets its 404
    "/v1/predict": "predict",
    "/v1/jobs": "predict",
    JOB: "predict",
    "/v1/routes": "predict",
    "/v1/feedback": "label",
    LABELS: "label",
    "/v1/outcome": "label",
}
ROUTES = PUBLIC | SCOPES.keys()
ADVICE = "to make one: .venv/bin/evergreen token add NAME --scope"

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


class Refusal(NamedTuple):
    """An answer that the middleware gives in place of the app."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class GatewayMiddleware:
    """Wraps the app. Refuses before anything is parsed, and measures every request."""

    def __init__(self, app: App, settings: Gateway, metrics: Metrics, callers: Callers) -> None:
        self._app, self._settings, self.metrics, self._callers = app, settings, metrics, callers
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500
        self._proxies.resolve(scope)
        headers = scope[HEADERS] = dict(scope["headers"])
        scope["request_id"] = secrets.token_hex(12)  # never the client's: predictions are found by it
        ids = [(b"x-request-id", scope["request_id"].encode())]
        correlation = headers.get(b"x-correlation-id") or headers.get(b"x-request-id", b"")
        if CORRELATION_ID.fullmatch(correlation):
            scope["correlation_id"] = correlation.decode()
            ids.append((b"x-correlation-id", correlation))

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *ids]
            await send(message)

        self._open += 1
        try:
            refusal = self._refusal(scope, headers)
            if refusal:
                self.metrics.count_refusal(refusal.code)
                if refusal.status == 413:
                    await discard_body(receive)
                if refusal.status >= 500:
                    failures.add(refusal.code, refusal.message, scope["request_id"])
                await _refuse(send_with_id, scope["request_id"], refusal)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            self._open -= 1
            took_s = time.perf_counter() - begun
            route = route_label(scope["path"])
            self.metrics.count_request(route, status, took_s)
            if status >= 500 and status != 503:  # `failures` logs the causes of these
                log.error("request failed", **log_fields(scope), route=route, status=status, ms=round(1000 * took_s, 1))

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        path = scope["path"]
        if path in PUBLIC:
            return None
        if self._open > self._settings.max_connections:
            return Refusal(503, "connections", "too many requests are open; try again", ((b"retry-after", b"1"),))
        if refusal := self._refusal_of_caller(scope, headers):
            return refusal
        if exceeds(headers.get(b"content-length", b""), self._settings.max_body_bytes):
            return Refusal(413, "body_too_large", f"a body has at most {self._settings.max_body_bytes} bytes")
        return None

    def _refusal_of_caller(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        """Put the caller into the scope, or refuse one without a valid token (401) or without the route's scope (403)."""
        address = (scope.get("client") or ("",))[0]
        is_forwarded = b"x-forwarded-for" in headers or b"forwarded" in headers
        caller = self._callers.find(headers.get(b"authorization", b""), address, is_forwarded)
        needed = SCOPES.get(route_label(scope["path"]))
        if caller is not None and (needed is None or needed in caller.scopes):
            scope["caller"] = caller
            return None
        if caller is None or not self._callers.has_tokens:
            message = f"send a valid token: Authorization: Bearer …; {ADVICE} {needed or 'predict'}"
            return Refusal(401, "no_token", message, ((b"www-authenticate", b"Bearer"),))
        message = f"the token of {caller.name} lacks the scope {needed}; {ADVICE} {needed}"
        return Refusal(403, "scope_missing", message)


def route_label(path: str) -> str:
    """Return the path as a metric label, which has few values whatever is requested."""
    if path in ROUTES:
        return path
    if path.startswith("/v1/jobs/"):
        return JOB
    return LABELS if path.startswith("/v1/feedback/") else "other"


async def _refuse(send: Send, request_id: str, refusal: Refusal) -> None:
    body = orjson.dumps({"request_id": request_id, "error": {"code": refusal.code, "message": refusal.message}})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *refusal.headers]
    if refusal.status == 413:
        head.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": refusal.status, "headers": head})
    await send({"type": "http.response.body", "body": body})
