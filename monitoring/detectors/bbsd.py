"""Black-box shift detection (Lipton et al. 2018; on the softmax: Rabanser et al. 2019): KS on each class's probability.

The statistic is the largest distance over classes; its null is the joint one, so no correction over classes is added on top.
"""

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.kolmogorov_smirnov import ks_of_cells

Floats = NDArray[np.float64]
CELLS = 8  # a class


def edges(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, classes) → (classes, CELLS − 1) quantiles of each class's probability, finer where it is high."""
    levels = 1 - np.geomspace(0.5, 0.5 / len(probabilities) ** 0.5, CELLS - 1)
    return np.asarray(np.quantile(probabilities, levels, axis=0).T, dtype=np.float32)


def cells(probabilities: NDArray[np.float32], at: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, classes) → (N, classes · CELLS): 1 in the cell of each class's probability."""
    cell = (probabilities[:, :, None] >= at[None]).sum(axis=2)
    return np.asarray((cell[:, :, None] == np.arange(CELLS)).reshape(len(probabilities), at.shape[0] * CELLS), dtype=np.float32)


def bbsd_of_cells(reference: Floats, current: Floats) -> Floats:
    """Largest KS distance over classes of mean `cells` (..., classes · CELLS)."""
    difference = (current - reference).reshape(*np.broadcast(current, reference).shape[:-1], -1, CELLS)
    return np.asarray(ks_of_cells(np.zeros(CELLS), difference).max(axis=-1), dtype=np.float64)
