"""Which texts of a release people are asked: those on which its versions differ, in order of arrival, one label each.

The evidence and the label queue share these rules. A text that a person skips is offered to the others; once everybody who has
used the queue lately has passed on it, or `PASSES` people have, the release goes on without it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.labels.entries import is_counted
from monitoring.release.copied_texts import CopiedText
from state.tables import feedback, queue_actions

PASSES = 2
LATELY_S = 86_400.0  # before the release began


class ReleaseLabels(NamedTuple):
    """What people said about predictions since a release began, by prediction id."""

    labels: Mapping[str, str]  # the first that counts
    passed: Mapping[str, frozenset[str]]  # who skipped it, or gave it a label that does not count
    people: frozenset[str]  # who have used the queue lately

    def is_given_up(self, prediction_id: str) -> bool:
        """Return whether nobody is expected to label this text any more."""
        passed = self.passed.get(prediction_id, frozenset())
        return bool(passed) and prediction_id not in self.labels and (len(passed) >= PASSES or self.people <= passed)


def read_release_labels(connection: sa.Connection, since: float) -> ReleaseLabels:
    """Read the labels in force, and what people did in the queue, since a release began."""
    f, a = feedback.c, queue_actions.c
    counted = is_counted() & (f.received_at >= datetime.fromtimestamp(since, UTC))
    labels: dict[str, str] = {}
    for id, label in connection.execute(sa.select(f.prediction_id, f.label).where(counted).order_by(f.id)):
        labels.setdefault(id, label)
    acted: defaultdict[str, set[str]] = defaultdict(set)
    lately = sa.select(a.prediction_id, a.labeller).where(a.undone_at.is_(None), a.at >= since - LATELY_S)
    for id, labeller in connection.execute(lately):
        acted[id].add(labeller)
    passed = {id: frozenset(names) for id, names in acted.items() if id not in labels}
    return ReleaseLabels(labels, passed, frozenset().union(*acted.values()))


def differing_texts(texts: Sequence[CopiedText], said: ReleaseLabels, limit: int) -> Iterator[CopiedText]:
    """Yield the differing texts that the release needs, in order, until `limit` of them have or wait for a label.

    Texts that the log does not keep, and those that are given up, are left out.
    """
    left = limit
    for text in texts:
        if not left:
            return
        if text.differs and (text.prediction_id in said.labels or (text.text and not said.is_given_up(text.prediction_id))):
            left -= 1
            yield text


def waiting_texts(texts: Sequence[CopiedText], said: ReleaseLabels, limit: int) -> list[CopiedText]:
    """Return the texts that wait for a label, the next one first."""
    return [text for text in differing_texts(texts, said, limit) if text.prediction_id not in said.labels]
