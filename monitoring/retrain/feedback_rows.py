"""From feedback to rows that can be trained on: one cumulative file, in which a label is data and nothing else.

An opinion speaks of a prediction; its text is in the prediction log. Several opinions on one text are counted: the label most
people give stands, the earlier one where two are even. A label the champion lacks is a proposal until enough people agree on it.
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

from monitoring.retrain.new_labels import Said, is_agreed
from pipeline.atomic_write import atomic_write
from pipeline.data.records import Columns, make_example, normalise_label, text_id
from pipeline.params import Params, Retrain
from serving.prediction_log.segments import read_tables
from serving.prediction_log.writer import log_url
from state.tables import feedback

FILE = "feedback.jsonl"
SOURCE = "feedback"
log = structlog.get_logger()


class Opinion(NamedTuple):
    """A row of feedback."""

    number: int  # in the order in which it came
    prediction: str
    label: str
    person: str
    at: float  # seconds of the epoch


class Collected(NamedTuple):
    """Rows for the file (`text`, `label`), the last row of feedback that was read, and what was left out, by reason."""

    rows: list[dict[str, str]]
    upto: int
    left_out: dict[str, int]

    @property
    def told(self) -> str:
        """For people."""
        aside = "".join(f", {count} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{len(self.rows)} labelled texts{aside}"


def collect(
    before: Sequence[Mapping[str, str]],
    opinions: Sequence[Opinion],
    texts: Mapping[str, str],
    labels: frozenset[str],
    params: Params,
) -> Collected:
    """Merge: what the file held before stays, and newer opinions on a text take its place. Pure.

    `texts` are by prediction; `labels` are those the champion has.
    """
    left_out: Counter[str] = Counter()
    kept: dict[str, dict[str, str]] = {text_id(row["text"]): {"text": row["text"], "label": row["label"]} for row in before}
    learnt = labels | {row["label"] for row in kept.values()}
    named = {normalise_label(label): label for label in sorted(learnt, reverse=True)}
    of_text: dict[str, list[Opinion]] = defaultdict(list)
    shown: dict[str, str] = {}
    for opinion in sorted(opinions):
        text = texts.get(opinion.prediction)
        if text is None:
            left_out["without their text"] += 1
            continue
        label = named.get(normalise_label(opinion.label), opinion.label)
        row = _acceptable(text, label, params)
        if row is None:
            left_out["not acceptable"] += 1
            continue
        key = text_id(row["text"])
        shown[key] = row["text"]
        of_text[key].append(opinion._replace(label=row["label"]))
    said = {key: _most_said(own) for key, own in of_text.items()}
    agreed = _agreed([one for own in of_text.values() for one in own], said, params.retrain) | learnt
    for key, label in said.items():
        if label in agreed:
            kept[key] = {"text": shown[key], "label": label}
        else:
            left_out["only proposed"] += 1
    upto = max((opinion.number for opinion in opinions), default=0)
    return Collected([kept[key] for key in sorted(kept)], upto, dict(left_out))


def read_opinions(connection: sa.Connection) -> list[Opinion]:
    """All feedback there is."""
    c = feedback.c
    rows = connection.execute(sa.select(c.id, c.prediction_id, c.label, c.source, c.received_at).order_by(c.id))
    return [Opinion(number, id, label, person, at.timestamp()) for number, id, label, person, at in rows]


def find_texts(params: Params, home: Path, opinions: Iterable[Opinion]) -> dict[str, str]:
    """The text of each prediction that is spoken of, where the log still has it and keeps texts."""
    wanted = {opinion.prediction: opinion.at for opinion in opinions}
    if not wanted:
        return {}
    since = min(wanted.values()) - params.retrain.feedback_reach_s
    found: dict[str, str] = {}
    ids = pa.array(list(wanted))
    for table in read_tables(log_url(params.log, home), since=since, on_skipped=lambda path: log.warning("skipped", path=path)):
        own = table.filter(pc.is_in(table["id"], value_set=ids))
        pairs = zip(own["id"].to_pylist(), own["text"].to_pylist(), strict=True)
        found |= {id: text for id, text in pairs if text is not None}
        if len(found) == len(wanted):
            break
    return found


def read_file(path: Path) -> list[dict[str, str]]:
    """What an earlier retrain had collected; nothing where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_file(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """One row a line, in ASCII: no label can end a line."""
    with atomic_write(path) as part:
        part.write_text("".join(f"{json.dumps({**row, 'source': SOURCE})}\n" for row in rows), encoding="ascii")


def _acceptable(text: str, label: str, params: Params) -> dict[str, str] | None:
    """The row as stage ingest would take it; None: it would not."""
    fields = {"text": text, "label": label}
    try:
        example = make_example(fields, Columns("text", "label"), max_text_chars=params.data.max_text_chars, source=SOURCE)
    except ValidationError:
        return None
    return {"text": example.text, "label": str(example.label)} if example.label else None


def _most_said(opinions: Sequence[Opinion]) -> str:
    """The label that most people give; the one that was given first where several are even."""
    people = defaultdict(set)
    for opinion in opinions:
        people[opinion.label].add(opinion.person)
    return max(people, key=lambda label: len(people[label]))  # of equals the first, in the order in which they came


def _agreed(opinions: Sequence[Opinion], said: Mapping[str, str], settings: Retrain) -> set[str]:
    """Labels that enough people give, to enough texts; of several spellings of one the most used counts."""
    people = defaultdict(set)
    for opinion in opinions:
        people[opinion.label].add(opinion.person)
    texts = Counter(said.values())
    enough = [label for label in texts if is_agreed(Said(label, texts[label], len(people[label])), settings)]
    best: dict[str, str] = {}
    for label in sorted(enough, key=lambda label: (-texts[label], label)):
        best.setdefault(normalise_label(label), label)
    return set(best.values())
