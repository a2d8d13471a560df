"""Decides which labels from people change the data set, and which wait or are disputed. Pure: rows in, rows and reasons out.

A row that measures a model (test or validation side of the split, or a supplied test file) keeps its label, because labels from
people must not change both the training and the test. Only a dated settlement of a dispute changes it. A training row changes
when enough people agree. A new text that nearly equals a row that measures a model is not learnt from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.data.fence import Fence
from pipeline.data.records import Example
from pipeline.data.split_sides import MIN_TEST_ROWS, Side, side_of
from pipeline.params import Params, Split

SETTLEMENT = "settlement"  # source of a row of feedback that settles a dispute
GIVEN = "given"  # in `Example.meta` of a row whose label comes from people: labellers, and the corpus label that it overrules
FENCED = "fenced off from training"  # reason of a new text that nearly equals a row that measures a model
SETTLED = "settled"  # in `Example.meta` of a row whose dispute was settled: by whom, when, and the label before


class LabelRules(NamedTuple):
    """How many people a label needs, the split that names the rows that measure a model, and what nearly equals them."""

    split: Split
    new_text_people: int
    overrule_people: int
    near_duplicate_jaccard: float


def label_rules(params: Params) -> LabelRules:
    """Return the rules of params.yaml."""
    return LabelRules(
        params.split, params.labels.new_text_people, params.labels.overrule_people, params.data.near_duplicate_jaccard
    )


class Dispute(NamedTuple):
    """A label from people that contradicts a row that measures a model."""

    id: str
    text: str
    label: str  # stays
    given: str
    labellers: tuple[str, ...]
    side: Side


class WaitingLabel(NamedTuple):
    """A label that is not used yet, and the reason."""

    example: Example
    reason: str


class AppliedLabels(NamedTuple):
    """The rows with the labels that count."""

    rows: list[Example]
    test: list[Example]  # of the supplied test file
    disputed: list[Dispute]
    waiting: list[WaitingLabel]
    counts: dict[str, int]  # of texts with a label from people: new, confirms, overrules, settled


def apply_given_labels(
    corpus: Sequence[Example], test: Sequence[Example], given: Sequence[Example], rules: LabelRules
) -> AppliedLabels:
    """Apply labels from people to the corpus and a supplied test file (often empty); of one text the last row counts.

    A row of `given` whose source is `settlement` is the dated decision of a person on a dispute.
    """
    rows, tested = {row.id: row for row in corpus}, {row.id: row for row in test}
    latest = {row.id: row for row in given if not _is_settlement(row)}
    settlements = {row.id: row for row in given if _is_settlement(row)}
    disputed: list[Dispute] = []
    waiting: list[WaitingLabel] = []
    uses: dict[str, str] = {}
    for id, row in latest.items():
        if id in settlements:
            continue
        known = tested.get(id) or rows.get(id)
        side: Side = "test" if id in tested else _side(known or row, rules.split, has_test=bool(test))
        if known is not None and known.label == row.label:
            uses[id] = "confirms"
        elif known is not None and side != "train":
            disputed.append(Dispute(id, known.text, str(known.label), str(row.label), labellers_of(row), side))
        elif missing := _missing_people(row, side, is_new=known is None, rules=rules):
            waiting.append(WaitingLabel(row, missing))
        elif known is None:
            uses[id] = "new"
            rows[id] = _with_meta(row, GIVEN, {"labellers": labellers_of(row), "overruled": None}, str(row.label))
        else:
            uses[id] = "overrules"
            overruling = {"labellers": labellers_of(row), "overruled": known.label}
            rows[id] = _with_meta(known, GIVEN, overruling, str(row.label))
    for id, settlement in settlements.items():
        uses[id] = "settled"
        for side_rows in (tested, rows):
            if id in side_rows:
                side_rows[id] = _settle(side_rows[id], settlement)
        if id not in tested and id not in rows:
            rows[id] = _settle(settlement, settlement)
    changed_test = [tested[row.id] if SETTLED in tested[row.id].meta else row for row in test]
    learnable = _without_fenced(list(rows.values()), uses, changed_test, rules, waiting)
    ready = _without_untestable_classes(learnable, {str(row.label) for row in corpus}, changed_test, rules.split, waiting)
    unused = {label.example.id for label in waiting}
    counts = Counter(use for id, use in uses.items() if id not in unused)
    return AppliedLabels(ready, changed_test, disputed, waiting, dict(counts))


def labellers_of(row: Example) -> tuple[str, ...]:
    """Return the names of the people who gave a row's label, in order; empty for rows written before names were stored."""
    names = row.meta.get("labellers")
    return tuple(sorted({name for name in names if isinstance(name, str)})) if isinstance(names, list | tuple) else ()


