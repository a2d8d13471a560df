"""Outcomes as the gateway accepts them: what came of an answer, reported once by each caller.

What they say about two versions is decided by `monitoring.release.ab`.
"""

import time

import sqlalchemy as sa

from serving.gateway.errors import ApiError
from serving.gateway.schemas import OutcomeRequest
from state.tables import outcomes


def store_outcome(engine: sa.Engine, given: OutcomeRequest, caller: str) -> None:
    """Store the outcome. The same value again changes nothing; raise `ApiError` 409 for another one.

    An outcome is final: whoever could replace it after a look at a running test could steer its verdict.
    """
    row = {"prediction_id": given.id, "caller": caller, "value": float(given.value), "received_at": time.time()}
    c = outcomes.c
    with engine.begin() as connection:
        try:
            with connection.begin_nested():
                connection.execute(outcomes.insert(), row)
                return
        except sa.exc.IntegrityError:  # it has one, perhaps since this moment
            same = sa.select(c.value).where(c.prediction_id == given.id, c.caller == caller)
            stored = connection.execute(same).scalar_one_or_none()
    if stored is not None and stored != row["value"]:
        message = f"this caller has reported {stored:g} for this prediction, and an outcome is final"
        raise ApiError(409, "outcome_given", message)
