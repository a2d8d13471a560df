"""What is labelled, and what is still open for a person: computed from the labels in force and from the person's skips."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.console.queue.round_index import RoundIndex
from monitoring.flywheel.queue.progress import SKIP
from monitoring.flywheel.queue.round import LabelCandidate
from state.tables import feedback, queue_actions


class Standing(NamedTuple):
    """What people said about the texts of a round, and what of it is closed for one person."""

    mine: Mapping[str, str]  # this person's labels by prediction id, of control texts too
    skipped: frozenset[str]  # content ids
    done: frozenset[int]  # places in the queue with a label that enough people gave
    closed: frozenset[int]  # places that this person is not asked about: done, answered or skipped
    given: tuple[tuple[int, str], ...]  # place and label of every opinion

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
        return candidate.prediction_id not in self.mine and candidate.text_id not in self.skipped


def read_standing(connection: sa.Connection, index: RoundIndex, labeller: str, people: int) -> Standing:
    """Read the labels since the round's first text; a text is done once `people` give it the same label."""
    c = feedback.c
    since = datetime.fromtimestamp(index.since, UTC)
    rows = connection.execute(
        sa.select(c.prediction_id, c.labeller, c.label).where(c.withdrawn_at.is_(None), c.received_at >= since).order_by(c.id)
    )
    mine: dict[str, str] = {}
    opinions: dict[int, dict[str, str]] = {}
    for prediction_id, name, label in rows:
        if name == labeller:
            mine[prediction_id] = label
        if prediction_id in index.by_prediction:
            opinions.setdefault(index.by_prediction[prediction_id], {})[name] = label
    a = queue_actions.c
    skips = sa.select(a.text_id).where(a.labeller == labeller, a.action == SKIP, a.undone_at.is_(None))
    skipped = frozenset(connection.execute(skips).scalars())
    done = frozenset(place for place, of_place in opinions.items() if is_done(of_place, people))
    answered = {place for place, of_place in opinions.items() if labeller in of_place}
    closed = done | answered | {index.by_text[text] for text in skipped if text in index.by_text}
    given = tuple((place, label) for place, of_place in opinions.items() for label in of_place.values())
    return Standing(mine, skipped, done, closed, given)


def is_done(opinions: Mapping[str, str], people: int) -> bool:
    """Return whether enough people give the same label."""
    return max(Counter(opinions.values()).values(), default=0) >= people
