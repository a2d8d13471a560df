"""What people did with the texts of a round: labels in force, and actions in the queue that are not undone. Stores nothing."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.flywheel.queue.round import LabelCandidate
from state.tables import feedback, queue_actions

SKIP, PROPOSE = "skip", "propose"


class QueueAction(NamedTuple):
    """An action in force: a label (given, verified or proposed), or a skip."""

    text_id: str
    labeller: str
    action: str
    cluster: int | None
    at: float  # seconds of the epoch
    label: str | None = None


class QueueProgress(NamedTuple):
    """Actions by content id, and the people whose labels are in force by prediction id."""

    actions: Mapping[str, list[QueueAction]]
    labellers: Mapping[str, set[str]]

    def people(self, candidate: LabelCandidate) -> set[str]:
        """Return who labelled a text."""
        gave = {action.labeller for action in self.actions.get(candidate.text_id, ()) if action.action != SKIP}
        return gave | self.labellers.get(candidate.prediction_id, set())

    def is_done(self, candidate: LabelCandidate, labeller: str | None, people: int) -> bool:
        """Return whether `people` labelled a text, or this labeller labelled or skipped it."""
        gave = self.people(candidate)
        skipped = any(action.labeller == labeller for action in self.actions.get(candidate.text_id, ()))
        return len(gave) >= people or labeller in gave or skipped


def read_progress(connection: sa.Connection) -> QueueProgress:
    """Read the actions that are not undone and the labels that are not withdrawn."""
    c = queue_actions.c
    columns = sa.select(c.text_id, c.labeller, c.action, c.cluster, c.at, c.label)
    actions: dict[str, list[QueueAction]] = defaultdict(list)
    for row in connection.execute(columns.where(c.undone_at.is_(None)).order_by(c.id)):
        actions[row.text_id].append(QueueAction(*row))
    labellers: dict[str, set[str]] = defaultdict(set)
    in_force = sa.select(feedback.c.prediction_id, feedback.c.labeller).where(feedback.c.withdrawn_at.is_(None))
    for prediction_id, labeller in connection.execute(in_force):
        labellers[prediction_id].add(labeller)
    return QueueProgress(dict(actions), dict(labellers))
