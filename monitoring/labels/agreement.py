"""The rules by which opinions become rows: how many labellers a label needs, and which rows no label changes. Pure.

A new text needs `labels.new_text_people`, and a text of the corpus `labels.overrule_people` to get another label.
A protected row keeps its label, and a new text that nearly equals one is not learnt from. A label that the champion lacks is a
proposal until enough people agree on it. When people disagree on a text, the label that most of them give counts, in a tie the
one of the corpus or the earlier one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from monitoring.labels.disputes import Settlement, changed_labels
from monitoring.labels.opinions import SOURCE, LabelledText, Opinions
from monitoring.labels.trusted_rows import TrustedRows
from pipeline.data.given_labels import SETTLEMENT
from pipeline.data.records import normalise_label, text_id
from pipeline.params import Params, Retrain

Row = dict[str, Any]
FENCED = "nearly equal to rows that measure the model"


class LabelCount(NamedTuple):
    """The number of texts that got a label, and of people who gave it."""

    label: str
    texts: int
    people: int


class MergedFeedback(NamedTuple):
    """Rows for the file (`text`, `label`, `labellers`, `given_at`, `source`), and the number of texts skipped, by reason."""

    rows: list[Row]
    skipped: dict[str, int]

    @property
    def summary(self) -> str:
        """Describe the rows in one line."""
        skipped = "".join(f", {count} {reason}" for reason, count in sorted(self.skipped.items()))
        return f"{len(self.rows)} labelled texts{skipped}"


def is_agreed(count: LabelCount, settings: Retrain) -> bool:
    """Return whether a label that the champion lacks is more than a proposal."""
    return count.people >= settings.proposal_people and count.texts >= settings.proposal_texts


def merge_feedback(
    stored: Sequence[Mapping[str, Any]],
    opinions: Opinions,
    trusted: TrustedRows,
    settlements: Sequence[Settlement],
    known_labels: Iterable[str],
    params: Params,
) -> MergedFeedback:
    """Return the rows that these opinions and settlements make.

    `stored` are the rows of earlier retrains. Those that name their labellers are made again from the opinions. The others, of
    earlier releases, stay until there is an opinion on their text.
    """
    skipped = Counter(opinions.skipped)
    corpus = {key: row.label for key, row in trusted.corpus.items()}
    rows: dict[str, Row] = {}
    for row in stored:
        key = text_id(row["text"])
        if not row.get("labellers") and row.get("source") != SETTLEMENT and not _is_overruled(key, row, corpus, params):
            rows[key] = {"text": row["text"], "label": row["label"], "labellers": [], "given_at": None, "source": SOURCE}
    known = set(known_labels) | set(corpus.values()) | {row["label"] for row in rows.values()}
    majority = {key: _label_of(key, labelled, trusted) for key, labelled in opinions.texts.items()}
    accepted = _agreed_labels(opinions, majority, params.retrain) | known
    for key, label in majority.items():
        labelled, rows_label = opinions.texts[key], corpus.get(key)
        people = params.labels.new_text_people if rows_label in (None, label) else params.labels.overrule_people
        labellers = labelled.labellers_of(label)
        if key in trusted.protected and label != trusted.protected[key]:
            skipped["disputed"] += 1
        elif key not in trusted.protected and rows_label is None and _is_fenced(labelled.text, trusted):
            skipped[FENCED] += 1
        elif label not in accepted:
            skipped["only proposed"] += 1
        elif len(labellers) < people:
            skipped["by too few people"] += 1
        else:
            last = max(opinion.received_at for opinion in labelled.opinions if opinion.label == label)
            rows[key] = _row(labelled.text, label, labellers, last, SOURCE)
    texts = _texts_by_id(stored, opinions, trusted)
    for key, settled in changed_labels(settlements).items():
        if key in texts:
            rows[key] = _row(texts[key], settled.label, [settled.settled_by], settled.settled_at, SETTLEMENT)
    return MergedFeedback([rows[key] for key in sorted(rows)], dict(skipped))


def _is_fenced(text: str, trusted: TrustedRows) -> bool:
    return trusted.fence is not None and trusted.fence.measuring_text(text) is not None


def _texts_by_id(stored: Sequence[Mapping[str, Any]], opinions: Opinions, trusted: TrustedRows) -> dict[str, str]:
    known = {text_id(row["text"]): str(row["text"]) for row in stored}
    known |= {key: labelled.text for key, labelled in opinions.texts.items()}
    return known | {key: row.text for key, row in trusted.corpus.items()}


def _row(text: str, label: str, labellers: list[str], at: float, source: str) -> Row:
    given_at = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return {"text": text, "label": label, "labellers": labellers, "given_at": given_at, "source": source}


def _is_overruled(key: str, row: Mapping[str, Any], corpus: Mapping[str, str], params: Params) -> bool:
    """Return whether the corpus has another label for a stored row that names nobody: at best one person gave it."""
    return corpus.get(key, row["label"]) != row["label"] and params.labels.overrule_people > 1


def _label_of(key: str, labelled: LabelledText, trusted: TrustedRows) -> str:
    """Return the label that counts: of a protected row without a row in the corpus its own, while anyone still gives it."""
    protected, row = trusted.protected.get(key), trusted.corpus.get(key)
    if protected is not None and row is None and labelled.labellers_of(protected):
        return protected
    return _majority_label(labelled, row.label if row else None)


def _majority_label(labelled: LabelledText, corpus_label: str | None) -> str:
    """Return the label given by most people, in a tie the one of the corpus or the one given first."""
    people = Counter(opinion.label for opinion in labelled.opinions)
    first = max(people, key=lambda label: people[label])  # max returns the first of equals, in order of receipt
    return corpus_label if corpus_label is not None and people[corpus_label] == people[first] else first


def _agreed_labels(opinions: Opinions, majority: Mapping[str, str], settings: Retrain) -> set[str]:
    """Return labels that enough people give to enough texts; of several spellings the most used one counts."""
    people = defaultdict(set)
    for labelled in opinions.texts.values():
        for opinion in labelled.opinions:
            people[opinion.label].add(opinion.labeller)
    texts = Counter(majority.values())
    agreed = [label for label in texts if is_agreed(LabelCount(label, texts[label], len(people[label])), settings)]
    by_spelling: dict[str, str] = {}
    for label in sorted(agreed, key=lambda label: (-texts[label], label)):
        by_spelling.setdefault(normalise_label(label), label)
    return set(by_spelling.values())
