"""Feedback as the gateway accepts it: on predictions that a gateway of this home made, under the name of the caller.

What labels mean together is decided by `monitoring.labels`.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from pipeline.params import Retrain
from serving.access.tokens import LOCAL
from serving.gateway.errors import ApiError
from serving.gateway.schemas import FeedbackRequest
from serving.prediction_ids import IssuedId, PredictionIds
from state.tables import feedback


class Labeller(NamedTuple):
    """The name under which a label counts, and the caller's remark."""

    name: str
    note: str | None


def labeller_of(caller: str, note: str | None) -> Labeller:
    """Return the name under which a label is stored: the caller's.

    A gateway without tokens has one local user, who may add names of other people.
    """
    return Labeller(f"{LOCAL}/{note}" if caller == LOCAL and note else caller, note)


def check_id(ids: PredictionIds, id: str, settings: Retrain, now: float) -> IssuedId:
    """Return what the id proves; raise `ApiError` 404 for one that was never issued, 410 when its answer is too old."""
    issued = ids.read(id)
    if issued is None:
        message = "no gateway of this home gave an answer with this id; send the id of a prediction as it was returned"
        raise ApiError(404, "no_such_prediction", message)
    if now - issued.time > settings.feedback_reach_s:
        days = settings.feedback_reach_s / 86400
        raise ApiError(410, "prediction_too_old", f"feedback reaches back {days:g} days (retrain.feedback_reach_s)")
    return issued


def store_feedback(engine: sa.Engine, given: FeedbackRequest, kind: str, labeller: Labeller, issued: IssuedId) -> None:
    """Store the label as this labeller's last word on the prediction.

    A label that the labeller has given before counts once. One that the labeller took back counts again, and one that an
    operator withdrew stays withdrawn. Whoever returns to an earlier label takes back the later ones.
    """
    row = {"prediction_id": given.id, "label": given.label, "labeller": labeller.name}
    version = None if issued.is_control else issued.version
    more = {"kind": kind, "note": labeller.note, "version": version, "received_at": datetime.now(UTC)}
    c = feedback.c
    with engine.begin() as connection:
        same = sa.select(c.id, c.withdrawn_at, c.withdrawn_by).where(*(c[name] == value for name, value in row.items()))
        earlier = connection.execute(same).first()
        if earlier and (earlier.withdrawn_at is None or earlier.withdrawn_by is None):
            if earlier.withdrawn_at is None:
                _take_back(connection, given.id, labeller.name, c.id > earlier.id)
            return
        if earlier:  # a new row, so that it is the newest opinion, and new to the next retrain
            connection.execute(feedback.delete().where(c.id == earlier.id))
        try:
            with connection.begin_nested():
                connection.execute(feedback.insert().values(**row, **more))
        except sa.exc.IntegrityError:
            return  # another gateway stored the same feedback at the same moment


def withdraw_feedback(engine: sa.Engine, id: str, labeller: Labeller, label: str | None) -> int:
    """Take back this labeller's labels of a prediction, or one of them; return how many were in force."""
    with engine.begin() as connection:
        return _take_back(connection, id, labeller.name, sa.true() if label is None else feedback.c.label == label)


def _take_back(connection: sa.Connection, id: str, labeller: str, which: sa.ColumnElement[bool]) -> int:
    c = feedback.c
    matches = (c.prediction_id == id) & (c.labeller == labeller) & c.withdrawn_at.is_(None) & which
    values = {"withdrawn_at": datetime.now(UTC), "withdrawn_by": labeller}
    return connection.execute(feedback.update().where(matches).values(values)).rowcount
