"""Databases: a test that asks for `state` runs on SQLite and on a real PostgreSQL server, which the tests start."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.lifetime import end_with_parent
from serving.processes.ports import free_port
from state.database import open_state

ENDED = signal.SIGINT  # of PostgreSQL: with all sessions
HOW_MADE = ("-U", "evergreen", "--pwfile=password", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB", "unix_socket_directories=")


def _programs() -> Path | None:
    """Return the folder of PostgreSQL's programs: Debian keeps them off PATH, by version."""
    initdb = shutil.which("initdb")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return Path(initdb).resolve().parent if initdb else versions[-1].parent if versions else None


def _account() -> dict[str, Any]:
    """Return arguments of `subprocess` for an account that is not root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class Postgres:
    """A server on loopback; its data survive a clean stop and nothing else."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._programs, self._account = folder, programs, _account()
        password = secrets.token_hex(16)
        self.url = sa.URL.create("postgresql+psycopg", "evergreen", password, "127.0.0.1", free_port(), "postgres")
        (folder / "password").write_text(password)
        for path in (folder, folder / "password"):
            shutil.chown(path, self._account.get("user"), self._account.get("group")) if self._account else None
        result = subprocess.run(
            [str(programs / "initdb"), "-D", "data", *HOW_MADE], cwd=folder, capture_output=True, text=True, **self._account
        )
        assert result.returncode == 0, result.stdout + result.stderr
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers."""
        settings = (*FAST, "listen_addresses=127.0.0.1", f"port={self.url.port}")
        command = [str(self._programs / "postgres"), "-D", "data", *(word for setting in settings for word in ("-c", setting))]
        log = self._folder / "log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=file, stderr=file, preexec_fn=partial(end_with_parent, ENDED), **self._account
            )
        _wait_until_it_answers(self.url, self._process, log)

    def stop(self) -> None:
        """Stop the server, and end the sessions that are still open."""
        if self._process is not None:
            self._process.send_signal(ENDED)
            self._process.wait(timeout=30)
        self._process = None


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Run a server, and delete its data afterwards; skip the test where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="evergreen-postgres-"))  # pytest's own folders are closed to other users
    try:
        server = Postgres(folder, programs)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[sa.URL]:
    """Return the URL of a server for all tests of a worker; each test has its own database."""
    with running_postgres() as server:
        yield server.url


def _wait_until_it_answers(url: sa.URL, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            sa.create_engine(url, poolclass=sa.NullPool).connect().close()
        except sa.exc.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of an empty database, which is in the environment of this process and its children."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'state.db'}"
        monkeypatch.setenv("EVERGREEN_STATE_URL", url)
        yield url
        return
    server: sa.URL = request.getfixturevalue("postgres")
    name = f"test_{secrets.token_hex(4)}"
    administration = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with administration.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = server.set(database=name).render_as_string(hide_password=False)
    monkeypatch.setenv("EVERGREEN_STATE_URL", url)
    yield url
    with administration.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def state(database: str, tmp_path: Path) -> Iterator[sa.Engine]:
    """Yield an engine on a fresh database with the newest schema."""
    with open_state(tmp_path) as engine:
        yield engine
