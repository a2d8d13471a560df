"""Answers that are not 2xx: the error a route raises, the one JSON shape of every failure, and the log of the causes of 5xx."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

CONTENT_ERRORS = frozenset({404, 409, 410, 422})  # what the request asks for does not exist or is not valid: no refusal
HTTP_CODES = {404: "no_such_path", 405: "method_not_allowed"}

QUIET_S = 1.0  # overload refuses thousands of requests a second, all for the same cause
MAX_CAUSES = 100

log = structlog.get_logger()


class ApiError(Exception):
    """An answer that is not 2xx, with a code that clients can tell apart."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s


class FailureLog:
    """Logs the cause of each 5xx. Requests that fail for the same cause within `QUIET_S` share a line, and are counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._causes: dict[tuple[str, str], tuple[float, int]] = {}  # when it was last logged, and how often it came up since

    def add(self, code: str, cause: str, request_id: str) -> None:
        """Log the cause of a failed request, unless it has just been logged."""
        now, key = self._clock(), (code, cause)
        logged_at, unlogged = self._causes.get(key, (now - QUIET_S, 0))
        if now - logged_at < QUIET_S:
            self._causes[key] = logged_at, unlogged + 1
            return
        if len(self._causes) >= MAX_CAUSES:
            self._causes.clear()
        self._causes[key] = now, 0
        log.warning("requests failed", code=code, cause=cause, request_id=request_id, others_since_last_line=unlogged)


failures = FailureLog(time.monotonic)


def add_error_handlers(app: FastAPI) -> None:
    """Return every failure of a route or of the framework in the same shape."""
    for kind, handler in ((ApiError, on_api_error), (HTTPException, _on_http_error), (RequestValidationError, _on_invalid)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, on_fault)


def json_response(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    """Return content as JSON."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


async def on_api_error(request: Request, error: Exception) -> Response:
    """Return the answer that an `ApiError` describes, and count a refusal by its code."""
    assert isinstance(error, ApiError)  # noqa: S101 (registered for this type)
    if error.status not in CONTENT_ERRORS:
        request.app.state.services.metrics.count_refusal(error.code)
    if error.status >= 500:
        cause = error.__cause__ or error
        failures.add(error.code, str(getattr(cause, "what", cause)), str(request.scope.get("request_id", "")))
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
    return _failure(request, error.status, error.code, error.message, headers)


async def on_fault(request: Request, error: Exception) -> Response:
    """Return 500, and log the traceback."""
    log.exception("a fault of the gateway", exc_info=error, **log_fields(request.scope))
    return _failure(request, 500, "fault", "this is a fault of the gateway; its log has the request id")


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    headers = dict(error.headers) if error.headers else None
    return _failure(request, error.status_code, HTTP_CODES.get(error.status_code, "http"), str(error.detail), headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    return _failure(request, 422, "not_valid", str(error))


def log_fields(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return whose request this is, for the log: our id, the client's, and the caller's name."""
    fields = {name: scope[name] for name in ("request_id", "correlation_id") if name in scope}
    return fields | ({"caller": scope["caller"].name} if "caller" in scope else {})


def _failure(request: Request, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    content = {"request_id": request.scope.get("request_id", ""), "error": {"code": code, "message": message}}
    return json_response(status, content, headers)
