"""The receiver of Alertmanager's webhook: it answers 2xx once the alerts are committed to the journal. Decides nothing.

Callers need the token from a file. A body that is too large, too deep, too slow or of other types is refused and leaves no trace.
503 makes Alertmanager retry; it does not retry after a status below 500.
"""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa
import structlog
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitoring.alertmanager_webhook import WebhookError, parse_webhook
from monitoring.bearer_file import BearerToken, ensure_token
from monitoring.retrain.alerts import received_alerts
from monitoring.retrain.metrics import ReceiverMetrics
from monitoring.retrain.receiver.alert_writer import MAX_PENDING, AlertWriter, WriterFullError
from pipeline.home import find_home
from pipeline.output.plain_text import print_line
from pipeline.params import Alerts, Http, Params, load_params
from serving.processes.addresses import listen_host
from serving.processes.health import health
from serving.processes.http_body import BodyError, read_body
from serving.processes.http_guard import HttpGuard
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json
from state.database import open_state

RETRY_AFTER_S = "5"
MAX_OPEN = 2 * MAX_PENDING  # the writer refuses before, and counts it

log = structlog.get_logger()


class RejectedError(Exception):
    """A request that is refused: the status, a reason for the counter, and a message for the caller."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason, self.message = status, reason, message


class Receiver:
    """The HTTP handler over one alert writer."""

    def __init__(self, params: Params, engine: sa.Engine, token: str) -> None:
        self._settings, self._http = params.retrain, params.http
        self._token = BearerToken(token)
        self.metrics = ReceiverMetrics(lambda: self.writer.pending)
        self.writer = AlertWriter(engine, params.retrain.max_unseen, self.metrics.received)

    async def post_alerts(self, request: Request) -> Response:
        """Handle POST /v1/alerts."""
        begun = time.perf_counter()
        try:
            response = await self._receive(request)
        except RejectedError as rejected:
            self.metrics.count_refusal(rejected.reason)
            headers = {"retry-after": RETRY_AFTER_S} if rejected.status == 503 else {}
            headers |= {"www-authenticate": "Bearer"} if rejected.status == 401 else {}
            headers |= {"connection": "close"} if rejected.status in (408, 413) else {}
            content = {"error": rejected.reason, "message": rejected.message}
            response = JSONResponse(content, rejected.status, headers=headers)
        self.metrics.answered(response.status_code, time.perf_counter() - begun)
        return response

    async def _receive(self, request: Request) -> Response:
        self._check_token(request.headers.get("authorization", ""))
        body = await self._body(request)
        digest = sha256(body).digest()
        if self.writer.is_known(digest):
            self.metrics.received(0, 1)
            return Response(status_code=204)
        try:
            webhook = parse_webhook(body)
        except WebhookError as error:
            log.warning("refused a body that is not Alertmanager's webhook", error=str(error))
            raise RejectedError(400, "body", "this is not Alertmanager's webhook") from None
        try:
            await self.writer.write(digest, received_alerts(webhook))
        except WriterFullError:
            raise RejectedError(503, "full", "too many alerts are waiting; send it again later") from None
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.error("could not store alerts", error=str(error)[:300])
            self.metrics.failed()
            raise RejectedError(503, "database", "the alerts could not be stored; send them again") from None
        self.metrics.truncated(webhook.truncated)
        if webhook.unreadable:
            self.metrics.count_refusal("alert")
            log.warning("left out alerts that cannot be read", alerts=webhook.unreadable, first=webhook.fault)
        return Response(status_code=204)

    def _check_token(self, header: str) -> None:
        if not self._token.is_in(header):
            raise RejectedError(401, "token", "send the token of alerts.controller_token_file: Authorization: Bearer …")

    async def _body(self, request: Request) -> bytes:
        limit, within_s = self._settings.max_body_bytes, self._http.body_within_s
        try:
            return await read_body(request.scope, request.receive, max_bytes=limit, within_s=within_s)
        except BodyError as error:
            raise RejectedError(error.status, error.code, str(error)) from None


def create_app(receiver: Receiver, http: Http, host: str, home: Path) -> Starlette:
    """Build the app; its lifespan runs the alert writer."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse(health("receiver", home))

    async def metrics(_request: Request) -> Response:
        return Response(receiver.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        writing = asyncio.create_task(receiver.writer.run())
        gc.collect()
        gc.freeze()  # one full collection of everything imported held up fifty callers for 0.1 s
        yield
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing

    return Starlette(
        routes=[
            Route("/v1/alerts", receiver.post_alerts, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(HttpGuard, http, host, receiver.metrics.count_refusal)],
        lifespan=lifespan,
    )


def token_file(alerts: Alerts, home: Path) -> Path:
    """Return the path of the token: next to Alertmanager's configuration unless params name an absolute path."""
    return home / "alerts" / alerts.controller_token_file


def main() -> None:
    """Run `python -m monitoring.retrain.receiver`."""
    log_in_json()
    params, home = load_params(), find_home()
    host, port = listen_host("receiver", params.alerts.host), params.alerts.receiver_port
    token = ensure_token(token_file(params.alerts, home))
    print_line(json.dumps({"event": "receiver", "url": f"http://{host}:{port}/v1/alerts"}))
    with open_state(home) as engine:
        receiver = Receiver(params, engine, token)
        app, refused = create_app(receiver, params.http, host, home), receiver.metrics.count_refusal
        run_http_service(app, host, port, params.http, refused=refused, max_open=MAX_OPEN)
