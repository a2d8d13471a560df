"""Counts the labels given since the last retrain: enough of them are a reason for the next one."""

from datetime import UTC

import sqlalchemy as sa

from monitoring.labels.agreement import LabelCount, is_agreed
from monitoring.labels.entries import is_counted, is_known
from monitoring.retrain.decide import FINISHED
from pipeline.params import Retrain
from state.tables import feedback, retrains


def last_learnt_feedback(connection: sa.Connection, model: str) -> int:
    """Return the last row of feedback read by a retrain that made a model, whatever became of that, or 0."""
    finished = retrains.c.state.in_(sorted(FINISHED))
    newest = sa.select(sa.func.max(retrains.c.feedback_upto)).where(retrains.c.model == model, finished)
    return int(connection.execute(newest).scalar_one() or 0)


def count_labels_since(connection: sa.Connection, feedback_id: int) -> list[LabelCount]:
    """Count distinct predictions and people for each label given after this row of feedback.

    Counted are labels of answers that were given, by labellers who count.
    """
    texts, people = (sa.func.count(sa.distinct(column)) for column in (feedback.c.prediction_id, feedback.c.labeller))
    rows = sa.select(feedback.c.label, texts, people).where(_is_new(feedback_id)).group_by(feedback.c.label)
    return [LabelCount(*row) for row in connection.execute(rows)]


def first_label_since(connection: sa.Connection, feedback_id: int) -> float | None:
    """Return when the first of these labels was given, in seconds of the epoch; None without one."""
    first = connection.execute(sa.select(sa.func.min(feedback.c.received_at)).where(_is_new(feedback_id))).scalar_one()
    return None if first is None else first.replace(tzinfo=first.tzinfo or UTC).timestamp()


def _is_new(feedback_id: int) -> sa.ColumnElement[bool]:
    return (feedback.c.id > feedback_id) & is_counted() & is_known()


def count_new_labels(counts: list[LabelCount], known: frozenset[str], settings: Retrain) -> int:
    """Count the texts whose label a retrain would learn: the champion has it, or enough people agree on it."""
    return sum(count.texts for count in counts if count.label in known or is_agreed(count, settings))
