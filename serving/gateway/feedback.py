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
    """Store the label unless this labeller has given it before; a withdrawn one stays withdrawn."""
    row = {"prediction_id": given.id, "label": given.label, "labeller": labeller.name}
    same = sa.and_(*(feedback.c[name] == value for name, value in row.items()))
    version = None if issued.is_control else issued.version
    more = {"kind": kind, "note": labeller.note, "version": version, "received_at": datetime.now(UTC)}
    with engine.begin() as connection:
        if connection.execute(sa.select(feedback.c.id).where(same)).first():
            return
        try:
            with connection.begin_nested():
                connection.execute(feedback.insert().values(**row, **more))
        except sa.exc.IntegrityError:
            return  # another gateway stored the same feedback at the same moment
