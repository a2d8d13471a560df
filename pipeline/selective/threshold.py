"""The threshold on the confidence: for a guaranteed accuracy of the answers, or for a coverage.

The thresholds that are tried, and the first of them, come from other rows than those that decide. So each test is exact.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from pipeline.metrics import Interval
from pipeline.selective.coverage import Bools, Floats

Indices = NDArray[np.int64]
MOST_ROWS = 1_000_000  # more are not worth naming


class ScoredRows(NamedTuple):
    """Held-out rows: the calibrated confidence of each, and whether the model was right."""

    confidence: Floats  # (N,)
    correct: Bools  # (N,)


class ThresholdFit(NamedTuple):
    """The result; `threshold` is None where no threshold is proved to reach the target."""

    threshold: float | None
    rows: int
    answered: int  # of these rows, at the threshold, or at the first one tested
    errors: int
    bound: float  # accuracy: proved for the answers there. Coverage: lower end of its interval
    rows_needed: int | None  # to fit on, about, for a target that was missed; None: more rows will not do


def p_values(rows: ScoredRows, thresholds: Floats, target: float) -> tuple[Indices, Indices, Floats]:
    """Return answered rows, errors and p-value for each threshold.

    The null hypothesis is that the accuracy of the answers is below the target. Given their number n, the errors are binomial,
    and p = P(Bin(n, 1 - target) <= errors).
    """
    order = np.argsort(rows.confidence)
    first = np.searchsorted(rows.confidence[order], thresholds, side="left")
    errors_from = np.append(np.cumsum(~rows.correct[order][::-1])[::-1], 0)
    answered, errors = len(order) - first, errors_from[first]
    return answered, errors, np.where(answered > 0, binom.cdf(errors, np.maximum(answered, 1), 1 - target), 1.0)


def candidate_thresholds(confidence: Floats, count: int) -> Floats:
    """Return thresholds for coverages 1/count, 2/count … 1 of these rows, highest first; the last one is 0."""
    levels = 1 - np.arange(1, count) / count
    thresholds: Floats = np.unique([*np.quantile(confidence, levels), 0.0])[::-1]
    return thresholds


def fit_accuracy(ordering: ScoredRows, fitting: ScoredRows, *, target: float, confidence: float, count: int) -> ThresholdFit:
    """Return the lowest threshold for which P(accuracy of the answers >= target) >= confidence.

    Learn then Test (Angelopoulos et al. 2021) with fixed-sequence testing. The `ordering` rows set the sequence: it starts at
    the threshold that they support best, and goes down from there. Each threshold is then tested on the `fitting` rows at level
    1 - confidence, and the first that fails ends the sequence. A wrong threshold is accepted only if the first wrong one of
    the sequence is, so no level is spent on the number of tests.
    """
    level = 1 - confidence
    thresholds = candidate_thresholds(ordering.confidence, count)
    start = int(np.argmin(p_values(ordering, thresholds, target)[2]))
    answered, errors, p = p_values(fitting, thresholds[start:], target)
    passed = int(np.argmax(np.append(p, 1.0) > level))  # how many before the first that fails
    at = max(0, passed - 1)
    n, wrong = int(answered[at]), int(errors[at])
    needed = None if passed else rows_needed(n, wrong, len(fitting.confidence), target, level)
    threshold = float(thresholds[start + at]) if passed else None
    return ThresholdFit(threshold, len(fitting.confidence), n, wrong, lower_bound(n - wrong, n, level), needed)


def fit_coverage(fitting: ScoredRows, *, target: float, confidence: float) -> ThresholdFit:
    """Return the highest threshold at which this share of the rows is answered.

    The coverage of new rows at the k-th highest of n confidences has the distribution Beta(k, n + 1 - k).
    """
    rows = len(fitting.confidence)
    answered = min(rows, max(1, int(np.ceil(target * rows - 1e-9))))
    threshold = float(np.sort(fitting.confidence)[::-1][answered - 1]) if target < 1 else 0.0
    is_answered = fitting.confidence >= threshold
    low = float(beta.ppf((1 - confidence) / 2, answered, rows + 1 - answered))
    return ThresholdFit(threshold, rows, int(is_answered.sum()), int((is_answered & ~fitting.correct).sum()), low, None)


def lower_bound(hits: int, rows: int, level: float) -> float:
    """Return the one-sided lower bound of Clopper & Pearson (1934) of a share; it is wrong with probability `level` at most."""
    return float(beta.ppf(level, hits, rows - hits + 1)) if hits else 0.0


def exact_interval(hits: int, rows: int, confidence: float) -> Interval:
    """Return a share with the two-sided interval of Clopper & Pearson (1934); 0 of 0 rows is anywhere.

    >>> [round(value, 3) for value in exact_interval(9, 10, 0.95)]
    [0.9, 0.555, 0.997]
    """
    if not rows:
        return Interval(float("nan"), 0.0, 1.0)
    tail = (1 - confidence) / 2
    return Interval(hits / rows, lower_bound(hits, rows, tail), 1 - lower_bound(rows - hits, rows, tail))


def rows_needed(answered: int, errors: int, rows: int, target: float, level: float) -> int | None:
    """Return about how many rows would prove the target, if errors stay as frequent as on these; None for no number of them."""
    error_rate = (errors + 0.5) / (answered + 1)
    if error_rate >= 1 - target or not answered:
        return None
    sizes = np.unique(np.geomspace(1, MOST_ROWS, 2000).astype(np.int64))
    proved = binom.cdf(np.ceil(error_rate * sizes), sizes, 1 - target) <= level
    if not proved.any():
        return None
    return int(np.ceil(sizes[np.argmax(proved)] * rows / answered))
