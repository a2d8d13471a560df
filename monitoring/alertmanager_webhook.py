"""The body that Alertmanager posts to a webhook, version 4. Each alert is read on its own: one that is wrong loses no other.

Alertmanager does not repeat a group after a 4xx, so a group is refused whole only when nothing in it can be read. An alert that
is too large is cut and marked, because it still fires. Unknown keys are ignored.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from pydantic import AwareDatetime, TypeAdapter, ValidationError

MAX_TEXTS, MAX_TEXT, MAX_CHARS = 64, 4_000, 16_000  # labels or annotations, characters of one, and of all together
MAX_BODY = 65_536  # characters of an alert as JSON; above it only the documented fields stay
FIRST_LABELS = ("alertname", "version", "severity", "area", "signal")  # what Evergreen reads is kept before all others
CUT = "evergreen_cut"  # the annotation that marks a cut alert
EARLIEST_S, LATEST_S = (datetime(*day, tzinfo=UTC).timestamp() for day in ((1, 1, 1), (9999, 12, 31)))
DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")  # without it, "5" would be a time
FINGERPRINT = re.compile(r"[!-~]{1,200}")
TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)


class WebhookAlert(NamedTuple):
    """One alert. Only its own status counts: a firing group may hold alerts that have ended."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str]  # with `CUT` when something was cut
    starts_at: float  # seconds of the epoch
    ends_at: float | None  # year 1 while the alert fires; None when it is missing or cannot be read
    fingerprint: str  # computed from the labels when it is missing
    body: str  # JSON in ASCII: the alert as it came, with unknown fields, or as it was cut


class Webhook(NamedTuple):
    """The body: one group of alerts."""

    alerts: list[WebhookAlert]
    unreadable: int  # alerts
    fault: str  # of the first of them
    truncated: int  # alerts that Alertmanager cut off


class WebhookError(Exception):
    """A body that is not Alertmanager's, or in which no alert can be read."""


def parse_webhook(body: bytes) -> Webhook:
    """Parse a body; raises `WebhookError` that names the first wrong field."""
    try:
        group = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WebhookError(f"not JSON: {error}"[:300]) from None
    if not isinstance(group, dict) or group.get("version") != "4":
        raise WebhookError("version: it has to be 4")
    posted, truncated = group.get("alerts"), group.get("truncatedAlerts", 0)
    if not isinstance(posted, list):
        raise WebhookError("alerts: they have to be a list")
    alerts, fault = [], ""
    for number, alert in enumerate(posted):
        try:
            alerts.append(_read_alert(alert))
        except (WebhookError, RecursionError) as error:
            fault = fault or f"alerts.{number}.{error}"
    if fault and not alerts:
        raise WebhookError(fault)
    return Webhook(alerts, len(posted) - len(alerts), fault, truncated if isinstance(truncated, int) and truncated > 0 else 0)


def _read_alert(posted: Any) -> WebhookAlert:
    if not isinstance(posted, dict):
        raise WebhookError("it has to be an object")
    status, starts_at = posted.get("status"), _seconds(posted.get("startsAt"))
    if status not in ("firing", "resolved"):
        raise WebhookError("status: it has to be firing or resolved")
    if starts_at is None:
        raise WebhookError("startsAt: it has to be a time with a time zone")
    labels, annotations = _texts(posted, "labels"), _texts(posted, "annotations")
    given = posted.get("fingerprint")
    fingerprint = given if isinstance(given, str) and FINGERPRINT.fullmatch(given) else _fingerprint(labels)
    body = json.dumps(posted)
    short = {"labels": _cut(labels), "annotations": _cut(annotations)}
    if short != {"labels": labels, "annotations": annotations} or len(body) > MAX_BODY:
        short["annotations"][CUT] = f"it was too large ({len(body):,} characters): texts are cut, or left out"
        times = {name: str(posted.get(name, ""))[:40] for name in ("startsAt", "endsAt")}
        body = json.dumps({"status": status, **short, **times, "fingerprint": fingerprint})
    return WebhookAlert(
        status, **short, starts_at=starts_at, ends_at=_seconds(posted.get("endsAt")), fingerprint=fingerprint, body=body
    )


def _texts(posted: dict[str, Any], field: str) -> dict[str, str]:
    """Return labels or annotations, without halves of surrogate pairs, which nothing can store."""
    texts = posted.get(field) or ({} if field == "annotations" else None)
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise WebhookError(f"{field}: they have to be an object of texts")
    return {_storable(name): _storable(value) for name, value in texts.items()}


def _cut(texts: Mapping[str, str]) -> dict[str, str]:
    """Return as many texts as fit, those that Evergreen reads first, each cut to what is left."""
    ordered = sorted(texts, key=lambda name: FIRST_LABELS.index(name) if name in FIRST_LABELS else len(FIRST_LABELS))
    kept: dict[str, str] = {}
    free = MAX_CHARS
    for name in ordered[:MAX_TEXTS]:
        value, allowed = texts[name], min(MAX_TEXT, free - len(name))
        if allowed > 0:
            kept[name] = value if len(value) <= allowed else f"{value[:allowed]}… [cut: {len(value):,} characters]"
            free -= len(name) + min(len(value), allowed)
    return {name: kept[name] for name in texts if name in kept}


def _seconds(value: Any) -> float | None:
    """Return an RFC 3339 time in seconds of the epoch, within the years that UTC has; None when it is no such time."""
    if not isinstance(value, str) or not DATE.match(value):
        return None
    try:
        return min(LATEST_S, max(EARLIEST_S, TIME.validate_python(value).timestamp()))
    except ValidationError:
        return None


def _fingerprint(labels: Mapping[str, str]) -> str:
    """Return a fingerprint for an alert without one, the same for the same labels."""
    return sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()[:16]


def _storable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
