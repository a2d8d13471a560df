"""Pearson's chi-square statistic of homogeneity (Pearson 1900): do two samples of categories come from one distribution?"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def chi_square(reference: Floats, current: Floats, rows: tuple[float, float]) -> Floats:
    """Return Σ (observed − expected)² / expected of the 2 x cells table, over the last axis; 0 without cells.

    Computed as Σ (p − q)² / pooled · m n / (m + n). Cells that are empty in both samples are left out.

    Parameters
        reference, current: shares p and q (..., cells).
        rows: sample sizes (m, n) of reference and current.

    >>> chi_square(np.array([0.5, 0.5]), np.array([0.3, 0.7]), rows=(100, 50)).round(4).item()
    5.4299
    """
    m, n = rows
    pooled = (m * reference + n * current) / (m + n)
    terms = np.divide((reference - current) ** 2, pooled, out=np.zeros_like(pooled), where=pooled > 0)
    return np.asarray(terms.sum(axis=-1) * m * n / (m + n), dtype=np.float64)
