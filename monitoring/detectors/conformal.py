"""Online conformal p-values (Vovk, Nouretdinov and Gammerman 2003): rank each score in the bag of all scores before it.

The bag starts with the reference and grows with the stream. While reference and stream are exchangeable, the p-values are
independent and uniform, exactly, for any distribution and any number of reference rows: nothing is taken as known that a finite
reference only estimates. Scores are held as counts in cells, so memory does not depend on the number of rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def cells_of(scores: NDArray[np.floating[Any]], edges: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the cell 0..len(edges) of each score (N,). The edges must not depend on the rows that are ranked.

    >>> cells_of(np.array([0.1, 0.5, 2.0]), np.array([0.5, 1.0])).tolist()
    [0, 1, 2]
    """
    return np.searchsorted(edges, scores, side="right").astype(np.int64)


def p_values(cells: NDArray[np.int64], bags: Counts, uniforms: Floats) -> tuple[Floats, Counts]:
    """Return p-values (N, S), small for high cells, and the bags (S, cells) after these rows.

    p = (scores in higher cells + U · scores in the same cell, including the row's own score) / all scores.

    Parameters
        cells: cells (N, S) of N rows in order, for S scores.
        bags: counts (S, cells) before these rows.
        uniforms: U in [0, 1) that breaks ties, (N, S).

    >>> p, bags = p_values(np.array([[2]]), np.array([[3, 1, 0]]), np.array([[0.5]]))
    >>> p.tolist(), bags.tolist()
    ([[0.1]], [[3, 1, 1]])
    """
    if not len(cells):
        return np.zeros(cells.shape), bags
    one_hot = cells[:, :, None] == np.arange(bags.shape[1])
    counts = bags + np.cumsum(one_hot, axis=0)  # (N, S, cells), the row itself included
    at_least = counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    index = cells[:, :, None]
    same = np.take_along_axis(counts, index, axis=2)[:, :, 0]
    higher = np.take_along_axis(at_least, index, axis=2)[:, :, 0] - same
    return np.asarray((higher + uniforms * same) / at_least[:, :, 0]), counts[-1]
