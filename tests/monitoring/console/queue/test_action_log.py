"""Actions that two consoles store at the same moment."""

from typing import Any

import pytest
import sqlalchemy as sa

from monitoring.console.queue.action_log import NotedAction, store_actions
from state.tables import queue_actions

REFUND = NotedAction("p-1", "t-1", "label", "refund", 4, 100.0, 101.0)
TRACK = REFUND._replace(label="track", at=102.0)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_double_click_that_is_stored_in_between_is_one_action_with_the_last_answer(state: sa.Engine) -> None:
    """SQLite's transactions come one after another; PostgreSQL's meet at the insert."""
    came_between: list[bool] = []

    def store_the_first(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO queue_actions") and not came_between:
            came_between.append(True)
            store_actions(state, "ana", [REFUND])

    sa.event.listen(state, "before_cursor_execute", store_the_first)
    store_actions(state, "ana", [TRACK])
    with state.connect() as connection:
        c = queue_actions.c
        rows = connection.execute(sa.select(c.labeller, c.label, c.at, c.undone_at)).all()
    assert came_between and [tuple(row) for row in rows] == [("ana", "track", 102.0, None)]