def is_given(row: Example) -> bool:
    """Return whether people gave the label of a row of the data set."""
    return isinstance(row.meta.get(GIVEN), dict)


def overruled_label(row: Example) -> str | None:
    """Return the corpus label that people overruled, or None."""
    given = row.meta.get(GIVEN)
    return given.get("overruled") if isinstance(given, dict) else None


def is_settled(row: Example) -> bool:
    """Return whether a settlement changed the label of a row of the data set."""
    settled = row.meta.get(SETTLED)
    return isinstance(settled, dict) and settled.get("before") != row.label


def _is_settlement(row: Example) -> bool:
    return row.source == SETTLEMENT


def _side(row: Example, split: Split, *, has_test: bool) -> Side:
    return side_of(row, split.seed, val_share=split.val_share, test_share=0.0 if has_test else split.test_share)


def _missing_people(row: Example, side: Side, *, is_new: bool, rules: LabelRules) -> str:
    """Return why a label needs more people, or "" when enough gave it; a row without names counts as one person."""
    if is_new and side == "train":
        what, needed, key = "a new text", rules.new_text_people, "new_text_people"
    else:
        what = "a new text that would measure the model" if is_new else "a label that overrules the source"
        needed, key = rules.overrule_people, "overrule_people"
    people = max(1, len(labellers_of(row)))
    return "" if people >= needed else f"waits for more people: {what} needs {needed} (labels.{key}), {people} gave it"


def _settle(row: Example, settlement: Example) -> Example:
    """Return the row with the settled label, its date and the person's name."""
    entry = {"at": settlement.meta.get("given_at"), "by": ", ".join(labellers_of(settlement)), "before": row.label}
    return _with_meta(row, SETTLED, entry, str(settlement.label))


def _with_meta(row: Example, key: str, entry: Mapping[str, Any], label: str) -> Example:
    return row.model_copy(update={"label": label, "meta": {**row.meta, key: dict(entry)}})


def _without_untestable_classes(
    rows: list[Example], corpus_labels: set[str], test: Sequence[Example], split: Split, waiting: list[WaitingLabel]
) -> list[Example]:
    """Let a class that only people gave wait until it has test rows and a training row, where the split refuses small classes."""
    if split.small_classes == "keep":
        return rows
    brought = {str(row.label) for row in rows} - corpus_labels
    sides = {row.id: _side(row, split, has_test=bool(test)) for row in rows if row.label in brought}
    tested = Counter(str(row.label) for row in test) + Counter(str(row.label) for row in rows if sides.get(row.id) == "test")
    trained = {row.label for row in rows if sides.get(row.id) == "train"}
    early = {label for label in brought if tested[label] < MIN_TEST_ROWS or label not in trained}
    ready = []
    for row in rows:
        if row.label in early:
            reason = f"waits for its class: `{row.label}` needs {MIN_TEST_ROWS} test rows and a training row"
            waiting.append(WaitingLabel(row, reason))
            ready += _before(row)
        else:
            ready.append(row)
    return ready


def _without_fenced(
    rows: list[Example], uses: Mapping[str, str], test: Sequence[Example], rules: LabelRules, waiting: list[WaitingLabel]
) -> list[Example]:
    """Set aside new training rows that nearly equal a row that measures a model, new ones of these included."""
    is_new = {id for id, use in uses.items() if use == "new"}
    if not is_new:
        return rows
    measuring = [*test, *(row for row in rows if _side(row, rules.split, has_test=bool(test)) != "train")]
    fence = Fence((row.text for row in measuring), rules.split, has_test=bool(test), jaccard=rules.near_duplicate_jaccard)
    ready = []
    for row in rows:
        near = fence.measuring_text(row.text) if row.id in is_new else None
        if near is None:
            ready.append(row)
        else:
            waiting.append(WaitingLabel(row, f"{FENCED}: it nearly equals “{near}”"))
    return ready


def _before(row: Example) -> list[Example]:
    """Return the row with the corpus label that people or a settlement changed; empty for a new text."""
    label = overruled_label(row) or (row.meta[SETTLED]["before"] if is_settled(row) else None)
    meta = {key: value for key, value in row.meta.items() if key not in (GIVEN, SETTLED)}
    return [row.model_copy(update={"label": label, "meta": meta})] if label else []
