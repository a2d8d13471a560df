"""Alerts: read from a webhook, inserted once each, and turned into the decision rows of their episodes."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.alertmanager_webhook import Webhook
from monitoring.clock import Moment
from state.tables import alerts

MAX_TEXT = 4000


class ReceivedAlert(NamedTuple):
    """One alert of a webhook."""

    fingerprint: str
    starts_at: float  # seconds of the epoch
    status: Literal["firing", "resolved"]
    body: str  # JSON, ASCII


def received_alerts(webhook: Webhook) -> list[ReceivedAlert]:
    """Return the alerts of a webhook as the journal stores them."""
    return [ReceivedAlert(alert.fingerprint, alert.starts_at, alert.status, alert.body) for alert in webhook.alerts]


def insert_alerts(connection: sa.Connection, received: Sequence[ReceivedAlert], now_s: float) -> int:
    """Insert alerts and return how many were new; a row that exists stays unchanged."""
    rows = [{**alert._asdict(), "received_at": now_s} for alert in received]
    inserted = connection.execute(insert_or_ignore(connection, alerts), rows)
    return len(inserted.all())


def count_unseen(connection: sa.Connection) -> int:
    """Return the number of alerts the controller has not seen yet."""
    counted = sa.select(sa.func.count()).select_from(alerts).where(alerts.c.decision_id.is_(None))
    return int(connection.execute(counted).scalar_one())


def decision_row(row: sa.Row[*tuple[Any, ...]], now: Moment) -> dict[str, Any]:
    """Return an alert's new row of `decisions`: waiting, without a reason yet. Labels may hold any JSON value."""
    labels = json.loads(row.body).get("labels", {})
    return {
        "fingerprint": row.fingerprint,
        "starts_at": row.starts_at,
        "alertname": storable(str(labels.get("alertname", "")))[:200],
        "version": _version(labels.get("version")),
        "is_over": False,
        "verdict": "waiting",
        "reason": "",
        "at": now.wall,
        "facts": "{}",
        "received_wall": now.wall,
        "received_mono": now.mono,
        "received_boot": now.boot,
    }


def _version(label: object) -> int | None:
    """Return the version in a label, or 0, which no version has, for a label that is not a version number."""
    if label is None:
        return None
    text = str(label)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def insert_or_ignore(connection: sa.Connection, table: sa.Table) -> Any:
    """Return this database's insert that skips rows which exist; it returns the ids of the new ones."""
    return _insert_or_ignore(connection.dialect.name, table)


@cache
def _insert_or_ignore(dialect: str, table: sa.Table) -> Any:
    kind = postgresql if dialect == "postgresql" else sqlite
    return kind.insert(table).on_conflict_do_nothing().returning(table.c.id)


def storable(text: str) -> str:
    """Return the text without NUL and lone surrogates, which PostgreSQL cannot store."""
    return text[:MAX_TEXT].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
