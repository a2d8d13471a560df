"""Two-sample Kolmogorov-Smirnov distance (Smirnov 1939): the largest gap between two distribution functions."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ks_distance(reference: Floats, current: Floats) -> Floats:
    """Return D = max |F − G| in 0..1 over the last axis.

    Parameters
        reference, current: shares (..., cells) in the order of the cells. The distance is exact at the cells' edges.

    >>> ks_distance(np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.3, 0.2])).round(4).item()
    0.3
    """
    return np.asarray(np.abs(np.cumsum(current - reference, axis=-1)).max(axis=-1), dtype=np.float64)
