"""The state database on SQLite and PostgreSQL: unique roles, and migrations that make exactly the code's tables."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from serving.release.release_table import add_release, find_release, promote, roles, versions
from serving.release.routing import read_routes, set_routing
from state.database import migrate, open_state, state_url
from state.tables import alerts, feedback, jobs, judgements, metadata, releases, routing
from tests.state.old_schema import alembic_config, downgrade


def differences(engine: sa.Engine) -> list[Any]:
    """Return the differences between the database and the tables in code."""
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection), metadata)


def table_names(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names()) - {"alembic_version"}


def test_the_first_version_is_champion_and_the_next_challenger(state: sa.Engine) -> None:
    with state.begin() as connection:
        assert add_release(connection, 1, "a").role == "champion"
        assert add_release(connection, 2, "b").role == "challenger"
        assert roles(connection) == {"champion": 1, "challenger": 2}


def test_a_newer_challenger_retires_the_last_one(state: sa.Engine) -> None:
    with state.begin() as connection:
        for version, digest in enumerate("abc", start=1):
            add_release(connection, version, digest)
        assert roles(connection) == {"champion": 1, "challenger": 3}
        assert find_release(connection, digest="b").role == "retired"


def test_adding_the_same_content_twice_changes_nothing(state: sa.Engine) -> None:
    with state.begin() as connection:
        first = add_release(connection, 1, "a")
        assert add_release(connection, 1, "a") == first
        assert connection.execute(sa.select(sa.func.count()).select_from(releases)).scalar_one() == 1


def test_the_database_refuses_a_second_champion(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_release(connection, 1, "a")
        add_release(connection, 2, "b")
    with pytest.raises(sa.exc.IntegrityError), state.begin() as connection:
        connection.execute(releases.update().where(releases.c.version == 2).values(role="champion"))


def test_the_database_refuses_a_second_row_of_routing(state: sa.Engine) -> None:
    row = {"id": 2, "revision": 0, "challenger_weight": 0.0, "shadow_share": 0.0, "salt": "second"}
    with pytest.raises(sa.exc.IntegrityError), state.begin() as connection:
        connection.execute(routing.insert().values(row))


def test_migrations_make_exactly_the_tables_of_the_code(state: sa.Engine) -> None:
    assert differences(state) == []
    assert table_names(state) == set(metadata.tables)


def test_a_missing_column_is_detected(state: sa.Engine) -> None:
    with state.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN error")
    assert [change[0] for change in differences(state)] == ["add_column"]


def test_every_downgrade_can_be_upgraded_again(state: sa.Engine) -> None:
    steps = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()]
    for revision in [*steps[1:], "base"]:
        downgrade(state, revision)
        if revision == "base":
            assert table_names(state) == set()
        migrate(state)
        assert differences(state) == []


def test_an_older_database_keeps_its_releases_when_it_is_migrated(state: sa.Engine) -> None:
    downgrade(state, "0001")
    assert table_names(state) == {"releases"}
    row = {"version": 1, "content_digest": "a", "role": "champion", "published_at": datetime(2026, 1, 1, tzinfo=UTC)}
    with state.begin() as connection:
        connection.execute(releases.insert().values(row))
    migrate(state)
    with state.begin() as connection:
        assert roles(connection) == {"champion": 1}
        assert connection.execute(sa.select(routing.c.revision)).scalar_one() == 0


OLD_ROWS = {  # at revision 0004: columns and values
    "alerts": {"fingerprint": "f1", "starts_at": 1.0, "status": "firing", "heard_at": 2.0, "body": "{}"},
    "decisions": {
        "fingerprint": "f1", "starts_at": 1.0, "alertname": "EvergreenDrift", "is_over": False, "verdict": "waiting",
        "reason": "", "at": 3.0, "heard_wall": 2.0, "heard_mono": 0.5, "heard_boot": "boot", "facts": "{}",
    },
    "windows": {"version": 1, "number": 1, "began_at": 0.0, "ended_at": 1.0, "rows": 200, "told": '{"words": []}'},
}  # fmt: skip
NEW_NAMES = {
    "heard_at": "received_at",
    "heard_wall": "received_wall",
    "heard_mono": "received_mono",
    "heard_boot": "received_boot",
    "told": "details",
}


def test_rows_written_before_the_columns_got_plain_names_are_there_afterwards(state: sa.Engine) -> None:
    downgrade(state, "0004")
    with state.begin() as connection:
        for table, row in OLD_ROWS.items():
            connection.execute(sa.table(table, *map(sa.column, row)).insert().values(row))
    migrate(state)
    with state.begin() as connection:
        for table, row in OLD_ROWS.items():
            stored = connection.execute(sa.select(metadata.tables[table])).mappings().one()
            expected = {NEW_NAMES.get(name, name): value for name, value in row.items()}
            assert {name: stored[name] for name in expected} == expected
    again = {name: value for name, value in OLD_ROWS["alerts"].items() if name != "heard_at"}
    with pytest.raises(sa.exc.IntegrityError), state.begin() as connection:  # an alert is still entered once
        connection.execute(alerts.insert().values(again | {"received_at": 9.0}))


def test_labels_of_an_older_database_keep_their_labellers_and_judgements_their_feedback(state: sa.Engine) -> None:
    downgrade(state, "0005")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    old = sa.table("feedback", *(sa.column(name) for name in ("prediction_id", "label", "kind", "source", "received_at")))
    judged = sa.table("judgements", *(sa.column(name) for name in ("prediction_id", "version", "correct")))
    with state.begin() as connection:
        for label, person in (("a", "ann"), ("b", "ben")):
            row = {"prediction_id": "p", "label": label, "kind": "label", "source": person}
            connection.execute(old.insert().values(**row, received_at=at.isoformat(" ") if state.name == "sqlite" else at))
        connection.execute(judged.insert().values(prediction_id="p", version=1, correct=True))
    migrate(state)
    with state.begin() as connection:
        rows = connection.execute(sa.select(feedback).order_by(feedback.c.id)).mappings().all()
        assert [(row["labeller"], row["version"], row["withdrawn_at"]) for row in rows] == [
            ("ann", None, None),
            ("ben", None, None),
        ]
        assert connection.execute(sa.select(judgements.c.feedback_id)).scalar_one() == rows[0]["id"]
    again = {"prediction_id": "p", "label": "a", "kind": "label", "labeller": "ann", "received_at": at}
    with pytest.raises(sa.exc.IntegrityError), state.begin() as connection:  # an opinion still counts once
        connection.execute(feedback.insert().values(again))
    downgrade(state, "0005")
    with state.begin() as connection:
        assert connection.execute(sa.select(old.c.source).order_by(old.c.label)).scalars().all() == ["ann", "ben"]


def test_eight_threads_can_open_a_fresh_database_at_once(database: str, tmp_path: Path) -> None:
    def add(version: int) -> str:
        home = tmp_path / str(version) if database.startswith("postgresql") else tmp_path  # eight hosts, or one
        home.mkdir(exist_ok=True)
        with open_state(home) as engine, engine.begin() as connection:
            return add_release(connection, version, str(version)).role

    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(add, range(1, 9)))
    assert added.count("champion") == 1
    with open_state(tmp_path) as engine, engine.begin() as connection:
        assert set(roles(connection)) == {"champion", "challenger"}


def test_without_a_url_the_database_is_a_file_in_the_home(tmp_path: Path) -> None:
    with open_state(tmp_path) as engine:
        assert table_names(engine) == set(metadata.tables)
    assert (tmp_path / "state.db").is_file()


def test_promoting_moves_champion_previous_and_retired_and_gives_all_traffic_to_the_champion(state: sa.Engine) -> None:
    for version in (1, 2, 3):
        with state.begin() as connection:
            add_release(connection, version, str(version))
            if version > 1:
                set_routing(connection, challenger_weight=0.5, shadow_share=0.5)
                promote(connection, version)
    with state.begin() as connection:
        assert versions(connection) == {3: "champion", 2: "previous", 1: "retired"}
        routes = read_routes(connection)
        promote(connection, 2)
        assert versions(connection) == {3: "previous", 2: "champion", 1: "retired"}
        after = read_routes(connection)
    assert (routes.challenger_weight, routes.shadow_share) == (0, 0)
    assert after.revision > routes.revision
    assert after.salt != routes.salt


def test_promoting_the_champion_changes_nothing(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_release(connection, 1, "a")
        before = read_routes(connection)
        promote(connection, 1)
        assert read_routes(connection) == before
        assert versions(connection) == {1: "champion"}


def test_the_url_of_the_database_can_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgresql+psycopg://me@host/db\n")
    monkeypatch.setenv("EVERGREEN_STATE_URL_FILE", str(tmp_path / "url"))
    assert state_url(tmp_path) == "postgresql+psycopg://me@host/db"


def test_jobs_that_were_added_before_jobs_had_callers_are_the_local_users(state: sa.Engine) -> None:
    downgrade(state, "0005")
    row = {
        "id": "1" * 32, "payload": "{}", "payload_digest": "d", "status": "queued", "attempts": 0, "due_at": 1.0, "fence": 0,
        "created_at": 1.0, "callback_status": "none", "callback_attempts": 0, "callback_due_at": 1.0,
    }  # fmt: skip
    with state.begin() as connection:
        connection.execute(sa.table("jobs", *map(sa.column, row)).insert().values(row))
    migrate(state)
    with state.begin() as connection:
        assert connection.execute(sa.select(jobs.c.caller)).scalar_one() == "local"
