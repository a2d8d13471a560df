"""The state database: releases, routing, jobs, feedback, what is watched. SQLAlchemy Core; SQLite by default, PostgreSQL by URL.

The release table is the truth; registry aliases and routing are projections of it. Times of jobs are seconds of the epoch.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

import sqlalchemy as sa
from filelock import FileLock

from serving.retrain_tables import metadata

Role = Literal["champion", "challenger", "previous", "retired"]
MIGRATING = 0x45564752  # the number of our advisory lock: EVGR
UNIQUE_ROLES: tuple[Role, ...] = ("champion", "challenger", "previous")

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content_digest", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index(
        "one_version_a_role",
        "role",
        unique=True,
        sqlite_where=sa.text("role != 'retired'"),
        postgresql_where=sa.text("role != 'retired'"),
    ),
)
routing = sa.Table(
    "routing",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),  # one row
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every change of releases or routing
    sa.Column("challenger_weight", sa.Float, nullable=False),  # share of units that the challenger answers
    sa.Column("shadow_share", sa.Float, nullable=False),  # share of texts copied to the challenger, answers thrown away
    sa.Column("salt", sa.String(32), nullable=False),  # new with every challenger, so that not the same units go first each time
)
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("idempotency_key", sa.String(200), unique=True),
    sa.Column("payload", sa.Text, nullable=False),  # JSON
    sa.Column("payload_digest", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # queued, running, done, failed
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Float, nullable=False),  # queued: not before; running: the lease's end; else when it ended
    sa.Column("owner", sa.String(64)),
    sa.Column("fence", sa.Integer, nullable=False),  # grows with every claim; a stale owner's number is refused
    sa.Column("result", sa.Text),  # JSON
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("callback_url", sa.Text),
    sa.Column("callback_status", sa.String(16), nullable=False),  # none, pending, sending, delivered, given_up
    sa.Column("callback_attempts", sa.Integer, nullable=False),
    sa.Column("callback_due_at", sa.Float, nullable=False),  # pending: not before; sending: the lease's end
    sa.Index("jobs_due", "status", "due_at"),
    sa.Index("callbacks_due", "callback_status", "callback_due_at"),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("prediction_id", sa.String(64), nullable=False),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),  # label: in the champion's schema; proposal: not
    sa.Column("source", sa.String(64), nullable=False),  # who says so
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    sa.UniqueConstraint("prediction_id", "source", "label", name="one_opinion_once"),
)
monitor = sa.Table(
    "monitor",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),  # one row
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every write; who has read another one may not write
    sa.Column("cursor", sa.Text, nullable=False),  # JSON: how far the prediction log has been read
    sa.Column("watched", sa.LargeBinary),  # evidence and open window of the watched version, after exactly that far
)
windows = sa.Table(
    "windows",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # from 1, in a version
    sa.Column("began_at", sa.Float, nullable=False),  # seconds of the epoch: its first and last row
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("foreign_share", sa.Float),
    sa.Column("accuracy_estimate", sa.Float),
    sa.Column("accuracy_lower", sa.Float),
    sa.Column("accuracy_upper", sa.Float),
    sa.Column("told", sa.Text, nullable=False),  # JSON: words and texts, where it alarmed
)
signals = sa.Table(
    "signals",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # of the window
    sa.Column("signal", sa.String(32), primary_key=True),
    sa.Column("value", sa.Float),
    sa.Column("threshold", sa.Float),  # null: no value reaches it
    sa.Column("p", sa.Float),
    sa.Column("effect", sa.Float),
    sa.Column("log_e", sa.Float, nullable=False),  # the highest within the window
    sa.Column("log_threshold", sa.Float, nullable=False),
    sa.Column("alarm", sa.String(8), nullable=False),  # none, window, stream, both
)
answers = sa.Table(
    "answers",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),  # the prediction's
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("label", sa.String(200), nullable=False),  # what was said
)
judgements = sa.Table(
    "judgements",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # in the order in which the monitor heard of them
    sa.Column("prediction_id", sa.String(64), nullable=False, unique=True),  # the first opinion counts
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("correct", sa.Boolean, nullable=False),
    sa.Index("judgements_of_version", "version", "number"),
)

# Statements that are asked for all the time, put together once.
_RELEASE = sa.select(releases.c.version, releases.c.content_digest, releases.c.role)
_RELEASE_BY = {name: _RELEASE.where(releases.c[name] == sa.bindparam("value")) for name in ("role", "content_digest", "version")}
_IN_ROLES = _RELEASE.where(releases.c.role.in_(UNIQUE_ROLES))
_CHANGE_ROLE = releases.update().where(releases.c.role == sa.bindparam("before")).values(role=sa.bindparam("after"))
_GIVE_ROLE = releases.update().where(releases.c.version == sa.bindparam("which")).values(role=sa.bindparam("after"))
_CHANGE_ROUTING = routing.update().values(revision=routing.c.revision + 1)


class Release(NamedTuple):
    """One published version."""

    version: int
    content_digest: str
    role: Role


def state_url(home: Path) -> str:
    """`EVERGREEN_STATE_URL`, or what the file of `EVERGREEN_STATE_URL_FILE` holds; by default SQLite in the home of state."""
    if path := os.environ.get("EVERGREEN_STATE_URL_FILE"):
        return Path(path).read_text(encoding="utf-8").strip()
    return os.environ.get("EVERGREEN_STATE_URL", f"sqlite:///{home / 'state.db'}")


@contextmanager
def open_state(home: Path) -> Iterator[sa.Engine]:
    """An engine on an up-to-date schema; migrating is done by one process at a time."""
    url = sa.make_url(state_url(home))
    is_file = url.get_backend_name() == "sqlite"
    engine = sa.create_engine(url, connect_args={"timeout": 30} if is_file else {}, pool_pre_ping=not is_file)
    if is_file:
        sa.event.listen(engine, "connect", _use_wal)
        sa.event.listen(engine, "begin", _take_write_lock)
    try:
        with FileLock(home / "state.lock") if is_file else nullcontext():
            migrate(engine)
        yield engine
    finally:
        engine.dispose()


@contextmanager
def read_state(home: Path) -> Iterator[sa.Connection | None]:
    """A connection that can only read, on whatever schema is there; None where there is no database yet. Nothing is migrated."""
    url = sa.make_url(state_url(home))
    if url.get_backend_name() == "sqlite":
        if not url.database or not Path(url.database).is_file():
            yield None
            return
        url = url.set(database=f"file:{quote(url.database)}", query={"mode": "ro", "uri": "true"})
        engine = sa.create_engine(url, connect_args={"timeout": 30})
    else:
        engine = sa.create_engine(url, execution_options={"postgresql_readonly": True})
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to the newest revision."""
    from alembic import command  # takes longer to import than a command that only reads takes altogether
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # there a file's lock would not hold off other hosts
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATING)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def find_release(
    connection: sa.Connection, *, role: Role | None = None, digest: str | None = None, version: int | None = None
) -> Release | None:
    """The release with this role, this content or this number, if there is one."""
    column, value = next(
        (column, value)
        for column, value in (("role", role), ("content_digest", digest), ("version", version))
        if value is not None
    )
    row = connection.execute(_RELEASE_BY[column], {"value": value}).one_or_none()
    return Release(*row) if row else None


