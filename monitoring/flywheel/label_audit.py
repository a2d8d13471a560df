"""Finds labels of the corpus that are probably wrong, by confident learning on out-of-fold probabilities. Changes no label.

Logistic regression on embeddings of the untouched base model judges each row in a fold that it was not fitted on, so a wrong
label cannot speak for itself. Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels".
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.labels.suspects import SuspectLabel
from monitoring.labels.trusted_rows import TrustedRow
from pipeline.params import Flywheel

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
TINY = 1e-12
Embed = Callable[[Sequence[str]], Floats]
FitAndPredict = Callable[[Floats, Indices, Floats], Floats]  # rows, labels, other rows → their probabilities (rows, classes)


class LabelSuspicion(NamedTuple):
    """A row, its label, and the label that is more likely, with both probabilities out of fold."""

    row: int
    label: int
    likely: int
    label_probability: float
    likely_probability: float


def audit_labels(
    embedding: Floats, labels: Indices, fit: FitAndPredict, folds: int, rng: np.random.Generator
) -> list[LabelSuspicion]:
    """Return the suspect rows, the most suspect first; `labels` are class indices without gaps."""
    return find_suspects(out_of_fold(embedding, labels, fit, folds, rng), labels)


def out_of_fold(embedding: Floats, labels: Indices, fit: FitAndPredict, folds: int, rng: np.random.Generator) -> Floats:
    """Return probabilities (rows, classes), each row's by a model fitted without its fold; folds share out each class."""
    fold = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        fold[rows] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    probabilities = np.zeros((len(labels), int(labels.max()) + 1))
    for number in range(folds):
        held = fold == number
        if held.any():
            probabilities[held] = fit(embedding[~held], labels[~held], embedding[held])
    return probabilities


def find_suspects(probabilities: Floats, labels: Indices) -> list[LabelSuspicion]:
    """Return the rows whose label is probably wrong, the most suspect first.

    How many: the off-diagonal of the confident joint, that is the rows whose likeliest confident class is not their label; a row
    is confident about a class when its probability is at least the mean that the class has on the rows with its label. Which:
    those with the lowest probability of the label / probability of the likeliest other class.

    >>> find_suspects(np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.05, 0.95]]), np.array([0, 1, 1, 0]))
    [LabelSuspicion(row=3, label=0, likely=1, label_probability=0.05, likely_probability=0.95)]
    """
    rows = np.arange(len(labels))
    of_label = probabilities[rows, labels]
    sizes = np.bincount(labels, minlength=probabilities.shape[1])
    thresholds = np.bincount(labels, weights=of_label, minlength=probabilities.shape[1]) / np.maximum(sizes, 1)
    confident = np.where(probabilities >= np.where(sizes, thresholds, np.inf), probabilities, -1.0)
    count = int(((confident.max(axis=1) >= 0) & (confident.argmax(axis=1) != labels)).sum())
    others = probabilities.copy()
    others[rows, labels] = -1.0
    likely = others.argmax(axis=1)
    ratio = of_label / np.maximum(others[rows, likely], TINY)
    return [
        LabelSuspicion(int(row), int(labels[row]), int(likely[row]), float(of_label[row]), float(others[row, likely[row]]))
        for row in np.argsort(ratio, kind="stable")[:count]
    ]


def audit_corpus(
    corpus: Mapping[str, TrustedRow], embed: Embed, fit: FitAndPredict, settings: Flywheel, now: float
) -> list[SuspectLabel]:
    """Return the most suspect labels of the corpus, at most `flywheel.budget`; rows are by content id.

    A class needs `flywheel.audit_folds` rows to be judged: smaller ones are left out.
    """
    names = Counter(row.label for row in corpus.values())
    judged = {key: row for key, row in corpus.items() if names[row.label] >= settings.audit_folds}
    classes = sorted({row.label for row in judged.values()})
    if len(classes) < 2:
        return []
    keys = sorted(judged)
    labels = np.array([classes.index(judged[key].label) for key in keys], dtype=np.int64)
    embedding = embed([judged[key].text for key in keys])
    found = audit_labels(embedding, labels, fit, settings.audit_folds, np.random.default_rng(settings.seed))
    return [
        SuspectLabel(keys[row], judged[keys[row]].text, classes[label], classes[likely], round(given, 4), round(other, 4), now)
        for row, label, likely, given, other in found[: settings.budget]
    ]
