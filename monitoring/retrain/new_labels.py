"""How many labels came since the last retrain: what makes another one worth it."""

from typing import NamedTuple

import sqlalchemy as sa

from pipeline.params import Retrain
from state.tables import feedback, retrains


def learnt_upto(connection: sa.Connection, model: str) -> int:
    """The last row of feedback that a retrain has read which came to an end by itself; 0: none has."""
    ended = retrains.c.state.in_(("done", "refused"))
    newest = sa.select(sa.func.max(retrains.c.feedback_upto)).where(retrains.c.model == model, ended)
    return int(connection.execute(newest).scalar_one() or 0)


class Said(NamedTuple):
    """How often a label was given."""

    label: str
    texts: int
    people: int


def said_since(connection: sa.Connection, upto: int) -> list[Said]:
    """Labels given after this row of feedback: predictions and people that have each."""
    texts, people = (sa.func.count(sa.distinct(column)) for column in (feedback.c.prediction_id, feedback.c.source))
    rows = sa.select(feedback.c.label, texts, people).where(feedback.c.id > upto).group_by(feedback.c.label)
    return [Said(*row) for row in connection.execute(rows)]


def new_labels(said: list[Said], known: frozenset[str], settings: Retrain) -> int:
    """Predictions that got a label which a retrain would learn: one the champion has, or one that enough people agree on."""
    return sum(one.texts for one in said if one.label in known or is_agreed(one, settings))


def is_agreed(one: Said, settings: Retrain) -> bool:
    """Whether a label that the champion lacks is more than a proposal."""
    return one.people >= settings.proposal_people and one.texts >= settings.proposal_texts
