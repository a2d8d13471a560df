"""Population stability index (Siddiqi 2006, credit scoring): the symmetrised Kullback-Leibler divergence of two histograms."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def psi(reference: Floats, current: Floats, epsilon: float) -> Floats:
    """Return Σ (q − p) ln(q / p) in nats over the last axis.

    Parameters
        reference, current: shares p and q (..., bins) that broadcast; the result has the leading axes.
        epsilon: smallest share. Smaller shares are raised to it, since an empty bin would make the index infinite.

    >>> psi(np.array([0.5, 0.5]), np.array([0.4, 0.6]), epsilon=1e-4).round(4).item()
    0.0405
    """
    p, q = np.maximum(reference, epsilon), np.maximum(current, epsilon)
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1), dtype=np.float64)
