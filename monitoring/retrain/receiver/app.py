"""The ear of the retrain controller: takes Alertmanager's webhook, and answers 2xx once its alerts are committed.

Nothing is decided or started here. Who may speak holds the token of a file; what is too large, too deep, too slow or not of the
documented types is refused and leaves no trace; 503 makes Alertmanager try again, as it does on nothing below 500.
"""

import asyncio
import gc
import hmac
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitoring.retrain.metrics import TEXT, ReceiverMetrics
from monitoring.retrain.receiver.ledger import FullError, Ledger
from monitoring.retrain.receiver.webhook import NotAWebhookError, read_webhook
from pipeline.errors import InputError
from pipeline.home import find_home
from pipeline.params import Alerts, Params, load_params
from serving.processes.http_body import BodyError, BodyTooLargeError, read_body
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json
from state.database import open_state

AGAIN_S = "5"
HOSTS = ("localhost", "127.0.0.1", "receiver")

log = structlog.get_logger()


class RefusedError(Exception):
    """A request that is not taken: status, and why in a word (for the counter) and in words."""

    def __init__(self, status: int, why: str, words: str) -> None:
        self.status, self.why, self.words = status, why, words


class Receiver:
    """What a request meets."""

    def __init__(self, params: Params, engine: sa.Engine, token: str) -> None:
        self._settings = params.retrain
        self._token = sha256(token.encode()).digest()
        self.metrics = ReceiverMetrics(lambda: self.ledger.waiting)
        self.ledger = Ledger(engine, params.retrain.max_unseen, self.metrics.heard)

    async def take(self, request: Request) -> Response:
        """POST /v1/alerts."""
        begun = time.perf_counter()
        try:
            response = await self._take(request)
        except RefusedError as refused:
            self.metrics.refused(refused.why)
            more = {"retry-after": AGAIN_S} if refused.status == 503 else {}
            more |= {"www-authenticate": "Bearer"} if refused.status == 401 else {}
            more |= {"connection": "close"} if refused.status in (408, 413) else {}
            response = JSONResponse({"error": refused.why, "message": refused.words}, refused.status, headers=more)
        self.metrics.took(response.status_code, time.perf_counter() - begun)
        return response

    async def _take(self, request: Request) -> Response:
        self._check_token(request.headers.get("authorization", ""))
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "type", "send application/json")
        body = await self._body(request)
        digest = sha256(body).digest()
        if self.ledger.is_known(digest):
            self.metrics.heard(0, 1)
            return Response(status_code=204)
        try:
            heard, truncated = read_webhook(body)
        except NotAWebhookError as error:
            log.warning("a body that is not Alertmanager's", error=str(error))
            raise RefusedError(400, "body", "this is not Alertmanager's webhook") from None
        try:
            await self.ledger.enter(digest, heard)
        except FullError:
            raise RefusedError(503, "full", "too much is waiting; send it again") from None
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.error("alerts could not be kept", error=str(error)[:300])
            self.metrics.failed()
            raise RefusedError(503, "database", "the alerts could not be kept; send them again") from None
        self.metrics.truncated(truncated)
        return Response(status_code=204)

    def _check_token(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        given = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        if not (hmac.compare_digest(given, self._token) and scheme.lower() == "bearer"):
            raise RefusedError(401, "token", "send the token of alerts.controller_token_file: Authorization: Bearer …")

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.max_body_bytes
        try:
            return await read_body(
                request.receive,
                max_bytes=limit,
                within_s=self._settings.body_within_s,
                content_length=request.headers.get("content-length", ""),
            )
        except BodyTooLargeError:
            raise RefusedError(413, "size", f"at most {limit} bytes are accepted") from None
        except BodyError:
            raise RefusedError(408, "slow", "the body did not arrive in time") from None


def create_app(params: Params, engine: sa.Engine, token: str) -> Starlette:
    """The app; it writes while it lives."""
    receiver = Receiver(params, engine, token)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def metrics(_request: Request) -> Response:
        return Response(receiver.metrics.text(), media_type=TEXT)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        writing = asyncio.create_task(receiver.ledger.run())
        gc.collect()
        gc.freeze()  # as in the gateway: one look through all that was imported held up fifty callers for 0.1 s
        yield
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing

    return Starlette(
        routes=[
            Route("/v1/alerts", receiver.take, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*HOSTS, params.alerts.host])],
        lifespan=lifespan,
    )


def token_file(alerts: Alerts, home: Path) -> Path:
    """Where the token lies: beside Alertmanager's configuration, unless params name an absolute path."""
    return home / "alerts" / alerts.controller_token_file


def ensure_token(path: Path) -> str:
    """The token; made when there is none, readable by its owner alone. Raises `InputError` for a file without one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(24))
    token = path.read_text(encoding="utf-8").strip()
    if not token:
        raise InputError(str(path), "there is no token in this file", "write one, or delete the file: another is made")
    return token


def main() -> None:
    """Run `python -m monitoring.retrain.receiver`."""
    log_in_json()
    params, home = load_params(), find_home()
    host, port = os.environ.get("EVERGREEN_RECEIVER_HOST", params.alerts.host), params.alerts.receiver_port
    token = ensure_token(token_file(params.alerts, home))
    print(json.dumps({"event": "receiver", "url": f"http://{host}:{port}/v1/alerts"}), flush=True)
    with open_state(home) as engine:
        run_http_service(create_app(params, engine, token), host, port)
