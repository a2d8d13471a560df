"""Texts on which people disagree, and the label that counts by the rules of `monitoring.labels.agreement`. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from monitoring.labels.opinions import Opinions
from pipeline.data.records import text_id


class LabelConflict(NamedTuple):
    """A text with several labels."""

    text_id: str
    text: str
    given: Mapping[str, tuple[str, ...]]  # label → who gives it, in order of receipt
    counts: str | None  # the label in the next data set; None: none yet


def find_conflicts(opinions: Opinions, rows: Iterable[Mapping[str, Any]]) -> list[LabelConflict]:
    """Return the conflicts in order of receipt; `rows` are those that the opinions make."""
    label_of = {text_id(row["text"]): str(row["label"]) for row in rows}
    conflicts = []
    for key, labelled in opinions.texts.items():
        labels = dict.fromkeys(opinion.label for opinion in labelled.opinions)
        if len(labels) > 1:
            given = {label: tuple(labelled.labellers_of(label)) for label in labels}
            conflicts.append(LabelConflict(key, labelled.text, given, label_of.get(key)))
    return conflicts
