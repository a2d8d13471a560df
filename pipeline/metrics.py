"""Scores of a classifier: accuracy, F1, bootstrap intervals and calibration. Pure: arrays in, numbers out."""

from collections import Counter
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from scipy import special

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
FOLDS = 5  # in which the gain of a temperature is measured


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


class TemperatureFit(NamedTuple):
    """A temperature, and what it rests on; it stays 1 unless the gain on held-out rows is above its standard error."""

    value: float
    rows: int
    right: int  # of these rows
    gain: float  # of negative log-likelihood a row, over temperature 1
    gain_error: float


def confusion(truth: Indices, predicted: Indices, classes: int) -> Indices:
    """Return counts (classes, classes); rows are true classes, columns are predicted classes."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_by_class(matrix: NDArray[np.int64]) -> Floats:
    """Return 2 TP / (2 TP + FP + FN) of each class; 0 for a class that is neither true nor predicted anywhere."""
    hits = np.diagonal(matrix)
    total = matrix.sum(axis=0) + matrix.sum(axis=1)
    return np.divide(2.0 * hits, total, out=np.zeros(len(hits)), where=total > 0)


def f1_macro(matrix: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes that are true or predicted somewhere, as scikit-learn does."""
    occurs = matrix.sum(axis=0) + matrix.sum(axis=1) > 0
    return float(f1_by_class(matrix)[occurs].mean())


def f1_micro(matrix: NDArray[np.int64]) -> float:
    """Return 2 TP / (2 TP + FP + FN) with counts summed over classes; with one label per row it equals accuracy."""
    hits = np.trace(matrix)
    misses = matrix.sum() - hits
    return float(2 * hits / (2 * hits + 2 * misses))


def accuracy(matrix: NDArray[np.int64]) -> float:
    """Return the share of rows on the diagonal."""
    return float(np.trace(matrix) / matrix.sum())


class Bootstrap:
    """Percentile intervals (Efron 1979) over rows drawn with replacement; all scores share the draws and can be compared."""

    def __init__(self, rows: int, resamples: int, confidence: float, seed: int) -> None:
        self.draws = np.random.default_rng(seed).integers(0, rows, size=(resamples, rows))
        tail = 50 * (1 - confidence)
        self.percentiles = (tail, 100 - tail)

    def confusions(self, truth: Indices, predicted: Indices, classes: int) -> list[Indices]:
        """Return one confusion matrix for each draw."""
        return [confusion(truth[draw], predicted[draw], classes) for draw in self.draws]

    def interval(self, value: float, resampled: list[float]) -> Interval:
        """Return the score with the percentiles of its resampled values."""
        low, high = np.percentile(resampled, self.percentiles)
        return Interval(value, float(low), float(high))


def class_scores(truth: Indices, predicted: Indices, classes: int, bootstrap: Bootstrap) -> list[ClassScores]:
    """Return precision, recall, and F1 with its interval for each class index."""
    matrix = confusion(truth, predicted, classes)
    resampled = np.stack([f1_by_class(resample) for resample in bootstrap.confusions(truth, predicted, classes)])
    f1 = f1_by_class(matrix)
    predicted_rows, true_rows = matrix.sum(axis=0), matrix.sum(axis=1)
    return [
        ClassScores(
            precision=float(matrix[c, c] / max(1, predicted_rows[c])),
            recall=float(matrix[c, c] / max(1, true_rows[c])),
            f1=bootstrap.interval(float(f1[c]), resampled[:, c].tolist()),
            rows=int(true_rows[c]),
        )
        for c in range(classes)
    ]


def softmax(logits: Floats) -> Floats:
    """Return probabilities (N, classes), of which each row sums to 1."""
    return np.asarray(special.softmax(logits, axis=1))


def negative_log_likelihood(logits: Floats, truth: Indices, temperature: float = 1.0) -> float:
    """Return the mean −log p of the true class, in nats."""
    return float(_row_losses(logits, truth, temperature).mean())


