"""What is labelled, and what is still open for a person: computed from the labels in force and from the person's skips."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.console.queue.round_index import RoundIndex
from monitoring.flywheel.queue.progress import SKIP
from state.tables import feedback, queue_actions


class Standing(NamedTuple):
    """Labels in force by prediction and labeller, and what of it is closed for one person."""

    labels: Mapping[str, Mapping[str, str]]
    mine: Mapping[int, str]  # this person's labels, by place in the queue
    done: frozenset[int]  # places with a label that enough people gave
    closed: frozenset[int]  # places that this person is not asked about: done, answered or skipped

    def counts_of(self, places: Iterable[int], limit: int) -> list[str]:
        """Return the labels that people gave to these places, the most frequent first."""
        wanted = frozenset(places)
        counts = Counter(label for place, label in self.given if place in wanted)
        return [label for label, _ in counts.most_common(limit)]

    given: tuple[tuple[int, str], ...] = ()  # place and label of every opinion


def read_standing(connection: sa.Connection, index: RoundIndex, labeller: str, people: int) -> Standing:
    """Read the labels of the round's texts; a text is done once `people` give it the same label."""
    c = feedback.c
    since = datetime.fromtimestamp(index.since, UTC)
    rows = connection.execute(
        sa.select(c.prediction_id, c.labeller, c.label).where(c.withdrawn_at.is_(None), c.received_at >= since).order_by(c.id)
    )
    labels: dict[str, dict[str, str]] = {}
    for prediction_id, name, label in rows:
        if prediction_id in index.by_prediction:
            labels.setdefault(prediction_id, {})[name] = label
    a = queue_actions.c
    skips = sa.select(a.text_id).where(a.labeller == labeller, a.action == SKIP, a.undone_at.is_(None))
    skipped = {index.by_text[text] for text in connection.execute(skips).scalars() if text in index.by_text}
    places = {prediction_id: index.by_prediction[prediction_id] for prediction_id in labels}
    mine = {places[id]: opinions[labeller] for id, opinions in labels.items() if labeller in opinions}
    done = frozenset(places[id] for id, opinions in labels.items() if is_done(opinions, people))
    given = tuple((places[id], label) for id, opinions in labels.items() for label in opinions.values())
    return Standing(labels, mine, done, done | mine.keys() | skipped, given)


def is_done(opinions: Mapping[str, str], people: int) -> bool:
    """Return whether enough people give the same label."""
    return max(Counter(opinions.values()).values(), default=0) >= people
