"""Pearson's chi-square test of homogeneity (Pearson 1900): do two samples of categories come from one distribution?"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def chi_square(reference: Floats, current: Floats, rows: tuple[float, float]) -> Floats:
    """The statistic of two histograms of shares (..., cells) of `rows` (reference, current) observations; 0 for no cell at all.

    Σ (p − q)² / pooled · m n / (m + n): the 2 x cells table's Σ (seen − expected)² / expected. Cells empty in both are left out.
    """
    m, n = rows
    pooled = (m * reference + n * current) / (m + n)
    terms = np.divide((reference - current) ** 2, pooled, out=np.zeros_like(pooled), where=pooled > 0)
    return np.asarray(terms.sum(axis=-1) * m * n / (m + n), dtype=np.float64)


def p_value(statistic: float, cells: int) -> float:
    """Upper tail of chi-square with cells − 1 degrees of freedom: an approximation for expected counts of 5 and more."""
    from scipy.stats import chi2

    return float(chi2.sf(statistic, cells - 1)) if cells > 1 else 1.0