def fit_temperature(logits: Floats, truth: Indices) -> TemperatureFit:
    """Return a temperature between 1/20 and 20 that minimises the negative log-likelihood (Guo et al. 2017), or 1.

    Few rows that are all right have no finite best temperature. So one more row is imagined that looks like the average row and
    has the runner-up as its class (Laplace's rule of succession), and the temperature stays 1 unless, on rows held out in
    `FOLDS` folds and on the imagined row, its gain over 1 is above one standard error.
    """
    rows = len(truth)
    runner_up = np.argsort(logits, axis=1)[:, -2]
    fold = np.arange(rows) % FOLDS
    gains: list[float] = []
    imagined: list[float] = []
    for number in range(min(FOLDS, rows) if rows > 1 else 0):
        held = fold == number
        fitted = _likeliest_temperature(logits[~held], truth[~held], runner_up[~held])
        gains += (_row_losses(logits[held], truth[held], 1.0) - _row_losses(logits[held], truth[held], fitted)).tolist()
        imagined.append(negative_log_likelihood(logits, runner_up) - negative_log_likelihood(logits, runner_up, fitted))
    all_gains = np.array([*gains, np.mean(imagined)]) if gains else np.zeros(2)
    gain, error = float(all_gains.mean()), float(all_gains.std(ddof=1) / np.sqrt(len(all_gains)))
    value = _likeliest_temperature(logits, truth, runner_up) if gain > error else 1.0
    return TemperatureFit(value, rows, int((logits.argmax(axis=1) == truth).sum()), gain, error)


def _likeliest_temperature(logits: Floats, truth: Indices, runner_up: Indices) -> float:
    """Return the temperature that minimises the losses of the rows and of the imagined row."""
    from scipy.optimize import minimize_scalar  # as slow to import as all else here, and nothing else needs it

    bound = np.log(20.0)

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        imagined = negative_log_likelihood(logits, runner_up, temperature)
        return float(_row_losses(logits, truth, temperature).sum()) + imagined

    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def _row_losses(logits: Floats, truth: Indices, temperature: float) -> Floats:
    """Return −log p of the true class of each row."""
    losses: Floats = -special.log_softmax(logits / temperature, axis=1)[np.arange(len(truth)), truth]
    return losses


def calibration_error(probabilities: Floats, truth: Indices, bins: int) -> float:
    """Return the expected calibration error (Naeini et al. 2015).

    It is the mean |accuracy − confidence| over equal-width bins, weighted by rows.
    """
    return float(sum(share * abs(right - confidence) for confidence, right, share in reliability(probabilities, truth, bins)))


def reliability(probabilities: Floats, truth: Indices, bins: int) -> list[tuple[float, float, float]]:
    """Return (mean confidence, accuracy, share of rows) of each bin that has rows."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[index == b].mean()), float(right[index == b].mean()), float((index == b).mean()))
        for b in range(bins)
        if (index == b).any()
    ]


def most_confused(truth: Indices, predicted: Indices, most: int) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, rows) of the most frequent mistakes; ties are ordered by class index."""
    mistakes = Counter((int(t), int(p)) for t, p in zip(truth, predicted, strict=True) if t != p)
    return [(t, p, rows) for (t, p), rows in sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))[:most]]


Alternative = Literal["two-sided", "greater"]


@overload
def mcnemar(gained: int, lost: int, alternative: Alternative = ...) -> float: ...
@overload
def mcnemar(gained: Indices, lost: Indices, alternative: Alternative = ...) -> Floats: ...
def mcnemar(gained: int | Indices, lost: int | Indices, alternative: Alternative = "two-sided") -> float | Floats:
    """Return the exact p-value of equal accuracy on paired rows (McNemar 1947), 1 without a discordant row.

    The candidate alone gets `gained` rows right, the control alone gets `lost` rows right: ints, or arrays of one shape.

    >>> mcnemar(10, 2, "greater")  # (1 + 12 + 66) / 2**12
    0.019287109375
    """
    hits = np.asarray(gained) if alternative == "greater" else np.maximum(gained, lost)
    misses = np.asarray(gained) + np.asarray(lost) - hits
    tail = np.where(hits > 0, special.betainc(np.maximum(hits, 1), misses + 1, 0.5), 1.0)  # P(X >= hits), X ~ Binomial(n, 1/2)
    p = tail if alternative == "greater" else np.minimum(1.0, 2 * tail)
    return float(p) if p.ndim == 0 else p
