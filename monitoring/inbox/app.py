"""The local inbox: receives Alertmanager's webhook, stores the newest messages and shows them on a page.

A webhook is acknowledged once it is on disk; the monitor's explanation is fetched after that. Only JSON is accepted, because a
web page from another site cannot send JSON here without permission.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import structlog
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from monitoring.inbox.explanation import fetch_explanation
from monitoring.inbox.messages import Message, MessageStore, Webhook, overdue_s, status_of
from monitoring.inbox.page import FILES, render_page
from pipeline.home import find_home
from pipeline.params import Alerts, load_params
from serving.processes.ports import require_free_port

MAX_BODY_BYTES = 4 * 2**20
BODY_WITHIN_S = 10.0
EXPLAINED_AREAS = ("drift", "quality")  # the monitor has words and texts for these alerts
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

log = structlog.get_logger()


class BodyTooLargeError(Exception):
    """The body exceeds `MAX_BODY_BYTES`."""


class Inbox:
    """The HTTP handlers over one message store."""

    def __init__(self, alerts: Alerts, home: Path, clock: Callable[[], float]) -> None:
        self.alerts, self.clock = alerts, clock
        self.store = MessageStore(home / "inbox" / "messages.json", alerts)
        self.started_at = clock()
        self._lock = asyncio.Lock()
        self._fetches: set[asyncio.Task[None]] = set()

    async def alerts_webhook(self, request: Request) -> Response:
        """Store a webhook: 204 when it is on disk, 503 when Alertmanager should retry, 4xx when a retry cannot help."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return Response("send application/json", 415)
        try:
            webhook = Webhook.model_validate_json(await _body(request))
        except BodyTooLargeError:
            return Response(f"the body is longer than {MAX_BODY_BYTES} bytes", 413)
        except TimeoutError:
            return Response("the body did not arrive in time", 408)
        except ValidationError as error:
            log.warning("refused a body that is not Alertmanager's webhook", error=str(error.errors(include_url=False)[0]))
            return Response("this is not Alertmanager's webhook", 422)
        try:
            async with self._lock:
                messages = await asyncio.to_thread(self.store.receive, webhook, self.clock())
        except OSError as error:
            log.error("could not store a message", error=str(error))
            return Response("the message could not be stored; send it again", 503)
        self._explain(
            [message for message in messages if not message.explanation and message.labels.get("area") in EXPLAINED_AREAS]
        )
        return Response(status_code=204)

    def _explain(self, messages: list[Message]) -> None:
        """Fetch one explanation per version in the background."""
        by_version: dict[str | None, list[Message]] = {}
        for message in messages:
            by_version.setdefault(message.labels.get("version"), []).append(message)
        for version, group in by_version.items():
            task = asyncio.create_task(self._add_explanation(version, group))
            self._fetches.add(task)
            task.add_done_callback(self._fetches.discard)

    async def _add_explanation(self, version: str | None, messages: list[Message]) -> None:
        url = f"http://{self.alerts.host}:{self.alerts.monitor_port}/report.json"
        explanation, error = await asyncio.to_thread(fetch_explanation, url, version)
        try:
            async with self._lock:
                await asyncio.to_thread(self.store.add_explanation, messages, explanation, error)
        except OSError as failure:
            log.error("could not store an explanation", error=str(failure))

    async def index(self, _request: Request) -> Response:
        """Return the page."""
        text = render_page(list(self.store.messages.values()), self.store.switch, self.started_at, self.clock(), self.alerts)
        return HTMLResponse(text, headers=HEADERS)

    async def messages_json(self, _request: Request) -> Response:
        """Return the messages and their status for programs."""
        now, switch = self.clock(), self.store.switch
        messages = [
            {**message.model_dump(), "standing": status_of(message, switch, now, self.alerts)}
            for message in self.store.messages.values()
        ]
        late_s = overdue_s(switch, self.started_at, now, self.alerts)
        return JSONResponse({"messages": messages, "switch": switch and switch.model_dump(), "overdue_s": late_s})


async def _body(request: Request) -> bytes:
    """Read the body; raises `BodyTooLargeError` or `TimeoutError`."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise BodyTooLargeError
    except ClientDisconnect:
        raise TimeoutError from None
    return bytes(body)


def create_app(alerts: Alerts, home: Path, clock: Callable[[], float]) -> Starlette:
    """Build the app over the messages in this home."""
    inbox = Inbox(alerts, home, clock)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    def static_file(name: str, media_type: str) -> Route:
        async def send(_request: Request) -> Response:
            return FileResponse(FILES / name, media_type=media_type, headers=HEADERS)

        return Route(f"/{name}", send)

    return Starlette(
        routes=[
            Route("/", inbox.index),
            Route("/alerts", inbox.alerts_webhook, methods=["POST"]),
            Route("/messages.json", inbox.messages_json),
            Route("/healthz", healthz),
            static_file("inbox.css", "text/css"),
            static_file("inbox.js", "text/javascript"),
        ],
        # prevents DNS rebinding: a foreign host name that resolves to loopback could otherwise read the messages
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[alerts.host, "localhost", "127.0.0.1"])],
    )


def main() -> None:
    """Serve the inbox until it is stopped."""
    alerts, home = load_params().alerts, find_home()
    require_free_port(alerts.host, alerts.inbox_port)
    print(json.dumps({"event": "inbox", "url": f"http://{alerts.host}:{alerts.inbox_port}/"}), flush=True)
    uvicorn.run(
        create_app(alerts, home, time.time),
        host=alerts.host,
        port=alerts.inbox_port,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
