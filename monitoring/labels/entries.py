"""Rows of the feedback table: read, withdrawn, restored and, when they are too old, deleted."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from state.tables import answers, feedback, labellers, outcomes, queue_actions, settlements


class FeedbackEntry(NamedTuple):
    """A row of the feedback table."""

    id: int  # ordered by time of receipt
    prediction_id: str
    label: str
    labeller: str
    received_at: float  # seconds of the epoch


def is_counted() -> sa.ColumnElement[bool]:
    """Return the condition that a label is in force: not withdrawn, and not by a labeller who does not count."""
    return feedback.c.withdrawn_at.is_(None) & is_by_counted(feedback.c.labeller)


def is_by_counted(labeller: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Return the condition that this labeller counts: control texts have not shown too many wrong answers."""
    return labeller.not_in(sa.select(labellers.c.name).where(~labellers.c.is_counted))


def is_known() -> sa.ColumnElement[bool]:
    """Return the condition that an answer was given: the gateway checked its id, or the monitor has read it in the log."""
    return feedback.c.version.is_not(None) | sa.exists().where(answers.c.id == feedback.c.prediction_id)


def read_entries(connection: sa.Connection) -> list[FeedbackEntry]:
    """Read all feedback that is not withdrawn."""
    c = feedback.c
    columns = sa.select(c.id, c.prediction_id, c.label, c.labeller, c.received_at)
    rows = connection.execute(columns.where(c.withdrawn_at.is_(None)).order_by(c.id))
    return [FeedbackEntry(id, prediction_id, label, labeller, at.timestamp()) for id, prediction_id, label, labeller, at in rows]


class StateOfLabels(NamedTuple):
    """Equal if no label was given, withdrawn, restored or deleted, and no dispute settled."""

    newest: int  # id
    rows: int
    withdrawn: int
    settled: int  # id of the newest settlement


def read_state_of_labels(connection: sa.Connection) -> StateOfLabels:
    """Read what tells whether labels have changed."""
    columns = sa.func.max(feedback.c.id), sa.func.count(feedback.c.id), sa.func.count(feedback.c.withdrawn_at)
    newest, rows, withdrawn = connection.execute(sa.select(*columns)).one()
    settled = connection.execute(sa.select(sa.func.max(settlements.c.id))).scalar_one()
    return StateOfLabels(newest or 0, rows, withdrawn, settled or 0)


def withdraw(connection: sa.Connection, labeller: str, since: datetime | None) -> int:
    """Withdraw a labeller's labels, all or those since a time; return how many."""
    matches = _labels_of(labeller, since) & feedback.c.withdrawn_at.is_(None)
    return connection.execute(feedback.update().where(matches).values(withdrawn_at=datetime.now(UTC))).rowcount


def restore(connection: sa.Connection, labeller: str, since: datetime | None) -> int:
    """Put labels that an operator has withdrawn in force again, not those that the labeller took back; return how many."""
    matches = _labels_of(labeller, since) & feedback.c.withdrawn_at.is_not(None) & feedback.c.withdrawn_by.is_(None)
    return connection.execute(feedback.update().where(matches).values(withdrawn_at=None)).rowcount


def delete_expired(connection: sa.Connection, retention_s: float) -> int:
    """Delete the labels that are older than their retention, and outcomes of that age; return how many labels."""
    oldest = datetime.now(UTC) - timedelta(seconds=retention_s)
    connection.execute(outcomes.delete().where(outcomes.c.received_at < oldest.timestamp()))
    return connection.execute(feedback.delete().where(feedback.c.received_at < oldest)).rowcount


def labelled_ids(connection: sa.Connection) -> set[str]:
    """Return the ids of predictions that have a label in force."""
    in_force = sa.select(feedback.c.prediction_id).where(is_counted())
    return set(connection.execute(in_force.distinct()).scalars())


def read_label_clusters(connection: sa.Connection) -> dict[str, int]:
    """Return the cluster in which a text was labelled last, by its content id, for labels that are not undone."""
    c = queue_actions.c
    in_force = c.undone_at.is_(None) & c.label.is_not(None) & c.cluster.is_not(None)
    rows = connection.execute(sa.select(c.text_id, c.cluster).where(in_force).order_by(c.id))
    return {row.text_id: row.cluster for row in rows}


def count_by_labeller(connection: sa.Connection) -> dict[str, tuple[int, int]]:
    """Return for each labeller the number of labels in force and of withdrawn ones."""
    columns = sa.func.count(), sa.func.count(feedback.c.withdrawn_at)
    rows = connection.execute(sa.select(feedback.c.labeller, *columns).group_by(feedback.c.labeller))
    return {name: (total - withdrawn, withdrawn) for name, total, withdrawn in rows}


def _labels_of(labeller: str, since: datetime | None) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = feedback.c.labeller == labeller
    return condition if since is None else condition & (feedback.c.received_at >= since)
