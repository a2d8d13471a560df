"""Disputes: labels that contradict a row that measures a model. Such a row never changes by itself; a person settles it.

A dispute is computed from opinions and protected rows. Only its settlement is stored, dated and with a name.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import sqlalchemy as sa

from monitoring.labels.opinions import Opinions
from pipeline.errors import InputError
from state.tables import settlements

Verdict = Literal["keep", "change"]


class Settlement(NamedTuple):
    """A decision on one label of a protected row; `change` makes it the row's label in the next data set."""

    id: int
    text_id: str
    label: str
    verdict: str
    settled_by: str
    settled_at: float  # seconds of the epoch


class DisputedLabel(NamedTuple):
    """A protected row, and another label that people give it."""

    text_id: str
    text: str
    protected_label: str
    label: str
    labellers: tuple[str, ...]
    first_at: float  # seconds of the epoch
    last_at: float
    settlement: Settlement | None  # None: open


def find_disputes(opinions: Opinions, protected: Mapping[str, str], settled: Sequence[Settlement]) -> list[DisputedLabel]:
    """Return the disputes, those of most people first; `protected` are the labels by content id. Pure."""
    changed = changed_labels(settled)
    disputes = []
    for key, labelled in opinions.texts.items():
        if key not in protected:
            continue
        change = changed.get(key)
        current = change.label if change else protected[key]
        for label in dict.fromkeys(opinion.label for opinion in labelled.opinions):
            if label == current:
                continue
            times = [opinion.received_at for opinion in labelled.opinions if opinion.label == label]
            later = [s for s in settled if (s.text_id, s.label) == (key, label) and (change is None or s.id > change.id)]
            people, settlement = tuple(labelled.labellers_of(label)), later[-1] if later else None
            disputes.append(DisputedLabel(key, labelled.text, current, label, people, min(times), max(times), settlement))
    return sorted(disputes, key=lambda dispute: (-len(dispute.labellers), dispute.first_at, dispute.text_id, dispute.label))


def changed_labels(settled: Sequence[Settlement]) -> dict[str, Settlement]:
    """Return the latest change of each protected row, by content id."""
    return {settlement.text_id: settlement for settlement in sorted(settled) if settlement.verdict == "change"}


def read_settlements(connection: sa.Connection) -> list[Settlement]:
    """Read all settlements, in order."""
    c = settlements.c
    rows = connection.execute(sa.select(c.id, c.text_id, c.label, c.verdict, c.settled_by, c.settled_at).order_by(c.id))
    return [Settlement(id, text, label, verdict, by, at.timestamp()) for id, text, label, verdict, by, at in rows]


def open_disputes(disputes: Sequence[DisputedLabel], text_id: str, label: str | None, verdict: Verdict) -> list[DisputedLabel]:
    """Return the open disputes that a verdict on this text settles; raise `InputError` when it does not say which."""
    matches = [
        dispute
        for dispute in disputes
        if dispute.settlement is None and dispute.text_id == text_id and label in (None, dispute.label)
    ]
    if not matches:
        raise InputError(text_id, "there is no open dispute about this text and label", ".venv/bin/evergreen disputes lists them")
    if verdict == "change" and len(matches) > 1:
        named = ", ".join(dispute.label for dispute in matches)
        raise InputError(text_id, f"people give it several labels: {named}", "choose one with --label")
    return matches


def settle(connection: sa.Connection, dispute: DisputedLabel, verdict: Verdict, settled_by: str) -> None:
    """Store the settlement of a dispute."""
    row = {"text_id": dispute.text_id, "label": dispute.label, "verdict": verdict, "settled_by": settled_by}
    connection.execute(settlements.insert().values(**row, settled_at=datetime.now(UTC)))
