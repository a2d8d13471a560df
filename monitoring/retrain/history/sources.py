"""The read-only sources of lineage and replay: state database, inbox, prediction log, live folders."""

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

MAX_EPISODES = 20  # of one alert
Row = dict[str, Any]


class Sources(NamedTuple):
    """Open sources. `tables` names the tables that this code can read."""

    home: Path
    params: Params
    connection: sa.Connection | None
    tables: frozenset[str]

    def rows(self, query: sa.Select[Any], *tables: sa.Table) -> list[Row]:
        """Return the rows of a query; none where one of its tables is missing or older than this code."""
        if self.connection is None or not self.tables.issuperset(table.name for table in tables):
            return []
        return [dict(row._mapping) for row in self.connection.execute(query)]

    @property
    def unread(self) -> list[str]:
        """Return the names of the tables that the database lacks, or has in an older form than this code reads."""
        return [] if self.connection is None else sorted(metadata.tables.keys() - self.tables)


@contextmanager
def open_sources(home: Path, params: Params) -> Iterator[Sources]:
    """Open the sources for reading."""
    with read_state(home) as connection:
        yield Sources(home, params, connection, _readable(connection) if connection is not None else frozenset())


def _readable(connection: sa.Connection) -> frozenset[str]:
    """Return the names of the tables that have every column this code reads; an older schema lacks some."""
    present = sa.inspect(connection).get_multi_columns()
    names = {table: {column["name"] for column in columns} for (_, table), columns in present.items()}
    return frozenset(name for name, table in metadata.tables.items() if set(table.columns.keys()) <= names.get(name, set()))


def find_version(name: str, sources: Sources) -> int | None:
    """Return the published version that a number, `v3`, `intent-3` or a role names."""
    roles = {row["version"]: row["role"] for row in sources.rows(sa.select(releases), releases)}
    by_role = {role: version for version, role in roles.items() if role in UNIQUE_ROLES}
    number = name.removeprefix("intent-").removeprefix("v")
    version = by_role.get(name, int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None)
    return version if version in roles else None


def find_decisions(name: str, sources: Sources) -> list[Row]:
    """Return the decisions on alerts with this name or fingerprint, newest first."""
    matches = (decisions.c.fingerprint == name) | (decisions.c.alertname == name)
    return sources.rows(sa.select(decisions).where(matches).order_by(decisions.c.id.desc()).limit(MAX_EPISODES), decisions)


def find_alerts(episodes: list[Row], sources: Sources) -> list[Row]:
    """Return the received alerts of these decisions' episodes, oldest first."""
    if not episodes:
        return []
    same = [(alerts.c.fingerprint == row["fingerprint"]) & (alerts.c.starts_at == row["starts_at"]) for row in episodes]
    return sources.rows(sa.select(alerts).where(sa.or_(*same)).order_by(alerts.c.id), alerts)


def find_messages(name: str, sources: Sources) -> list[Row]:
    """Return the inbox's messages on alerts with this name or fingerprint, newest first."""
    messages = read_inbox(sources.home)
    return [row for row in messages if name in (row["fingerprint"], row["labels"].get("alertname"))][:MAX_EPISODES]


def read_inbox(home: Path) -> list[Row]:
    """Return the inbox's messages, newest first."""
    from monitoring.inbox.messages import read_snapshot  # here and below: imports that few questions need, and that slow the rest

    snapshot = read_snapshot(home / "inbox" / "messages.json")
    return [message.model_dump() for message in sorted(snapshot.messages, key=lambda message: -message.starts_at)]


def find_logged(id: str, sources: Sources) -> list[Row]:
    """Return the logged predictions with this id of a prediction, request or job."""
    from serving.prediction_log.search import find_predictions

    return find_predictions(prediction_log_url(sources), id)


def prediction_log_url(sources: Sources) -> str:
    """Return the URL of the prediction log."""
    from serving.prediction_log.writer import log_url

    return log_url(sources.params.log, sources.home)


def describe_ids(sources: Sources) -> str:
    """Describe the kinds of ids, with the newest example of each."""
    versions = sources.rows(sa.select(releases).order_by(releases.c.version.desc()).limit(1), releases)
    decided = sources.rows(sa.select(decisions).order_by(decisions.c.id.desc()).limit(1), decisions)
    messages = [{"alertname": row["labels"].get("alertname", ""), **row} for row in read_inbox(sources.home)[:1]]
    last_alerts = [f"{row['alertname']} {row['fingerprint']}" for row in decided or messages]
    newest = versions[0]["version"] if versions else "none yet"
    return "\n    ".join(
        [
            "give one of these:",
            f"a version: a number, or champion, challenger, previous (newest: {newest})",
            f"an alert: its name or its fingerprint (last received: {last_alerts[0] if last_alerts else 'none yet'})",
            "a prediction: its `id`, or the header x-request-id of its answer, or the id of its job;",
            f"  all are in the prediction log, from {sources.params.log.flush_s:g} s after the answer until it is deleted:",
            f"  {prediction_log_url(sources)}",
        ]
    )


def read_lineage(version: int, home: Path) -> tuple[Row, Path | None]:
    """Return a version's lineage.json and its folder, live or parked; ({}, None) when it is gone."""
    for folder in (repository(home) / model_name(version), home / "parked" / model_name(version)):
        try:
            return json.loads((folder / LINEAGE).read_text(encoding="utf-8")), folder
        except (OSError, ValueError):
            continue
    return {}, None


def find_role(version: int, sources: Sources) -> str:
    """Return a version's role by the release table."""
    rows = sources.rows(sa.select(releases.c.role).where(releases.c.version == version), releases)
    return str(rows[0]["role"]) if rows else "not in the release table"


def format_time(seconds: float) -> str:
    """Format seconds of the epoch for people, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
