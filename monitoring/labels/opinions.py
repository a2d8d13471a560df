"""Opinions on texts: each labeller's latest label of a text, whatever prediction it was given on. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pydantic import ValidationError

from monitoring.labels.entries import FeedbackEntry
from pipeline.data.columns import Columns
from pipeline.data.records import make_example, normalise_label, text_id
from pipeline.params import Data

SOURCE = "feedback"


class LabelledText(NamedTuple):
    """A text, and the opinions on it in order of receipt, one a labeller."""

    text: str
    opinions: tuple[FeedbackEntry, ...]

    def labellers_of(self, label: str) -> list[str]:
        """Return who gives this label, by name."""
        return sorted(opinion.labeller for opinion in self.opinions if opinion.label == label)


class Opinions(NamedTuple):
    """Texts with opinions by content id, and the number of entries skipped, by reason."""

    texts: dict[str, LabelledText]
    skipped: dict[str, int]


def collect_opinions(
    entries: Iterable[FeedbackEntry], texts: Mapping[str, str], known_labels: Iterable[str], data: Data
) -> Opinions:
    """Return the opinions on each text; another spelling of a known label is that label. `texts` are by prediction id."""
    skipped: Counter[str] = Counter()
    canonical = {normalise_label(label): label for label in sorted(known_labels, reverse=True)}
    text_of: dict[str, str] = {}
    latest: dict[str, dict[str, FeedbackEntry]] = {}
    for entry in sorted(entries):
        text = texts.get(entry.prediction_id)
        if text is None:
            skipped["without a text in the log"] += 1
            continue
        row = valid_row(text, canonical.get(normalise_label(entry.label), entry.label), data)
        if row is None:
            skipped["invalid"] += 1
            continue
        key = text_id(row["text"])
        text_of[key] = row["text"]
        latest.setdefault(key, {})[entry.labeller] = entry._replace(label=row["label"])
    labelled = {key: LabelledText(text_of[key], tuple(sorted(group.values()))) for key, group in latest.items()}
    return Opinions(labelled, dict(skipped))


def valid_row(text: str, label: str, data: Data) -> dict[str, str] | None:
    """Return the row as stage ingest would accept it, or None."""
    fields = {"text": text, "label": label}
    try:
        example = make_example(fields, Columns("text", "label"), max_text_chars=data.max_text_chars, source=SOURCE)
    except ValidationError:
        return None
    return {"text": example.text, "label": str(example.label)} if example.label else None
