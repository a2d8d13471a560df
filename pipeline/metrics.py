"""Scores of a classifier: accuracy, F1, intervals by bootstrap, calibration. Pure: arrays in, numbers out."""

from collections import Counter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A score and the bounds of its interval."""

    value: float
    low: float
    high: float


class ClassScores(NamedTuple):
    """Scores of one class on the test rows."""

    precision: float
    recall: float
    f1: Interval
    rows: int


def confusion(truth: Indices, guess: Indices, classes: int) -> Indices:
    """(classes, classes) counts; rows are the truth."""
    return np.bincount(truth * classes + guess, minlength=classes * classes).reshape(classes, classes)


def f1_by_class(matrix: NDArray[np.int64]) -> Floats:
    """2 TP / (2 TP + FP + FN) of each class, 0 for one that neither occurs nor is guessed."""
    hits = np.diagonal(matrix)
    seen_or_said = matrix.sum(axis=0) + matrix.sum(axis=1)
    return np.divide(2.0 * hits, seen_or_said, out=np.zeros(len(hits)), where=seen_or_said > 0)


def f1_macro(matrix: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur or are guessed, as scikit-learn averages."""
    occurs = matrix.sum(axis=0) + matrix.sum(axis=1) > 0
    return float(f1_by_class(matrix)[occurs].mean())


def f1_micro(matrix: NDArray[np.int64]) -> float:
    """2 TP / (2 TP + FP + FN) with counts summed over classes; with one label a row it equals accuracy."""
    hits = np.trace(matrix)
    misses = matrix.sum() - hits
    return float(2 * hits / (2 * hits + 2 * misses))


def accuracy(matrix: NDArray[np.int64]) -> float:
    """Share of rows on the diagonal."""
    return float(np.trace(matrix) / matrix.sum())


class Bootstrap:
    """Percentile intervals (Efron 1979) over rows drawn with replacement; the same draws for all scores, so they compare."""

    def __init__(self, rows: int, resamples: int, confidence: float, seed: int) -> None:
        self.draws = np.random.default_rng(seed).integers(0, rows, size=(resamples, rows))
        tail = 50 * (1 - confidence)
        self.percentiles = (tail, 100 - tail)

    def confusions(self, truth: Indices, guess: Indices, classes: int) -> list[Indices]:
        """One confusion matrix a draw."""
        return [confusion(truth[draw], guess[draw], classes) for draw in self.draws]

    def interval(self, value: float, resampled: list[float]) -> Interval:
        """The score with the percentiles of its resampled values."""
        low, high = np.percentile(resampled, self.percentiles)
        return Interval(value, float(low), float(high))


def class_scores(truth: Indices, guess: Indices, classes: int, bootstrap: Bootstrap) -> list[ClassScores]:
    """Precision, recall and F1 with its interval, for each class index."""
    matrix = confusion(truth, guess, classes)
    resampled = np.stack([f1_by_class(one) for one in bootstrap.confusions(truth, guess, classes)])
    f1 = f1_by_class(matrix)
    said, seen = matrix.sum(axis=0), matrix.sum(axis=1)
    return [
        ClassScores(
            precision=float(matrix[c, c] / max(1, said[c])),
            recall=float(matrix[c, c] / max(1, seen[c])),
            f1=bootstrap.interval(float(f1[c]), resampled[:, c].tolist()),
            rows=int(seen[c]),
        )
        for c in range(classes)
    ]


def softmax(logits: Floats) -> Floats:
    """(N, classes) → rows that sum to 1."""
    return np.asarray(special.softmax(logits, axis=1))


def negative_log_likelihood(logits: Floats, truth: Indices, temperature: float = 1.0) -> float:
    """Mean −log p of the true class, in nats."""
    return float(-special.log_softmax(logits / temperature, axis=1)[np.arange(len(truth)), truth].mean())


def fit_temperature(logits: Floats, truth: Indices) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017), between 1/20 and 20."""
    bound = np.log(20.0)
    found = minimize_scalar(
        lambda t: negative_log_likelihood(logits, truth, float(np.exp(t))), bounds=(-bound, bound), method="bounded"
    )
    return float(np.exp(found.x))


def calibration_error(probabilities: Floats, truth: Indices, bins: int) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |accuracy − confidence| over equal-width bins, weighted by rows."""
    return float(sum(weight * abs(right - sure) for sure, right, weight in reliability(probabilities, truth, bins)))


def reliability(probabilities: Floats, truth: Indices, bins: int) -> list[tuple[float, float, float]]:
    """(mean confidence, accuracy, share of rows) of each bin that has rows."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[which == b].mean()), float(right[which == b].mean()), float((which == b).mean()))
        for b in range(bins)
        if (which == b).any()
    ]


def most_confused(truth: Indices, guess: Indices, most: int) -> list[tuple[int, int, int]]:
    """(true class, guessed class, rows) of the most frequent mistakes; ties by class index."""
    wrong = Counter((int(t), int(g)) for t, g in zip(truth, guess, strict=True) if t != g)
    return [(t, g, rows) for (t, g), rows in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:most]]


def mcnemar(gained: int, lost: int, alternative: Literal["two-sided", "greater"] = "two-sided") -> float:
    """Exact p of equal accuracy on paired rows, of which so many only one side or only the other gets right (McNemar 1947)."""
    return float(binomtest(gained, gained + lost, alternative=alternative).pvalue) if gained + lost else 1.0
