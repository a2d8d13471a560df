"""The table `queue_actions`: what a person did with a text, and the last of it, which can be undone."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.flywheel.queue.round import LabelCandidate
from state.database import open_state
from state.tables import queue_actions


class NotedAction(NamedTuple):
    """Something that a person did with one text."""

    prediction_id: str
    text_id: str
    action: str  # label, verify, propose, skip
    label: str | None
    cluster: int | None
    shown_at: float
    at: float


class StateAccess:
    """The state database of a running console, opened when a page first needs it."""

    def __init__(self, home: Path) -> None:
        self._context, self._lock = open_state(home), Lock()
        self._engine: sa.Engine | None = None

    @property
    def engine(self) -> sa.Engine:
        """Return the engine; the schema is migrated first."""
        with self._lock:
            if self._engine is None:
                self._engine = self._context.__enter__()
            return self._engine

    @property
    def reading(self) -> sa.Engine:
        """Return the engine for transactions that only read."""
        return self.engine.execution_options(reads_only=True)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._engine is not None:
                self._context.__exit__(None, None, None)
                self._engine = None


def action_on(candidate: LabelCandidate, action: str, label: str | None, shown_at: float | None, now: float) -> NotedAction:
    """Return an action of now; a form that does not say when it was shown is counted without time."""
    shown = now if shown_at is None or not candidate.at <= shown_at <= now else shown_at
    return NotedAction(candidate.prediction_id, candidate.text_id, action, label, candidate.cluster or None, shown, now)


def store_actions(engine: sa.Engine, labeller: str, actions: Sequence[NotedAction]) -> None:
    """Store what a person did. A form that is sent twice is one action: the last answer counts."""
    with engine.begin() as connection:
        for action in actions:
            values = action._asdict() | {"undone_at": None}
            update = queue_actions.update().where(_same(labeller, action)).values(values)
            if connection.execute(update).rowcount:
                continue
            try:
                with connection.begin_nested():
                    connection.execute(queue_actions.insert().values(labeller=labeller, **values))
            except sa.exc.IntegrityError:  # the same form was stored at the same moment
                connection.execute(update)


def last_actions(connection: sa.Connection, labeller: str) -> list[NotedAction]:
    """Return a person's last action that is in force: one text, or all that were labelled together."""
    c = queue_actions.c
    mine = (c.labeller == labeller) & c.undone_at.is_(None)
    last = sa.select(sa.func.max(c.at)).where(mine).scalar_subquery()
    rows = connection.execute(sa.select(*(c[name] for name in NotedAction._fields)).where(mine, c.at == last).order_by(c.id))
    return [NotedAction(*row) for row in rows]


def mark_undone(engine: sa.Engine, labeller: str, actions: Sequence[NotedAction], now: float) -> None:
    """Store that a person has undone these actions."""
    with engine.begin() as connection:
        for action in actions:
            connection.execute(queue_actions.update().where(_same(labeller, action)).values(undone_at=now))


def _same(labeller: str, action: NotedAction) -> sa.ColumnElement[bool]:
    """Return the condition for what this person did with this text when it was shown then."""
    c = queue_actions.c
    return (c.prediction_id == action.prediction_id) & (c.labeller == labeller) & (c.shown_at == action.shown_at)
