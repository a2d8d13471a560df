"""The relay: sends a webhook of Alertmanager on to a channel whose URL is a secret, and answers with what became of it.

A status below 500 is final for Alertmanager; it repeats a message after a 5xx. So a webhook's own refusal keeps its status, and
429 and a webhook that cannot be reached become 502.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry, Counter

from monitoring.alert_rules.alertmanager import TEST_ALERT, inbox_page
from monitoring.alertmanager_webhook import Webhook
from monitoring.channels.settings import RELAYED, Channel, find_channel, secret_file
from monitoring.inbox.incidents import cards_of
from monitoring.inbox.messages import apply_webhook
from monitoring.inbox.teams_card import teams_message
from pipeline.errors import InputError
from pipeline.params import Alerts

WAIT_S = 10.0
MAX_READ, MAX_ANSWER = 16_384, 300  # bytes of a refusal that are read, and characters that are passed on
LEAST_SECRET = 6  # characters of a part of the URL that no message quotes
BUSY = 429
MISDIRECTED = 421  # a redirect is no answer of a webhook


class Relayed(NamedTuple):
    """What became of a message: the status for Alertmanager, its text, and delivered, refused or unreached."""

    status: int
    text: str
    outcome: str


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A message goes to the host that its owner has named and to no other."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Leave the redirect as the answer."""


def relay_counter(registry: CollectorRegistry) -> Callable[[str, str], None]:
    """Return a function that counts a message to a channel that is set up, with its outcome."""
    relayed = Counter("evergreen_relayed", "Messages sent on to a webhook", ["channel", "outcome"], registry=registry)
    return lambda channel, outcome: relayed.labels(channel, outcome).inc()


def relay(folder: Path, name: str, body: bytes, webhook: Webhook, alerts: Alerts) -> Relayed:
    """Send a webhook to the channel of this name in `alerts/` of a home."""
    try:
        channel = find_channel(folder, name)
        if channel.kind not in RELAYED:
            raise InputError(f"channel {name}", "Alertmanager sends its messages itself", "")
        url = secret_file(folder, channel).read_text(encoding="utf-8")
    except (InputError, OSError) as error:
        what = error.what if isinstance(error, InputError) else f"its URL cannot be read: {error.strerror}"
        return Relayed(404, f"{name}: {what}", "refused")
    return post(url, body if channel.kind == "webhook" else teams_body(webhook, alerts, time.time()), channel)


def teams_body(webhook: Webhook, alerts: Alerts, now: float) -> bytes:
    """Return the alerts of a webhook as a message for Teams."""
    messages = apply_webhook(webhook, {}, None, now, alerts).messages
    is_test = any(message.labels.get("alertname") == TEST_ALERT for message in messages)
    cards = cards_of(messages, None, now, alerts, lambda version, since, until: None)
    return json.dumps(teams_message(cards, inbox_page(alerts), is_test=is_test)).encode()


def post(url: str, body: bytes, channel: Channel) -> Relayed:
    """Post a body; no text that this returns holds the URL."""
    headers = {"content-type": "application/json", "user-agent": "evergreen"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 (http or https, checked when it was stored)
    try:
        with urllib.request.build_opener(NoRedirects).open(request, timeout=WAIT_S) as response:
            return Relayed(204, f"{channel.shown} answered HTTP {response.status}", "delivered")
    except urllib.error.HTTPError as error:
        with error:
            said = without_url(error.read(MAX_READ).decode("utf-8", "replace"), url).strip()[:MAX_ANSWER]
        text = f"{channel.shown} answered HTTP {error.code}{f': {said}' if said else ''}"
        return Relayed(_passed_on(error.code), text, "refused")
    except (OSError, HTTPException) as error:
        reason = str(getattr(error, "reason", error) or type(error).__name__)
        return Relayed(502, f"{channel.shown} was not reached: {without_url(reason, url)}", "unreached")


def without_url(text: str, url: str) -> str:
    """Return a text without the parts of a secret URL: a server that refuses a message often quotes the path."""
    parts = urlsplit(url)
    pieces = {url, f"{parts.path}?{parts.query}", parts.path, parts.query, *re.split(r"[/&=]", f"{parts.path}/{parts.query}")}
    pieces |= {unquote(piece) for piece in pieces}
    for piece in sorted(pieces, key=len, reverse=True):
        text = text.replace(piece, "…") if len(piece) >= LEAST_SECRET else text
    return text


def _passed_on(status: int) -> int:
    """Return the status for Alertmanager: 502 where another attempt can help."""
    if status < 400:
        return MISDIRECTED
    return 502 if status >= 500 or status == BUSY else status
