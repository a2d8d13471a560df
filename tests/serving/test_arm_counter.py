"""A gateway's counts of arms: they reach the database, and none is lost while it is away."""

import asyncio

import pytest
import sqlalchemy as sa

from serving.arm_counter import ArmCounter
from serving.arm_counts import ArmTotals, bucket_of, read_counts


def test_counts_reach_the_database_once_and_are_exported(state: sa.Engine) -> None:
    exported: list[tuple[str, str, int]] = []
    counter = ArmCounter(lambda *what: exported.append(what))
    counter.count("s", "challenger", "answered", 3)
    counter.count("s", "challenger", "broken")
    counter.count("s", "challenger", "failed", 0)  # nothing
    counter.time("s", "challenger", 12.0)
    counter.time("s", "challenger", 12.0)
    counter.time("s", "challenger", 80.0)
    counter.count("t", "shadow", "failed", 2)
    asyncio.run(counter.flush(state))
    asyncio.run(counter.flush(state))
    with state.begin() as connection:
        first, second = read_counts(connection, "s"), read_counts(connection, "t")
    assert first["challenger"] == ArmTotals(3, 0, 1, {bucket_of(12.0): 2, bucket_of(80.0): 1})
    assert second["shadow"] == ArmTotals(failed=2)
    assert exported == [("challenger", "answered", 3), ("challenger", "broken", 1), ("shadow", "failed", 2)]


def test_while_the_database_is_away_counts_are_kept(state: sa.Engine) -> None:
    away = sa.create_engine("sqlite:////no/such/folder/state.db")
    counter = ArmCounter(lambda *_: None)
    counter.count("s", "baseline", "answered", 2)
    with pytest.raises(sa.exc.OperationalError):
        asyncio.run(counter.flush(away))
    counter.count("s", "baseline", "answered", 5)
    asyncio.run(counter.flush(state))
    with state.begin() as connection:
        assert read_counts(connection, "s")["baseline"] == ArmTotals(answered=7)


def test_without_counts_the_database_is_not_asked() -> None:
    asyncio.run(ArmCounter(lambda *_: None).flush(sa.create_engine("sqlite:////no/such/folder/state.db")))
