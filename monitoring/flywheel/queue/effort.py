"""How much of people's time labels cost, from when texts were shown and answered."""

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.flywheel.queue.progress import SKIP
from state.tables import queue_actions

PAUSE_S = 120.0  # whoever takes longer for an answer has done something else


class Effort(NamedTuple):
    """Labels that people gave, and the time that they needed."""

    labels: int
    seconds: float

    @property
    def seconds_each(self) -> float:
        """Return the time of a label, skipped texts included."""
        return self.seconds / self.labels if self.labels else 0.0


class Answered(NamedTuple):
    """An action of a person, for its time."""

    labeller: str
    action: str
    shown_at: float
    at: float


def effort_of(actions: Iterable[Answered]) -> Effort:
    """Add up the time between showing and answering. Texts answered together share it, a pause counts `PAUSE_S`. Pure."""
    labels, seconds = 0, 0.0
    last: dict[str, float] = {}
    for action in sorted(actions, key=lambda action: action.at):
        labels += action.action != SKIP
        began = max(action.shown_at, last.get(action.labeller, 0.0))
        seconds += min(PAUSE_S, max(0.0, action.at - began))
        last[action.labeller] = action.at
    return Effort(labels, seconds)


def read_effort(connection: sa.Connection, since: float, labeller: str | None = None) -> Effort:
    """Return what labels in the queue have cost since a time, of one person or of all. An undone action cost time too."""
    c = queue_actions.c
    rows = sa.select(c.labeller, c.action, c.shown_at, c.at, c.undone_at).where(c.at >= since)
    if labeller is not None:
        rows = rows.where(c.labeller == labeller)
    actions = [
        Answered(name, SKIP if undone_at is not None else action, shown_at, at)
        for name, action, shown_at, at, undone_at in connection.execute(rows)
    ]
    return effort_of(actions)