def add_release(connection: sa.Connection, version: int, digest: str) -> Release:
    """Enter a version: champion when there is none, else challenger in place of the last; one already there stays as it is."""
    _hold_releases(connection)
    known = find_release(connection, digest=digest)
    if known:
        return known
    role: Role = "challenger" if find_release(connection, role="champion") else "champion"
    if role == "challenger":
        connection.execute(_CHANGE_ROLE, {"before": role, "after": "retired"})
    new = {"version": version, "content_digest": digest, "role": role, "published_at": datetime.now(UTC)}
    connection.execute(releases.insert(), new)
    _all_to_champion(connection)
    return Release(version, digest, role)


def promote(connection: sa.Connection, version: int) -> None:
    """This version becomes champion, the champion previous, the previous one retired; all traffic goes to the champion."""
    _hold_releases(connection)
    champion = find_release(connection, role="champion")
    if champion and champion.version == version:
        return
    connection.execute(_CHANGE_ROLE, {"before": "previous", "after": "retired"})
    connection.execute(_GIVE_ROLE, {"which": version, "after": "retired"})  # one version a role, at every moment
    connection.execute(_CHANGE_ROLE, {"before": "champion", "after": "previous"})
    connection.execute(_GIVE_ROLE, {"which": version, "after": "champion"})
    _all_to_champion(connection)


def versions(connection: sa.Connection) -> dict[int, Role]:
    """Every version and its role, newest first."""
    rows = connection.execute(sa.select(releases.c.version, releases.c.role).order_by(releases.c.version.desc()))
    return {row.version: row.role for row in rows}


def roles(connection: sa.Connection) -> dict[Role, int]:
    """Version by role, for the roles that only one version can have."""
    return {row.role: row.version for row in connection.execute(_IN_ROLES)}


def _hold_releases(connection: sa.Connection) -> None:
    """What is read of the releases must not change before it is written; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE releases IN SHARE ROW EXCLUSIVE MODE")


def _all_to_champion(connection: sa.Connection) -> None:
    """The releases have changed: no share for the challenger, and a new salt."""
    changed = {"challenger_weight": 0.0, "shadow_share": 0.0, "salt": secrets.token_hex(8)}
    connection.execute(_CHANGE_ROUTING, changed)


def _use_wal(connection: object, _record: object) -> None:
    """Readers and the writer of an SQLite file do not wait for each other."""
    connection.isolation_level = None  # type: ignore[attr-defined]  # the driver's own connection; we begin transactions ourselves
    connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[attr-defined]


def _take_write_lock(connection: sa.Connection) -> None:
    """What a transaction reads cannot change before it writes."""
    only_reads = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
