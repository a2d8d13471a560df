"""Two-sample Kolmogorov-Smirnov distance (Smirnov 1939): the largest gap between two distribution functions."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ks(reference: Floats, current: Floats) -> float:
    """Distance of two samples (m,) and (n,), in 0..1; raises `ValueError` where one is empty."""
    if not len(reference) or not len(current):
        raise ValueError("a sample is empty")
    both = np.concatenate([reference, current])
    at = [np.searchsorted(np.sort(own), both, side="right") / len(own) for own in (reference, current)]
    return float(np.abs(at[0] - at[1]).max())


def ks_of_cells(reference: Floats, current: Floats) -> Floats:
    """Distance of two histograms of shares (..., cells) in the order of their cells: exact at the cells' edges."""
    return np.asarray(np.abs(np.cumsum(current - reference, axis=-1)).max(axis=-1), dtype=np.float64)
