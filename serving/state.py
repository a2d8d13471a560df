"""The state database: which version is champion, challenger, previous. SQLAlchemy Core; SQLite by default, others by URL.

The release table is the truth; registry aliases and routing are projections of it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from filelock import FileLock

Role = Literal["champion", "challenger", "previous", "retired"]
UNIQUE_ROLES: tuple[Role, ...] = ("champion", "challenger", "previous")

metadata = sa.MetaData()
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


class Release(NamedTuple):
    """One published version."""

    version: int
    content_digest: str
    role: Role


def state_url(home: Path) -> str:
    """`EVERGREEN_STATE_URL`, by default an SQLite file in the home of state."""
    return os.environ.get("EVERGREEN_STATE_URL", f"sqlite:///{home / 'state.db'}")


@contextmanager
def open_state(home: Path) -> Iterator[sa.Engine]:
    """An engine on an up-to-date schema; migrating is done by one process at a time."""
    url = state_url(home)
    engine = sa.create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _use_wal)
        sa.event.listen(engine, "begin", _take_write_lock)
    try:
        with FileLock(home / "state.lock"):
            migrate(engine)
        yield engine
    finally:
        engine.dispose()


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to the newest revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def find_release(connection: sa.Connection, *, role: Role | None = None, digest: str | None = None) -> Release | None:
    """The release with this role or this content, if there is one."""
    chosen = releases.c.role == role if role else releases.c.content_digest == digest
    row = connection.execute(
        sa.select(releases.c.version, releases.c.content_digest, releases.c.role).where(chosen)
    ).one_or_none()
    return Release(*row) if row else None


def add_release(connection: sa.Connection, version: int, digest: str) -> Release:
    """Enter a version: champion when there is none, else challenger in place of the last; one already there stays as it is."""
    known = find_release(connection, digest=digest)
    if known:
        return known
    role: Role = "challenger" if find_release(connection, role="champion") else "champion"
    if role == "challenger":
        connection.execute(releases.update().where(releases.c.role == role).values(role="retired"))
    connection.execute(
        releases.insert().values(version=version, content_digest=digest, role=role, published_at=datetime.now(UTC))
    )
    return Release(version, digest, role)


def roles(connection: sa.Connection) -> dict[Role, int]:
    """Version by role, for the roles that only one version can have."""
    rows = connection.execute(sa.select(releases).where(releases.c.role.in_(UNIQUE_ROLES)))
    return {row.role: row.version for row in rows}


def _use_wal(connection: object, _record: object) -> None:
    """Readers and the writer of an SQLite file do not wait for each other."""
    connection.isolation_level = None  # type: ignore[attr-defined]  # the driver's own connection; we begin transactions ourselves
    connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[attr-defined]


def _take_write_lock(connection: sa.Connection) -> None:
    """What a transaction reads cannot change before it writes."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
