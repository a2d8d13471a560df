"""Turns feedback into training rows in one cumulative file. A label is data and nothing else.

A row of feedback names a prediction, whose text is in the prediction log. When people disagree on a text, the label that most of
them give counts, the earlier one in a tie. A label that the champion lacks is a proposal until enough people agree on it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
import structlog
from pydantic import ValidationError

from monitoring.retrain.new_labels import LabelCount, is_agreed
from pipeline.atomic_write import atomic_write
from pipeline.data.records import Columns, make_example, normalise_label, text_id
from pipeline.params import Params, Retrain
from serving.prediction_log.segments import read_tables
from serving.prediction_log.writer import log_url
from state.tables import feedback

FILE = "feedback.jsonl"
SOURCE = "feedback"
log = structlog.get_logger()


class FeedbackEntry(NamedTuple):
    """A row of the feedback table."""

    id: int  # ordered by time of receipt
    prediction_id: str
    label: str
    person: str
    received_at: float  # seconds of the epoch


class MergedFeedback(NamedTuple):
    """Rows for the file (`text`, `label`), the last feedback id read, and the number of entries skipped, by reason."""

    rows: list[dict[str, str]]
    last_id: int
    skipped: dict[str, int]

    @property
    def summary(self) -> str:
        """Describe the rows in one line."""
        skipped = "".join(f", {count} {reason}" for reason, count in sorted(self.skipped.items()))
        return f"{len(self.rows)} labelled texts{skipped}"


def merge_feedback(
    stored: Sequence[Mapping[str, str]],
    entries: Sequence[FeedbackEntry],
    texts: Mapping[str, str],
    known_labels: frozenset[str],
    params: Params,
) -> MergedFeedback:
    """Merge feedback into the stored rows; newer feedback on a text replaces its row. Pure.

    `texts` are by prediction id; `known_labels` are the champion's.
    """
    skipped: Counter[str] = Counter()
    rows: dict[str, dict[str, str]] = {text_id(row["text"]): {"text": row["text"], "label": row["label"]} for row in stored}
    known = known_labels | {row["label"] for row in rows.values()}
    canonical = {normalise_label(label): label for label in sorted(known, reverse=True)}
    by_text: dict[str, list[FeedbackEntry]] = defaultdict(list)
    text_of: dict[str, str] = {}
    for entry in sorted(entries):
        text = texts.get(entry.prediction_id)
        if text is None:
            skipped["without a text in the log"] += 1
            continue
        label = canonical.get(normalise_label(entry.label), entry.label)
        row = _valid_row(text, label, params)
        if row is None:
            skipped["invalid"] += 1
            continue
        key = text_id(row["text"])
        text_of[key] = row["text"]
        by_text[key].append(entry._replace(label=row["label"]))
    majority = {key: _majority_label(group) for key, group in by_text.items()}
    accepted = _agreed_labels([entry for group in by_text.values() for entry in group], majority, params.retrain) | known
    for key, label in majority.items():
        if label in accepted:
            rows[key] = {"text": text_of[key], "label": label}
        else:
            skipped["only proposed"] += 1
    last_id = max((entry.id for entry in entries), default=0)
    return MergedFeedback([rows[key] for key in sorted(rows)], last_id, dict(skipped))


def read_feedback(connection: sa.Connection) -> list[FeedbackEntry]:
    """Read all feedback."""
    c = feedback.c
    rows = connection.execute(sa.select(c.id, c.prediction_id, c.label, c.source, c.received_at).order_by(c.id))
    return [FeedbackEntry(id, prediction_id, label, person, at.timestamp()) for id, prediction_id, label, person, at in rows]


def find_texts(params: Params, home: Path, entries: Iterable[FeedbackEntry]) -> dict[str, str]:
    """Return the text of each prediction with feedback, where the log still has it and stores texts."""
    wanted = {entry.prediction_id: entry.received_at for entry in entries}
    if not wanted:
        return {}
    since = min(wanted.values()) - params.retrain.feedback_reach_s
    texts: dict[str, str] = {}
    ids = pa.array(list(wanted))
    url = log_url(params.log, home)
    for table in read_tables(url, since=since, on_skipped=lambda path: log.warning("skipped", path=path)):
        matches = table.filter(pc.is_in(table["id"], value_set=ids))
        pairs = zip(matches["id"].to_pylist(), matches["text"].to_pylist(), strict=True)
        texts |= {id: text for id, text in pairs if text is not None}
        if len(texts) == len(wanted):
            break
    return texts


def read_file(path: Path) -> list[dict[str, str]]:
    """Read the rows of earlier retrains; empty without a file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_file(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write one row a line, in ASCII, so that no label can end a line."""
    with atomic_write(path) as part:
        part.write_text("".join(f"{json.dumps({**row, 'source': SOURCE})}\n" for row in rows), encoding="ascii")


def _valid_row(text: str, label: str, params: Params) -> dict[str, str] | None:
    """Return the row as stage ingest would accept it, or None."""
    fields = {"text": text, "label": label}
    try:
        example = make_example(fields, Columns("text", "label"), max_text_chars=params.data.max_text_chars, source=SOURCE)
    except ValidationError:
        return None
    return {"text": example.text, "label": str(example.label)} if example.label else None


def _majority_label(entries: Sequence[FeedbackEntry]) -> str:
    """Return the label given by most people, in a tie the one given first."""
    people = defaultdict(set)
    for entry in entries:
        people[entry.label].add(entry.person)
    return max(people, key=lambda label: len(people[label]))  # max returns the first of equals, in order of receipt


def _agreed_labels(entries: Sequence[FeedbackEntry], majority: Mapping[str, str], settings: Retrain) -> set[str]:
    """Return labels that enough people give to enough texts; of several spellings the most used one counts."""
    people = defaultdict(set)
    for entry in entries:
        people[entry.label].add(entry.person)
    texts = Counter(majority.values())
    agreed = [label for label in texts if is_agreed(LabelCount(label, texts[label], len(people[label])), settings)]
    by_spelling: dict[str, str] = {}
    for label in sorted(agreed, key=lambda label: (-texts[label], label)):
        by_spelling.setdefault(normalise_label(label), label)
    return set(by_spelling.values())
