"""Jensen-Shannon distance (Lin 1991; a metric by Endres and Schindelin 2003): 0 for equal, 1 for disjoint histograms."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def jensen_shannon(reference: Floats, current: Floats) -> Floats:
    """Return the square root of the Jensen-Shannon divergence in bits over the last axis.

    Parameters
        reference, current: shares p and q (..., bins) that broadcast; the result has the leading axes.

    >>> jensen_shannon(np.array([0.5, 0.5]), np.array([0.4, 0.6])).round(4).item()
    0.0854
    """
    mixture = (reference + current) / 2
    divergence = (_relative_entropy(reference, mixture) + _relative_entropy(current, mixture)) / 2
    return np.asarray(np.sqrt(np.clip(divergence, 0.0, 1.0)), dtype=np.float64)


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    """Return Σ p log2(p / q), with 0 log 0 = 0."""
    ratio = np.divide(p, q, out=np.ones(np.broadcast(p, q).shape), where=(p > 0) & (q > 0))
    return np.asarray((p * np.log2(ratio)).sum(axis=-1), dtype=np.float64)
