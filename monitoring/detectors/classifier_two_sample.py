"""Classifier two-sample test (Lopez-Paz and Oquab 2017): if held-out rows can be told apart, the samples differ.

The classifier is a ridge regression on ±1, in closed form; held-out scores come from two-fold cross-fitting.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def classifier_auc(reference: Floats, current: Floats, ridge: float, rng: np.random.Generator) -> float:
    """Mean held-out area under the ROC curve over both folds, (m, width) against (n, width): 0.5 where nothing can be told apart.

    Raises `ValueError` for fewer than two rows a sample: a fold would be empty.
    """
    if min(len(reference), len(current)) < 2:
        raise ValueError("a sample has fewer than two rows")
    folds = [rng.permutation(len(own)) % 2 == 0 for own in (reference, current)]
    areas = []
    for held in (True, False):
        weights = _ridge(reference[folds[0] != held], current[folds[1] != held], ridge)
        areas.append(area_under_curve(reference[folds[0] == held] @ weights, current[folds[1] == held] @ weights))
    return float(np.mean(areas))


def area_under_curve(low: Floats, high: Floats) -> float:
    """P(a score of `high` exceeds one of `low`), ties count half: Mann and Whitney's U over m n."""
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left") + np.searchsorted(ordered, high, side="right")
    return float(below.mean() / 2 / len(low))


def _ridge(reference: Floats, current: Floats, ridge: float) -> Floats:
    """Direction that separates the centred samples; classes weigh the same."""
    a, b = reference.astype(np.float64), current.astype(np.float64)
    spread = (np.cov(a.T, bias=True) + np.cov(b.T, bias=True)) / 2 if min(len(a), len(b)) > 1 else np.zeros((a.shape[1],) * 2)
    return np.asarray(np.linalg.solve(np.atleast_2d(spread) + ridge * np.eye(a.shape[1]), b.mean(axis=0) - a.mean(axis=0)))
