"""Wasserstein-1 distance on the line (Vallender 1974): the area between two distribution functions, in the samples' unit."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def wasserstein(reference: Floats, current: Floats) -> float:
    """∫ |F − G| of two samples (m,) and (n,); raises `ValueError` where one is empty."""
    if not len(reference) or not len(current):
        raise ValueError("a sample is empty")
    edges = np.sort(np.concatenate([reference, current]))
    at = [np.searchsorted(np.sort(own), edges[:-1], side="right") / len(own) for own in (reference, current)]
    return float((np.abs(at[0] - at[1]) * np.diff(edges)).sum())
