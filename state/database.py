"""Open the state database and migrate its schema. SQLAlchemy Core; SQLite by default, PostgreSQL by URL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from filelock import FileLock

from pipeline.home import sqlite_url

MIGRATING = 0x45564752  # number of the advisory lock: ASCII of EVGR


def state_url(home: Path) -> str:
    """Return `EVERGREEN_STATE_URL`, or the content of the file `EVERGREEN_STATE_URL_FILE`; by default SQLite in `home`."""
    if path := os.environ.get("EVERGREEN_STATE_URL_FILE"):
        return Path(path).read_text(encoding="utf-8").strip()
    return os.environ.get("EVERGREEN_STATE_URL") or sqlite_url(home / "state.db")


@contextmanager
def open_state(home: Path) -> Iterator[sa.Engine]:
    """Yield an engine on an up-to-date schema; one process at a time migrates."""
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
    """Yield a read-only connection without migrating; None where there is no database yet."""
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


@contextmanager
def read_only(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection that only reads: it does not wait for the writer of an SQLite file, nor the writer for it."""
    with engine.connect().execution_options(reads_only=True) as connection:
        yield connection


def migrate(engine: sa.Engine) -> None:
    """Migrate the schema to the newest revision."""
    from alembic import command  # slow to import: a command that only reads does without
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # a file lock would not keep out other hosts
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATING)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _use_wal(connection: object, _record: object) -> None:
    """Let readers and the writer of an SQLite file work at the same time."""
    connection.isolation_level = None  # type: ignore[attr-defined]  # the driver's connection; we begin transactions ourselves
    connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[attr-defined]


def _take_write_lock(connection: sa.Connection) -> None:
    """Take the write lock at once, so that what a transaction has read cannot change before it writes."""
    only_reads = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
