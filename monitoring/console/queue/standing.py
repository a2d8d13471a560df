"""Computes which texts of a round are labelled, and which are still open for a person. Stores nothing."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.console.queue.round_index import RoundIndex
from monitoring.flywheel.queue.progress import SKIP, QueueProgress, read_progress
from monitoring.flywheel.queue.round import LabelCandidate
from state.tables import feedback


class QueueStanding(NamedTuple):
    """What people said about the texts of a round, and what of it is closed for one person."""

    progress: QueueProgress
    mine: Mapping[str, str]  # this person's labels in force by prediction id, of control texts too
    answered: frozenset[str]  # prediction ids that the person labelled, also where the label was withdrawn later
    skipped: frozenset[str]  # content ids
    done: frozenset[int]  # places in the queue with a label that enough people gave
    closed: frozenset[int]  # places that this person is not asked about: done, answered or skipped
    given: tuple[tuple[int, str], ...]  # place and label of every opinion that counts

    def counts_of(self, places: Iterable[int], limit: int) -> list[str]:
        """Return the labels that people gave to these places, the most frequent first."""
        wanted = frozenset(places)
        counts = Counter(label for place, label in self.given if place in wanted)
        return [label for label, _ in counts.most_common(limit)]

    def is_open(self, candidate: LabelCandidate, index: RoundIndex) -> bool:
        """Return whether the person is still asked about a candidate of the round, or a control text."""
        place = index.by_prediction.get(candidate.prediction_id)
        if place is not None:
            return place not in self.closed
        return candidate.prediction_id not in self.answered and candidate.text_id not in self.skipped


def read_standing(connection: sa.Connection, index: RoundIndex, labeller: str, people: int) -> QueueStanding:
    """Read the labels since the round's first text; a text is done once `people` give it the same label."""
    progress = read_progress(connection, index.since)
    mine = _labels_of(connection, labeller, index.since)
    actions = [action for rows in progress.actions.values() for action in rows if action.labeller == labeller]
    answered = mine.keys() | {action.prediction_id for action in actions if action.action != SKIP}
    skipped = frozenset(action.text_id for action in actions if action.action == SKIP)
    places = {index.by_text[id] for id in progress.actions if id in index.by_text}
    places |= {index.by_prediction[id] for id in {*progress.labels, *mine} if id in index.by_prediction}
    done, closed, given = set(), set(), []
    for place in sorted(places):
        candidate = index.round.candidates[place]
        given += [(place, label) for label in progress.opinions(candidate).values()]
        if progress.is_done(candidate, people):
            done.add(place)
        if candidate.prediction_id in mine or progress.is_closed(candidate, labeller, people):
            closed.add(place)
    return QueueStanding(progress, mine, frozenset(answered), skipped, frozenset(done), frozenset(closed), tuple(given))


def _labels_of(connection: sa.Connection, labeller: str, since: float) -> dict[str, str]:
    """Return a person's labels that are not withdrawn, by prediction id, also those of a person who does not count."""
    c = feedback.c
    received = c.received_at >= datetime.fromtimestamp(since, UTC)
    rows = sa.select(c.prediction_id, c.label).where(c.labeller == labeller, c.withdrawn_at.is_(None), received)
    return {row.prediction_id: row.label for row in connection.execute(rows.order_by(c.id))}
