"""Black-box shift detection (Lipton et al. 2018; on the softmax: Rabanser et al. 2019): KS on each class's probability.

The statistic is the largest distance over classes. Its null distribution is the joint one, so classes need no correction.
"""

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.kolmogorov_smirnov import ks_distance

Floats = NDArray[np.float64]
CELLS = 8  # per class


def class_edges(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return quantiles (classes, CELLS − 1) of each class's probability, finer where it is high.

    >>> class_edges(np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)).shape
    (2, 7)
    """
    levels = 1 - np.geomspace(0.5, 0.5 / len(probabilities) ** 0.5, CELLS - 1)
    return np.asarray(np.quantile(probabilities, levels, axis=0).T, dtype=np.float32)


def class_cells(probabilities: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return indicators (N, classes · CELLS): 1 in the cell of each class's probability.

    >>> rows = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    >>> class_cells(rows, class_edges(rows)).sum(axis=1).tolist()
    [2.0, 2.0]
    """
    cell = (probabilities[:, :, None] >= edges[None]).sum(axis=2)
    one_hot = cell[:, :, None] == np.arange(CELLS)
    return np.asarray(one_hot.reshape(len(probabilities), edges.shape[0] * CELLS), dtype=np.float32)


def bbsd_distance(reference: Floats, current: Floats) -> Floats:
    """Return the largest KS distance over classes.

    Parameters
        reference, current: means (..., classes · CELLS) of `class_cells`.

    >>> rows = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    >>> cells = class_cells(rows, class_edges(rows))
    >>> bbsd_distance(cells.mean(axis=0), cells[0]).item()
    0.5
    """
    difference = (current - reference).reshape(*np.broadcast(current, reference).shape[:-1], -1, CELLS)
    return np.asarray(ks_distance(np.zeros(CELLS), difference).max(axis=-1), dtype=np.float64)
