"""The local inbox: receives Alertmanager's webhook, stores the newest messages and shows them on a page.

A webhook is acknowledged once it is on disk; the monitor's explanation is fetched after that.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from monitoring.alert_rules.alertmanager import RELAY_TOKEN
from monitoring.alertmanager_webhook import Webhook, WebhookError, parse_webhook
from monitoring.bearer_file import BearerToken, ensure_token
from monitoring.channels.settings import read_channels
from monitoring.clock import read_clock
from monitoring.decisions import Decided, describe_retraining, read_decision
from monitoring.inbox.explanation import fetch_explanation
from monitoring.inbox.incidents import Card, cards_of
from monitoring.inbox.messages import Message, MessageStore, Switch, overdue_s, status_of
from monitoring.inbox.page import render_page
from monitoring.inbox.relay import relay, relay_counter
from monitoring.inbox.release_story import read_story
from monitoring.pages.metrics import PageMetrics
from monitoring.pages.navigation import Link, service_links
from monitoring.pages.rendering import HEADERS
from monitoring.pages.routes import service_routes
from pipeline.home import find_home
from pipeline.output.plain_text import print_line
from pipeline.params import Alerts, Http, load_params
from serving.processes.addresses import base_url, listen_host, reach_host
from serving.processes.http_body import BodyError, read_body
from serving.processes.http_guard import HttpGuard
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json
from state.database import read_state

MAX_BODY_BYTES = 4 * 2**20
EXPLAINED_AREAS = ("drift", "quality")  # the monitor has words and texts for these alerts

T = TypeVar("T")
log = structlog.get_logger()


class Received(NamedTuple):
    """A webhook: its bytes, and the alerts in it."""

    body: bytes
    webhook: Webhook


class Inbox:
    """The HTTP handlers over one message store."""

    def __init__(
        self,
        alerts: Alerts,
        body_within_s: float,
        home: Path,
        clock: Callable[[], float],
        metrics: PageMetrics,
        *,
        is_on_request: bool,
        find_links: Callable[[], Sequence[Link]],
    ) -> None:
        self._find_links = find_links
        self.alerts, self.body_within_s, self.home, self.clock = alerts, body_within_s, home, clock
        self._count_refusal, self._count_relayed = metrics.count_refusal, relay_counter(metrics.registry)
        self._token = BearerToken(ensure_token(home / "alerts" / RELAY_TOKEN))
        self.retraining = describe_retraining(alerts, is_on_request=is_on_request)
        self.store = MessageStore(home / "inbox" / "messages.json", alerts)
        self.started_at = self._explained_at = clock()
        self._lock = asyncio.Lock()
        self._fetches: set[asyncio.Task[None]] = set()

    async def alerts_webhook(self, request: Request) -> Response:
        """Store a webhook: 204 when it is on disk, 503 when Alertmanager should retry, 4xx when a retry cannot help."""
        received = await self._read(request)
        if isinstance(received, Response):
            return received
        try:
            async with self._lock:
                messages = await asyncio.to_thread(self.store.receive, received.webhook, self.clock())
        except OSError as error:
            self._count_refusal("store")
            log.error("could not store a message", error=str(error))
            return Response("the message could not be stored; send it again", 503)
        self._explain(messages)
        return Response(status_code=204)

    async def relay_webhook(self, request: Request) -> Response:
        """Send a webhook on to a channel, and answer with what became of it."""
        if not self._token.is_in(request.headers.get("authorization", "")):
            self._count_refusal("token")
            return Response("send the token of alerts/relay.token: Authorization: Bearer …", 401)
        received = await self._read(request)
        if isinstance(received, Response):
            return received
        name, folder = request.path_params["name"], self.home / "alerts"
        if name not in {channel.name for channel in await asyncio.to_thread(read_channels, folder)}:
            return Response(f"there is no channel {name[:31]}", 404)
        sent = await asyncio.to_thread(relay, folder, name, received.body, received.webhook, self.alerts)
        self._count_relayed(name, sent.outcome)
        if sent.outcome != "delivered":
            log.warning("a message was not delivered", channel=name, reason=sent.text)
        return Response(sent.text if sent.status != 204 else None, sent.status)

    async def _read(self, request: Request) -> "Received | Response":
        """Return the body and what is in it, or the answer that refuses it."""
        try:
            body = await read_body(request.scope, request.receive, max_bytes=MAX_BODY_BYTES, within_s=self.body_within_s)
            webhook = parse_webhook(body)
        except BodyError as error:
            self._count_refusal(error.code)
            return Response(str(error), error.status)
        except WebhookError as error:
            self._count_refusal("body")
            log.warning("refused a body that is not Alertmanager's webhook", error=str(error))
            return Response("this is not Alertmanager's webhook", 422)
        if webhook.unreadable:
            self._count_refusal("alert")
            log.warning("left out alerts that cannot be read", alerts=webhook.unreadable, first=webhook.fault)
        return Received(body, webhook)

    def _explain(self, messages: Iterable[Message]) -> None:
        """Fetch one explanation per version in the background, for alerts that have not ended."""
        by_version: dict[str | None, list[Message]] = {}
        for message in messages:
            if message.labels.get("area") in EXPLAINED_AREAS and message.ends_at is None:
                by_version.setdefault(message.labels.get("version"), []).append(message)
        for version, group in by_version.items():
            self._explained_at = self.clock()
            task = asyncio.create_task(self._add_explanation(version, group))
            self._fetches.add(task)
            task.add_done_callback(self._fetches.discard)

    async def _add_explanation(self, version: str | None, messages: list[Message]) -> None:
        url = f"{base_url(reach_host('monitor', self.alerts.host), self.alerts.monitor_port)}/report.json"
        explanation, error = await asyncio.to_thread(fetch_explanation, url, version)
        try:
            async with self._lock:
                await asyncio.to_thread(self.store.add_explanation, messages, explanation, error)
        except OSError as failure:
            log.error("could not store an explanation", error=str(failure))

    async def index(self, _request: Request) -> Response:
        """Return the page."""
        now = self.clock()
        cards = await self._cards(now)
        links = await asyncio.to_thread(self._find_links)
        text = render_page(cards, self.store.switch, self.started_at, now, self.alerts, self.retraining, links)
        return HTMLResponse(text, headers=HEADERS)

    async def _cards(self, now: float) -> list[Card]:
        """Return the cards with what was decided by now; fetch newer explanations if the last ones are old."""
        messages = list(self.store.messages.values())
        if now - self._explained_at >= self.alerts.evaluate_s:
            self._explain(messages)
        with_decisions = partial(_cards_with_decisions, messages, self.store.switch, now, self.alerts, self.home)
        return await asyncio.to_thread(with_decisions)

    async def messages_json(self, _request: Request) -> Response:
        """Return the incidents, and the messages with their status, for programs."""
        now, switch = self.clock(), self.store.switch
        messages = [
            {**message.model_dump(), "standing": status_of(message, switch, now, self.alerts)}
            for message in self.store.messages.values()
        ]
        late_s = overdue_s(switch, self.started_at, now, self.alerts)
        incidents = [card_as_json(card) for card in await self._cards(now)]
        return JSONResponse(
            {"incidents": incidents, "messages": messages, "switch": switch and switch.model_dump(), "overdue_s": late_s}
        )


def card_as_json(card: Card) -> dict[str, object]:
    """Return a card for programs."""
    return card._asdict() | {"lines": [line._asdict() for line in card.lines]}


def _cards_with_decisions(messages: list[Message], switch: Switch | None, now: float, alerts: Alerts, home: Path) -> list[Card]:
    """Return the cards; without a readable database they say what the alerts said about decisions."""
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(read_state(home))
        except sa.exc.SQLAlchemyError as error:
            log.warning("could not open the state database", error=str(error)[:300])
            connection = None

        moment = read_clock()._replace(wall=now)

        def find(version: str, since: float, until: float) -> Decided | None:
            return _of_version(connection, version, lambda c, number: read_decision(c, number, since, until, moment))

        return cards_of(messages, switch, now, alerts, find, lambda version: _of_version(connection, version, read_story))


def _of_version(connection: sa.Connection | None, version: str, read: Callable[[sa.Connection, int], T | None]) -> T | None:
    """Read what the database knows of the version that an alert names; None where it names none, or nothing can be read."""
    if connection is None or not (version.isascii() and version.isdigit() and len(version) < 10):
        return None
    try:
        return read(connection, int(version))
    except sa.exc.SQLAlchemyError as error:
        log.warning("could not read what is known of a version", version=version, error=str(error)[:300])
        return None


def create_app(
    alerts: Alerts,
    http: Http,
    home: Path,
    clock: Callable[[], float],
    metrics: PageMetrics,
    *,
    is_on_request: bool = False,
    find_links: Callable[[], Sequence[Link]] = tuple,
) -> Starlette:
    """Build the app over the messages in this home.

    `is_on_request` says that no alert starts a retrain; `find_links` returns the links to other pages.
    """
    inbox = Inbox(
        alerts,
        http.body_within_s,
        home,
        clock,
        metrics,
        is_on_request=is_on_request,
        find_links=find_links,
    )
    return Starlette(
        routes=[
            Route("/", inbox.index),
            Route("/alerts", inbox.alerts_webhook, methods=["POST"]),
            Route("/relay/{name}", inbox.relay_webhook, methods=["POST"]),
            Route("/messages.json", inbox.messages_json),
            *service_routes(metrics, "inbox", home),
        ],
        middleware=[Middleware(HttpGuard, http, listen_host("inbox", alerts.host), metrics.count_refusal)],
    )


def main() -> None:
    """Serve the inbox until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.inbox", description=__doc__)
    parser.add_argument("--on-request", action="store_true", help="the page says that no alert starts a retrain")
    is_on_request = parser.parse_args().on_request
    log_in_json()
    params, home = load_params(), find_home()
    alerts, host = params.alerts, listen_host("inbox", params.alerts.host)
    print_line(json.dumps({"event": "inbox", "url": f"{base_url(host, alerts.inbox_port)}/"}))
    metrics = PageMetrics()
    find_links = partial(service_links, params, home, current="Inbox")
    app = create_app(alerts, params.http, home, time.time, metrics, is_on_request=is_on_request, find_links=find_links)
    run_http_service(app, host, alerts.inbox_port, params.http, refused=metrics.count_refusal)
