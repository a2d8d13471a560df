"""Counts the labels given since the last retrain: enough of them are a reason for the next one."""

from typing import NamedTuple

import sqlalchemy as sa

from pipeline.params import Retrain
from state.tables import feedback, retrains


class LabelCount(NamedTuple):
    """The number of texts that got a label, and of people who gave it."""

    label: str
    texts: int
    people: int


def last_learnt_feedback(connection: sa.Connection, model: str) -> int:
    """Return the last row of feedback read by a retrain that was done or refused, or 0."""
    finished = retrains.c.state.in_(("done", "refused"))
    newest = sa.select(sa.func.max(retrains.c.feedback_upto)).where(retrains.c.model == model, finished)
    return int(connection.execute(newest).scalar_one() or 0)


def count_labels_since(connection: sa.Connection, feedback_id: int) -> list[LabelCount]:
    """Count distinct predictions and people for each label given after this row of feedback."""
    texts, people = (sa.func.count(sa.distinct(column)) for column in (feedback.c.prediction_id, feedback.c.source))
    rows = sa.select(feedback.c.label, texts, people).where(feedback.c.id > feedback_id).group_by(feedback.c.label)
    return [LabelCount(*row) for row in connection.execute(rows)]


def count_new_labels(counts: list[LabelCount], known: frozenset[str], settings: Retrain) -> int:
    """Count the texts whose label a retrain would learn: the champion has it, or enough people agree on it."""
    return sum(count.texts for count in counts if count.label in known or is_agreed(count, settings))


def is_agreed(count: LabelCount, settings: Retrain) -> bool:
    """Return whether a label that the champion lacks is more than a proposal."""
    return count.people >= settings.proposal_people and count.texts >= settings.proposal_texts
