"""The release table: one champion, one challenger, and a schema that migrations and code agree on."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from serving.state import add_release, find_release, metadata, open_state, releases, roles


def test_the_first_version_is_champion_and_the_next_challenger(tmp_path: Path) -> None:
    with open_state(tmp_path) as engine, engine.begin() as connection:
        assert add_release(connection, 1, "a").role == "champion"
        assert add_release(connection, 2, "b").role == "challenger"
        assert roles(connection) == {"champion": 1, "challenger": 2}


def test_a_newer_challenger_retires_the_last_one(tmp_path: Path) -> None:
    with open_state(tmp_path) as engine, engine.begin() as connection:
        for version, digest in enumerate("abc", start=1):
            add_release(connection, version, digest)
        assert roles(connection) == {"champion": 1, "challenger": 3}
        assert find_release(connection, digest="b").role == "retired"


def test_entering_the_same_content_twice_changes_nothing(tmp_path: Path) -> None:
    with open_state(tmp_path) as engine, engine.begin() as connection:
        first = add_release(connection, 1, "a")
        assert add_release(connection, 1, "a") == first
        assert connection.execute(sa.select(sa.func.count()).select_from(releases)).scalar_one() == 1


def test_the_database_refuses_a_second_champion(tmp_path: Path) -> None:
    with open_state(tmp_path) as engine:
        with engine.begin() as connection:
            add_release(connection, 1, "a")
            add_release(connection, 2, "b")
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
            connection.execute(releases.update().where(releases.c.version == 2).values(role="champion"))


def test_migrations_make_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    with open_state(tmp_path) as engine, engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_eight_openers_of_a_fresh_home_get_along(tmp_path: Path) -> None:
    def enter(version: int) -> str:
        with open_state(tmp_path) as engine, engine.begin() as connection:
            return add_release(connection, version, str(version)).role

    with ThreadPoolExecutor(8) as pool:
        entered = list(pool.map(enter, range(1, 9)))
    assert entered.count("champion") == 1
