"""A release has one row, one outcome, and a writer that holds the lease; people's wishes go beside it."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from monitoring.release.runs import (
    ReleaseExample,
    ReleaseRun,
    begin_run,
    end_run,
    newest_runs,
    read_run,
    running_run,
    set_wish,
    write_run,
)

RUN = ReleaseRun(
    7, 2, 1, "salt", "shadow", 0, "none", {"shadow": [0.0]}, 10.0, 10.0, None, None, None, None, [], None
)  # fmt: skip


class LostError(Exception):
    """The lease is lost."""


def holds(_connection: sa.Connection) -> None:
    """Hold the lease."""


def lost(_connection: sa.Connection) -> None:
    raise LostError


@pytest.fixture
def begun(state: sa.Engine) -> sa.Engine:
    with state.begin() as connection:
        assert begin_run(connection, RUN, holds) == RUN
    return state


def test_a_release_that_is_begun_again_stays_as_it_is(begun: sa.Engine) -> None:
    with begun.begin() as connection:
        assert write_run(connection, 7, holds, stage="canary", rung=2, evidence={"shadow": [1.5]})
        assert begin_run(connection, RUN, holds) == RUN._replace(stage="canary", rung=2, evidence={"shadow": [1.5]})
        assert running_run(connection) == read_run(connection, 7)


def test_an_outcome_is_set_once(begun: sa.Engine) -> None:
    examples = [ReleaseExample("p1", "grüezi", "hello", "refund", None)]
    with begun.begin() as connection:
        assert end_run(connection, 7, holds, outcome="rolled_back", reason="slow", at=20.0, broken="latency", examples=examples)
        assert not end_run(connection, 7, holds, outcome="promoted", reason="good", at=21.0)
        assert not write_run(connection, 7, holds, rung=3)
        ended = RUN._replace(
            stage="ended", outcome="rolled_back", reason="slow", broken="latency", examples=examples, ended_at=20.0
        )
        assert running_run(connection) is None
        assert newest_runs(connection, 5) == [ended]


@pytest.mark.parametrize(
    "write",
    [
        lambda connection: begin_run(connection, RUN, lost),
        lambda connection: write_run(connection, 7, lost, rung=1),
        lambda connection: end_run(connection, 7, lost, outcome="promoted", reason="", at=1.0),
    ],
)
def test_nothing_is_written_without_the_lease(begun: sa.Engine, write: Callable[[sa.Connection], object]) -> None:
    with pytest.raises(LostError), begun.begin() as connection:
        write(connection)
    with begun.begin() as connection:
        assert read_run(connection, 7) == RUN


def test_a_person_pauses_and_resumes_and_an_abort_stays(begun: sa.Engine) -> None:
    with begun.begin() as connection:
        assert set_wish(connection, 7, "pause")
        assert set_wish(connection, 7, "none")
        assert set_wish(connection, 7, "abort")
        assert not set_wish(connection, 7, "none")
        run = read_run(connection, 7)
        assert run is not None and run.wish == "abort"


def test_nobody_can_wish_anything_of_a_release_that_has_ended(begun: sa.Engine) -> None:
    with begun.begin() as connection:
        end_run(connection, 7, holds, outcome="promoted", reason="good", at=21.0)
        assert not set_wish(connection, 7, "abort")
