"""Novelty of a text: Mahalanobis distance of its sketch (Lee et al. 2018) plus the entropy of its softmax.

One mean and one covariance serve all classes, shrunk (Ledoit and Wolf 2004, with a fixed weight). Memory is the square of the
sketch's width, whatever the number of reference rows. Each component is scaled by its spread over the rows it was fitted on.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TINY = 1e-9
TAIL = 0.1  # of the reference, in which the share of out-of-distribution rows is read


class Novelty(NamedTuple):
    """A novelty score, fitted on rows that take no part in any later comparison."""

    mean: Floats  # (width,)
    whitening: Floats  # (width, width): inverse covariance = whitening · whitening^T
    centre: Floats  # (2,) mean distance and mean entropy of the fitted rows
    scale: Floats  # (2,) their standard deviations

    def __call__(self, sketch: NDArray[np.floating[Any]], probabilities: NDArray[np.floating[Any]]) -> Floats:
        """Return the score (N,) of sketches (N, width) and probabilities (N, classes); higher is less like the reference."""
        return np.asarray(((self.components(sketch, probabilities) - self.centre) / self.scale).sum(axis=1))

    def components(self, sketch: NDArray[np.floating[Any]], probabilities: NDArray[np.floating[Any]]) -> Floats:
        """Return squared distance and entropy (N, 2), unscaled."""
        return _components(self.mean, self.whitening, sketch, probabilities)


def fit_novelty(sketch: NDArray[np.floating[Any]], probabilities: NDArray[np.floating[Any]], shrinkage: float) -> Novelty:
    """Fit mean, shrunk covariance and scales.

    Parameters
        sketch, probabilities: rows (N, width) and (N, classes).
        shrinkage: weight of the identity, in units of the mean variance.

    Raises `ValueError` for fewer than two rows.

    >>> rows, even = np.array([[0.0], [2.0], [4.0]]), np.full((3, 2), 0.5)
    >>> novelty = fit_novelty(rows, even, shrinkage=0.1)
    >>> novelty.components(np.array([[8.0]]), even[:1]).round(4).tolist()
    [[12.2727, 0.6931]]
    """
    if len(sketch) < 2:
        raise ValueError("fewer than two rows")
    rows = sketch.astype(np.float64)
    mean, covariance = rows.mean(axis=0), np.atleast_2d(np.cov(rows.T, bias=True))
    level = max(float(np.trace(covariance)) / len(covariance), TINY)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance + shrinkage * level * np.eye(len(covariance)))).T
    components = _components(mean, whitening, sketch, probabilities)
    return Novelty(mean, whitening, components.mean(axis=0), np.maximum(components.std(axis=0), TINY))


def entropy(probabilities: NDArray[np.floating[Any]]) -> Floats:
    """Return the entropy (N,) in nats of probabilities (N, classes), with 0 log 0 = 0.

    >>> entropy(np.array([[0.5, 0.5]])).round(4).tolist()
    [0.6931]
    """
    p = probabilities.astype(np.float64)
    return np.asarray(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1))


def _components(
    mean: Floats, whitening: Floats, sketch: NDArray[np.floating[Any]], probabilities: NDArray[np.floating[Any]]
) -> Floats:
    distance = (((sketch.astype(np.float64) - mean) @ whitening) ** 2).sum(axis=1)
    return np.stack([distance, entropy(probabilities)], axis=1)


def tail_excess(reference: Floats, current: Floats, rows: tuple[float, float]) -> Floats:
    """Return the largest standardised excess of current over reference above any cell's lower edge, one-sided.

    Sensitive to a few odd rows, like higher criticism (Donoho and Jin 2004), with the pooled two-sample standard error.

    Parameters
        reference, current: shares (..., cells) in the order of novelty.
        rows: sample sizes (m, n) of reference and current.

    >>> tail_excess(np.array([0.9, 0.1]), np.array([0.7, 0.3]), rows=(100, 50)).round(4).item()
    3.0984
    """
    m, n = rows
    tails = [_tail(reference), _tail(current)]
    pooled = (m * tails[0] + n * tails[1]) / (m + n)
    error = np.sqrt(np.clip(pooled * (1 - pooled), 0.0, None) * (1 / m + 1 / n))
    excess = np.divide(tails[1] - tails[0], error, out=np.zeros_like(error), where=error > TINY)
    return np.asarray(excess.max(axis=-1), dtype=np.float64)


def out_of_distribution_share(reference: Floats, current: Floats) -> float:
    """Return (tail − reference tail) / (1 − reference tail) in 0..1, an estimate of the share of out-of-distribution rows.

    With a share π of such rows the tail is at most (1 − π) · reference tail + π, so this is a lower estimate but for noise (the
    idea of Storey 2002). The tail nearest to a tenth of the reference is used: fixed in advance, not the luckiest.

    Parameters
        reference, current: shares (cells,) in the order of novelty.

    >>> round(out_of_distribution_share(np.array([0.5, 0.4, 0.1]), np.array([0.4, 0.32, 0.28])), 4)
    0.2
    """
    tails = _tail(reference), _tail(current)
    if not len(tails[0]):
        return 0.0
    cell = int(np.abs(tails[0] - TAIL).argmin())
    expected, observed = float(tails[0][cell]), float(tails[1][cell])
    return float(np.clip((observed - expected) / max(1 - expected, TINY), 0.0, 1.0))


def _tail(shares: Floats) -> Floats:
    """Return the share of rows at or above each inner edge (..., cells − 1)."""
    return np.asarray(shares[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:])
