"""Alerts as a webhook brought them: how they are entered, once each, and what an episode begins as."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.retrain.clock import Moment
from state.tables import alerts

MOST_TEXT = 4000


class Heard(NamedTuple):
    """An alert as a webhook brought it."""

    fingerprint: str
    starts_at: float  # seconds of the epoch
    status: Literal["firing", "resolved"]
    body: str  # JSON, ASCII


def enter(connection: sa.Connection, heard: Sequence[Heard], now_s: float) -> int:
    """Enter alerts as they were heard; how many were new. One that is there already stays as it is."""
    rows = [{**one._asdict(), "received_at": now_s} for one in heard]
    done = connection.execute(insert_new(connection, alerts), rows)
    return len(done.all())


def unseen(connection: sa.Connection) -> int:
    """How many alerts the controller has not seen yet."""
    counted = sa.select(sa.func.count()).select_from(alerts).where(alerts.c.decision_id.is_(None))
    return int(connection.execute(counted).scalar_one())


def new_episode(row: sa.Row[*tuple[Any, ...]], now: Moment) -> dict[str, Any]:
    """A new row of decisions: it waits, for no reason yet. Labels are data, of whatever kind the sender liked."""
    labels = json.loads(row.body).get("labels", {})
    received = {"received_wall": now.wall, "received_mono": now.mono, "received_boot": now.boot}
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
        **received,
    }


def _version(label: object) -> int | None:
    """The version a label names; 0, which no version is, for one that cannot be."""
    if label is None:
        return None
    text = str(label)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def insert_new(connection: sa.Connection, table: sa.Table) -> Any:
    """The insert, in the words of this database, that leaves alone what is there; it returns the ids of what was not."""
    return _insert_new(connection.dialect.name, table)


@cache
def _insert_new(dialect: str, table: sa.Table) -> Any:
    kind = postgresql if dialect == "postgresql" else sqlite
    return kind.insert(table).on_conflict_do_nothing().returning(table.c.id)


def storable(text: str) -> str:
    """The text without what PostgreSQL cannot keep: NUL and lone surrogates."""
    return text[:MOST_TEXT].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
