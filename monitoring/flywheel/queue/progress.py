"""Reads labels that count, and actions in the queue that are not undone. Stores nothing."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.flywheel.queue.round import LabelCandidate
from monitoring.labels.entries import is_by_counted, is_counted
from state.tables import feedback, queue_actions

SKIP, PROPOSE = "skip", "propose"


class QueueAction(NamedTuple):
    """An action that is not undone: a label (given, verified or proposed), or a skip."""

    text_id: str
    prediction_id: str
    labeller: str
    action: str
    cluster: int | None
    at: float  # seconds of the epoch
    label: str | None
    is_counted: bool  # false: of a labeller who does not count, or its label was withdrawn


class QueueProgress(NamedTuple):
    """Actions by content id, and by prediction id the labels that count: labeller → label."""

    actions: Mapping[str, list[QueueAction]]
    labels: Mapping[str, Mapping[str, str]]

    def opinions(self, candidate: LabelCandidate) -> dict[str, str]:
        """Return the last label of each person on a text, of labels that count."""
        actions = self.actions.get(candidate.text_id, ())
        noted = {action.labeller: action.label for action in actions if action.label is not None and action.is_counted}
        return noted | dict(self.labels.get(candidate.prediction_id, {}))

    def is_labelled_before(self, candidate: LabelCandidate, at: float) -> bool:
        """Return whether all labels of a text that the queue knows of were given before a time."""
        labels = [action for action in self.actions.get(candidate.text_id, []) if action.label is not None]
        return bool(labels) and all(action.at < at for action in labels)

    def is_done(self, candidate: LabelCandidate, people: int) -> bool:
        """Return whether `people` give a text the same label; a text that will measure a model may need more of them."""
        return is_agreed(self.opinions(candidate), max(people, candidate.people))

    def is_closed(self, candidate: LabelCandidate, labeller: str | None, people: int) -> bool:
        """Return whether this person is not asked about a text: it is done, or the person labelled or skipped it.

        The person's own action closes it even if its label does not count, or was withdrawn: else the person would be asked
        again and again.
        """
        acted = any(action.labeller == labeller for action in self.actions.get(candidate.text_id, ()))
        return acted or labeller in self.opinions(candidate) or self.is_done(candidate, people)


def is_agreed(opinions: Mapping[str, str], people: int) -> bool:
    """Return whether this many people give the same label."""
    return max(Counter(opinions.values()).values(), default=0) >= people


def read_progress(connection: sa.Connection, since: float = 0.0) -> QueueProgress:
    """Read the actions that are not undone, and the labels that count and were received since a time."""
    a, f = queue_actions.c, feedback.c
    same = (f.prediction_id == a.prediction_id) & (f.labeller == a.labeller) & (f.label == a.label)
    was_withdrawn = sa.exists().where(same, f.withdrawn_at.is_not(None))
    columns = sa.select(
        a.text_id, a.prediction_id, a.labeller, a.action, a.cluster, a.at, a.label, is_by_counted(a.labeller) & ~was_withdrawn
    )
    actions: dict[str, list[QueueAction]] = defaultdict(list)
    for row in connection.execute(columns.where(a.undone_at.is_(None)).order_by(a.id)):
        actions[row.text_id].append(QueueAction(*row))
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    counted = sa.select(f.prediction_id, f.labeller, f.label).where(
        is_counted(), f.received_at >= datetime.fromtimestamp(since, UTC)
    )
    for prediction_id, labeller, label in connection.execute(counted.order_by(f.id)):
        labels[prediction_id][labeller] = label
    return QueueProgress(dict(actions), dict(labels))
