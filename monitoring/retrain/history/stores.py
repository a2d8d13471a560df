"""The stores that explain what happened, opened for reading: state database, inbox, live folders. Who asks is not known here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from pipeline.params import Params
from serving.release.manifest import LINEAGE, model_name, repository
from serving.release.release_table import UNIQUE_ROLES
from state.database import read_state
from state.tables import alerts, decisions, metadata, releases

MOST_EPISODES = 20  # of one alert that are told
Row = dict[str, Any]


class Stores(NamedTuple):
    """Where the chain is read from. `rows` holds each table whole that is small; one that is not there is empty."""

    home: Path
    params: Params
    connection: sa.Connection | None
    tables: frozenset[str]

    def rows(self, query: sa.Select[Any], table: sa.Table) -> list[Row]:
        """Rows of a query; none where its table is not there yet."""
        if self.connection is None or table.name not in self.tables:
            return []
        return [dict(row._mapping) for row in self.connection.execute(query)]


@contextmanager
def stores(home: Path, params: Params) -> Iterator[Stores]:
    """The stores, for reading."""
    with read_state(home) as connection:
        yield Stores(home, params, connection, _readable(connection) if connection is not None else frozenset())


def _readable(connection: sa.Connection) -> frozenset[str]:
    """Return the names of the tables that have every column this code reads; an older schema lacks some."""
    present = sa.inspect(connection).get_multi_columns()
    names = {table: {column["name"] for column in columns} for (_, table), columns in present.items()}
    return frozenset(name for name, table in metadata.tables.items() if set(table.columns.keys()) <= names.get(name, set()))


def version_of(asked: str, at: Stores) -> int | None:
    """The version that a number, `v3`, `intent-3` or a role means, where it was published."""
    known = {row["version"]: row["role"] for row in at.rows(sa.select(releases), releases)}
    by_role = {role: version for version, role in known.items() if role in UNIQUE_ROLES}
    number = asked.removeprefix("intent-").removeprefix("v")
    found = by_role.get(asked, int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None)
    return found if found in known else None


def decisions_of(asked: str, at: Stores) -> list[Row]:
    """Decisions on alerts of this name or fingerprint, newest first."""
    named = (decisions.c.fingerprint == asked) | (decisions.c.alertname == asked)
    return at.rows(sa.select(decisions).where(named).order_by(decisions.c.id.desc()).limit(MOST_EPISODES), decisions)


def heard_of(told: list[Row], at: Stores) -> list[Row]:
    """The alerts table's rows of these episodes, oldest first."""
    if not told:
        return []
    same = [(alerts.c.fingerprint == one["fingerprint"]) & (alerts.c.starts_at == one["starts_at"]) for one in told]
    return at.rows(sa.select(alerts).where(sa.or_(*same)).order_by(alerts.c.id), alerts)


def messages_of(asked: str, at: Stores) -> list[Row]:
    """What the inbox kept of alerts of this name or fingerprint, newest first."""
    return [own for own in inbox(at.home) if asked in (own["fingerprint"], own["labels"].get("alertname"))][:MOST_EPISODES]


def inbox(home: Path) -> list[Row]:
    """The inbox's messages, newest first."""
    path = home / "inbox" / "messages.json"
    if not path.is_file():
        return []
    from monitoring.inbox.messages import Snapshot  # here and below: what one question in three needs must not slow the others

    try:
        kept = Snapshot.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return []
    return [message.model_dump() for message in sorted(kept.messages, key=lambda own: -own.starts_at)]


def logged(id: str, at: Stores) -> list[Row]:
    """The prediction log's rows of a prediction or a request."""
    from serving.prediction_log.search import find_predictions

    return find_predictions(log_of(at), id)


def log_of(at: Stores) -> str:
    """Where the prediction log lies."""
    from serving.prediction_log.writer import log_url

    return log_url(at.params.log, at.home)


def kinds(at: Stores) -> str:
    """What kinds of ids there are, with one of each that is there now."""
    newest = [row["version"] for row in at.rows(sa.select(releases).order_by(releases.c.version.desc()).limit(1), releases)]
    asked = at.rows(sa.select(decisions).order_by(decisions.c.id.desc()).limit(1), decisions)
    heard = [{"alertname": own["labels"].get("alertname", ""), **own} for own in inbox(at.home)[:1]]
    alert = [f"{own['alertname']} {own['fingerprint']}" for own in asked or heard]
    return "\n    ".join(
        [
            "give one of these:",
            f"a version: a number, or champion, challenger, previous (newest: {newest[0] if newest else 'none yet'})",
            f"an alert: its name or its fingerprint (last heard: {alert[0] if alert else 'none yet'})",
            "a prediction: the `id` of an answer, or its request: the header x-request-id;",
            f"  both stand in the prediction log: {log_of(at)}",
        ]
    )


def lineage_of(version: int, home: Path) -> tuple[Row, Path | None]:
    """lineage.json of a version and its folder, live or parked; nothing where it has gone."""
    for folder in (repository(home) / model_name(version), home / "parked" / model_name(version)):
        try:
            return json.loads((folder / LINEAGE).read_text(encoding="utf-8")), folder
        except (OSError, ValueError):
            continue
    return {}, None


def role_of(version: int, at: Stores) -> str:
    """What the release table says of a version."""
    found = at.rows(sa.select(releases.c.role).where(releases.c.version == version), releases)
    return str(found[0]["role"]) if found else "not in the release table"


def moment(seconds: float) -> str:
    """A moment for people, UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
