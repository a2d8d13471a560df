"""Population stability index (Siddiqi 2006, credit scoring): the symmetrised Kullback-Leibler divergence of two histograms."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def psi(reference: Floats, current: Floats, floor: float) -> Floats:
    """Σ (q − p) ln(q / p) in nats over the last axis; shares below `floor` count as `floor`, else an empty cell is infinite.

    `reference` p and `current` q are shares (..., cells) that broadcast; the result has the leading axes.
    """
    p, q = np.maximum(reference, floor), np.maximum(current, floor)
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1), dtype=np.float64)
