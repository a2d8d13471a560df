"""Opens the state database and brings its schema up to date. SQLAlchemy Core; SQLite by default, PostgreSQL by URL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from filelock import FileLock

MIGRATING = 0x45564752  # the number of our advisory lock: EVGR


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


def _use_wal(connection: object, _record: object) -> None:
    """Readers and the writer of an SQLite file do not wait for each other."""
    connection.isolation_level = None  # type: ignore[attr-defined]  # the driver's own connection; we begin transactions ourselves
    connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[attr-defined]


def _take_write_lock(connection: sa.Connection) -> None:
    """What a transaction reads cannot change before it writes."""
    only_reads = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
