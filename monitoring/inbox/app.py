"""The local inbox: takes Alertmanager's webhook, keeps the last messages, shows them as a person would read them.

A message is acknowledged after it was written to disk, and only then is the monitor asked for words and texts. Only JSON is
taken, which no web page elsewhere can send here unasked.
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

from monitoring.inbox.evidence import fetch
from monitoring.inbox.messages import Box, Message, Webhook, overdue_s, standing
from monitoring.inbox.page import FILES, page
from pipeline.home import find_home
from pipeline.params import Alerts, load_params
from serving.processes.lifetime import require_free

MAX_BODY_BYTES = 4 * 2**20
BODY_WITHIN_S = 10.0
JUDGED = ("drift", "quality")  # areas of alerts that the monitor has words and texts for
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

log = structlog.get_logger()


class TooMuchError(Exception):
    """The body is longer than is taken."""


class Inbox:
    """The box, the monitor it asks, the clock."""

    def __init__(self, alerts: Alerts, home: Path, clock: Callable[[], float]) -> None:
        self.alerts, self.clock = alerts, clock
        self.box = Box(home / "inbox" / "messages.json", alerts)
        self.started_at = clock()
        self._lock = asyncio.Lock()
        self._asking: set[asyncio.Task[None]] = set()

    async def take(self, request: Request) -> Response:
        """Alertmanager's webhook. 503 makes it try again; what can never be taken is answered with 4xx."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return Response("send application/json", 415)
        try:
            webhook = Webhook.model_validate_json(await _body(request))
        except TooMuchError:
            return Response(f"at most {MAX_BODY_BYTES} bytes are taken", 413)
        except TimeoutError:
            return Response("the body did not come", 408)
        except ValidationError as error:
            log.warning("a body that is not Alertmanager's", error=str(error.errors(include_url=False)[0]))
            return Response("this is not Alertmanager's webhook", 422)
        try:
            async with self._lock:
                changed = await asyncio.to_thread(self.box.take, webhook, self.clock())
        except OSError as error:
            log.error("a message could not be kept", error=str(error))
            return Response("the message could not be kept; send it again", 503)
        self._ask([one for one in changed if one.evidence is None and one.labels.get("area") in JUDGED])
        return Response(status_code=204)

    def _ask(self, messages: list[Message]) -> None:
        """After the answer: what the monitor knows of each version."""
        by_version: dict[str | None, list[Message]] = {}
        for message in messages:
            by_version.setdefault(message.labels.get("version"), []).append(message)
        for version, group in by_version.items():
            task = asyncio.create_task(self._put_evidence(version, group))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _put_evidence(self, version: str | None, messages: list[Message]) -> None:
        url = f"http://{self.alerts.host}:{self.alerts.monitor_port}/report.json"
        evidence, problem = await asyncio.to_thread(fetch, url, version)
        try:
            async with self._lock:
                await asyncio.to_thread(self.box.put_evidence, messages, evidence, problem)
        except OSError as error:
            log.error("words and texts could not be kept", error=str(error))

    async def show(self, _request: Request) -> Response:
        """The page."""
        text = page(list(self.box.messages.values()), self.box.switch, self.started_at, self.clock(), self.alerts)
        return HTMLResponse(text, headers=HEADERS)

    async def state(self, _request: Request) -> Response:
        """The same for programs."""
        now, switch = self.clock(), self.box.switch
        messages = [
            {**message.model_dump(), "standing": standing(message, switch, now, self.alerts)}
            for message in self.box.messages.values()
        ]
        late_s = overdue_s(switch, self.started_at, now, self.alerts)
        return JSONResponse({"messages": messages, "switch": switch and switch.model_dump(), "overdue_s": late_s})


async def _body(request: Request) -> bytes:
    """The body; raises `TooMuchError` or `TimeoutError`."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise TooMuchError
    except ClientDisconnect:
        raise TimeoutError from None
    return bytes(body)


def create_app(alerts: Alerts, home: Path, clock: Callable[[], float]) -> Starlette:
    """The app on the messages in this home."""
    inbox = Inbox(alerts, home, clock)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    def file(name: str, kind: str) -> Route:
        async def send(_request: Request) -> Response:
            return FileResponse(FILES / name, media_type=kind, headers=HEADERS)

        return Route(f"/{name}", send)

    return Starlette(
        routes=[
            Route("/", inbox.show),
            Route("/alerts", inbox.take, methods=["POST"]),
            Route("/messages.json", inbox.state),
            Route("/healthz", healthz),
            file("inbox.css", "text/css"),
            file("inbox.js", "text/javascript"),
        ],
        # a page elsewhere whose name leads to loopback could read what stands here
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[alerts.host, "localhost", "127.0.0.1"])],
    )


def main() -> None:
    """`python -m monitoring.inbox`."""
    alerts, home = load_params().alerts, find_home()
    require_free(alerts.host, alerts.inbox_port)
    print(json.dumps({"event": "inbox", "url": f"http://{alerts.host}:{alerts.inbox_port}/"}), flush=True)
    uvicorn.run(
        create_app(alerts, home, time.time),
        host=alerts.host,
        port=alerts.inbox_port,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
