"""Compares two models on the test rows that both answered, by the gate's paired tests. Pure: predictions in, numbers out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.paired_test import Flags, PairCounts, count_pairs, tango_lower_bound, tarone_rejections
from monitoring.retrain.gate.checks import f1_macro, levels, old_rows_pass
from pipeline import metrics
from pipeline.errors import InputError
from pipeline.params import Gate
from pipeline.row_predictions import RowPrediction

Labels = NDArray[np.str_]


class ComparedModel(NamedTuple):
    """A model to compare: its predictions for the test rows of its day, and the params that made it."""

    title: str
    rows: Sequence[RowPrediction]
    params: Mapping[str, str]  # `section.key` → value; empty where they are not known
    texts: Mapping[str, str]  # by id of the content, as far as they are known


class ClassChange(NamedTuple):
    """One class on the common rows, whose recall differs between the models."""

    label: str
    counts: PairCounts
    recall_a: float
    recall_b: float
    is_proved: bool  # over all classes (Tarone 1990)


class TextChange(NamedTuple):
    """A text that the models answer differently."""

    text: str  # or the id of its content
    label: str
    a: str
    b: str

    @property
    def kind(self) -> str:
        """Return whether B is right where A was not, the other way round, or both are wrong."""
        return "gained" if self.b == self.label else "lost" if self.a == self.label else "both wrong"


class ScorePair(NamedTuple):
    """ScorePair of both models on the common rows."""

    a: float
    b: float


class Comparison(NamedTuple):
    """What differs between A and B, and how sure that is."""

    counts: PairCounts  # gained: only B is right
    only_a: int  # test rows that the other model was not measured on
    only_b: int
    relabelled: int  # common rows that have another label in B, which counts
    accuracy: ScorePair
    f1_macro: ScorePair
    low: float  # of the interval of the difference of accuracies (Tango 1998)
    high: float
    p_value: float  # exact, two-sided (McNemar 1947)
    gate_passes: bool  # B, with A as the champion, by the gate's rule for rows
    classes: list[ClassChange]  # largest change first
    texts: list[TextChange]  # lost first, then gained
    params: list[tuple[str, str, str]]  # name, value in A and in B


def compare(a: ComparedModel, b: ComparedModel, settings: Gate, confidence: float) -> Comparison:
    """Compare the models; raise `InputError` when they have no test row in common."""
    rows_a, rows_b = _by_key(a.rows), _by_key(b.rows)
    keys = [key for key in rows_b if key in rows_a and (rows_b[key].label or rows_a[key].label)]
    if not keys:
        what = f"{a.title} and {b.title} were measured on different test rows"
        raise InputError("evergreen compare", what, "make both from the same data and split, or name other models")
    truth = np.array([rows_b[key].label or rows_a[key].label for key in keys], dtype=np.str_)
    said_a, said_b = (np.array([rows[key].predicted for key in keys], dtype=np.str_) for rows in (rows_a, rows_b))
    right_a, right_b = said_a == truth, said_b == truth
    counts, alpha = count_pairs(right_a, right_b), (1 - confidence) / 2
    level = levels(settings, tests_new_rows=False).old_rows
    passes = old_rows_pass(counts.rows, np.array([counts.gained]), np.array([counts.lost]), settings, level)
    changed = np.flatnonzero(said_a != said_b)
    texts = {**b.texts, **a.texts}
    changes = [TextChange(texts.get(keys[i][0], keys[i][0]), str(truth[i]), str(said_a[i]), str(said_b[i])) for i in changed]
    return Comparison(
        counts=counts,
        only_a=len(rows_a) - len(keys),
        only_b=len(rows_b) - len(keys),
        relabelled=sum(None not in (pair := (rows_a[key].label, rows_b[key].label)) and pair[0] != pair[1] for key in keys),
        accuracy=ScorePair(float(right_a.mean()), float(right_b.mean())),
        f1_macro=ScorePair(f1_macro(truth, said_a), f1_macro(truth, said_b)),
        low=tango_lower_bound(counts, alpha),
        high=-tango_lower_bound(PairCounts(counts.rows, counts.lost, counts.gained), alpha),
        p_value=metrics.mcnemar(counts.gained, counts.lost),
        gate_passes=bool(passes[0]),
        classes=class_changes(truth, right_a, right_b, 1 - confidence),
        texts=sorted(changes, key=lambda change: ("lost", "gained", "both wrong").index(change.kind)),
        params=_different_params(a.params, b.params),
    )


def class_changes(truth: Labels, right_a: Flags, right_b: Flags, alpha: float) -> list[ClassChange]:
    """Return the classes whose rows the models answer differently, those with the largest change of recall first."""
    names = np.unique(truth)
    counts = [count_pairs(right_a[truth == name], right_b[truth == name]) for name in names]
    gained, lost = (np.array([getattr(pair, key) for pair in counts]) for key in ("gained", "lost"))
    smallest = np.minimum(1.0, 2 * 0.5 ** (gained + lost))
    proved = tarone_rejections(metrics.mcnemar(gained, lost), smallest, alpha)
    changes = [
        ClassChange(str(name), pair, float(right_a[truth == name].mean()), float(right_b[truth == name].mean()), bool(is_proved))
        for name, pair, is_proved in zip(names, counts, proved, strict=True)
        if pair.gained or pair.lost
    ]
    return sorted(changes, key=lambda change: (-abs(change.counts.difference), change.label))


def _by_key(rows: Sequence[RowPrediction]) -> dict[tuple[str, int], RowPrediction]:
    """Return the rows by id and occurrence: a supplied test file may hold a text twice."""
    seen: Counter[str] = Counter()
    keyed = {}
    for row in rows:
        keyed[row.id, seen[row.id]] = row
        seen[row.id] += 1
    return keyed


def _different_params(a: Mapping[str, str], b: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return the params that differ, of the sections that both have; a key that is missing has the value `–`."""
    sections = {name.partition(".")[0] for name in a} & {name.partition(".")[0] for name in b}
    names = sorted(name for name in a.keys() | b.keys() if name.partition(".")[0] in sections)
    return [(name, a.get(name, "–"), b.get(name, "–")) for name in names if a.get(name) != b.get(name)]
