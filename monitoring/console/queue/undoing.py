"""Takes back what a person did last. The label that this person gave the text before is in force again."""

from collections.abc import Sequence

import sqlalchemy as sa

from monitoring.console.login.access import Visitor
from monitoring.console.queue.action_log import NotedAction, StateAccess, mark_undone
from monitoring.console.try_it.asking import give_label, take_back_label
from serving.gateway_client import Reply
from state.tables import queue_actions


def take_back(state: StateAccess, gateway: str, visitor: Visitor, actions: Sequence[NotedAction], now: float) -> Reply | None:
    """Take actions back, and note each before the next; return the gateway's refusal, if it refuses one."""
    for action in actions:
        if action.label is not None:
            reply = take_back_label(gateway, action.prediction_id, action.label, visitor.headers)
            before = label_before(state, visitor.name, action) if reply.status == 200 else None
            if before is not None:
                reply = give_label(gateway, action.prediction_id, before, visitor.headers)
            if reply.status not in (200, 201):
                return reply
        mark_undone(state.engine, visitor.name, [action], now)
    return None


def label_before(state: StateAccess, labeller: str, action: NotedAction) -> str | None:
    """Return the newest label that the person gave this text before, and has not undone."""
    c = queue_actions.c
    earlier = (c.labeller == labeller) & (c.prediction_id == action.prediction_id) & (c.at < action.at)
    in_force = earlier & c.undone_at.is_(None) & c.label.is_not(None)
    with state.reading.begin() as connection:
        newest = sa.select(c.label).where(in_force).order_by(c.at.desc(), c.id.desc()).limit(1)
        label: str | None = connection.execute(newest).scalar()
    return label
