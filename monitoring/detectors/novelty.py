"""How unlike the reference one text is: Mahalanobis distance of its sketch (Lee et al. 2018) plus entropy of its softmax.

One mean and one covariance for all classes, shrunk (Ledoit and Wolf 2004, with a fixed weight): it costs memory of the sketch's
width squared, whatever the reference's rows, and needs few of them. Each part is scaled by its spread over the rows fitted on.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TINY = 1e-9


class Novelty(NamedTuple):
    """Fitted on rows that take no part in any later comparison."""

    mean: Floats  # (width,)
    whitening: Floats  # (width, width): inverse covariance = whitening · whitening^T
    centre: Floats  # (2,) mean distance and mean entropy of the rows fitted on
    scale: Floats  # (2,) their standard deviations

    def __call__(self, sketch: NDArray[np.floating[Any]], probabilities: NDArray[np.floating[Any]]) -> Floats:
        """(N, width) and (N, classes) → (N,), higher for texts less like the reference."""
        return np.asarray(((self.parts(sketch, probabilities) - self.centre) / self.scale).sum(axis=1))

    def parts(self, sketch: NDArray[np.floating[Any]], probabilities: NDArray[np.floating[Any]]) -> Floats:
        """(N, 2): squared distance and entropy, not scaled."""
        return _parts(self.mean, self.whitening, sketch, probabilities)


def fit_novelty(sketch: NDArray[np.floating[Any]], probabilities: NDArray[np.floating[Any]], shrinkage: float) -> Novelty:
    """Mean, shrunk covariance and scales of these rows; raises `ValueError` for fewer than two."""
    if len(sketch) < 2:
        raise ValueError("fewer than two rows")
    rows = sketch.astype(np.float64)
    mean, spread = rows.mean(axis=0), np.atleast_2d(np.cov(rows.T, bias=True))
    level = max(float(np.trace(spread)) / len(spread), TINY)
    whitening = np.linalg.inv(np.linalg.cholesky(spread + shrinkage * level * np.eye(len(spread)))).T
    parts = _parts(mean, whitening, sketch, probabilities)
    return Novelty(mean, whitening, parts.mean(axis=0), np.maximum(parts.std(axis=0), TINY))


def entropy(probabilities: NDArray[np.floating[Any]]) -> Floats:
    """(N, classes) → (N,) in nats; 0 log 0 = 0."""
    own = probabilities.astype(np.float64)
    return np.asarray(-(own * np.log(np.maximum(own, 1e-300))).sum(axis=1))


def _parts(
    mean: Floats, whitening: Floats, sketch: NDArray[np.floating[Any]], probabilities: NDArray[np.floating[Any]]
) -> Floats:
    distance = (((sketch.astype(np.float64) - mean) @ whitening) ** 2).sum(axis=1)
    return np.stack([distance, entropy(probabilities)], axis=1)


def tail_excess(reference: Floats, current: Floats, rows: tuple[float, float]) -> Floats:
    """Largest standardised excess of current over reference above any cell's lower edge: one-sided, made for few odd rows.

    Histograms of shares (..., cells) of `rows` (reference, current) observations, in the order of novelty. In the manner of
    higher criticism (Donoho and Jin 2004), with the pooled two-sample standard error.
    """
    m, n = rows
    tails = [own[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:] for own in (reference, current)]
    pooled = (m * tails[0] + n * tails[1]) / (m + n)
    error = np.sqrt(np.clip(pooled * (1 - pooled), 0.0, None) * (1 / m + 1 / n))
    gaps = np.divide(tails[1] - tails[0], error, out=np.zeros_like(error), where=error > TINY)
    return np.asarray(gaps.max(axis=-1), dtype=np.float64)


def foreign_share(reference: Floats, current: Floats) -> float:
    """From histograms (cells,) in the order of novelty: share = (tail − reference tail) / (1 − reference tail), in 0..1.

    A share π of foreign rows makes the tail at most (1 − π) · reference tail + π: a lower estimate but for noise (the idea of
    Storey 2002). The tail is the one nearest to a tenth of the reference: one fixed in advance is not the luckiest of many.
    """
    tails = [own[::-1].cumsum()[::-1][1:] for own in (reference, current)]
    if not len(tails[0]):
        return 0.0
    at = int(np.abs(tails[0] - 0.1).argmin())
    usual, seen = float(tails[0][at]), float(tails[1][at])
    return float(np.clip((seen - usual) / max(1 - usual, TINY), 0.0, 1.0))
