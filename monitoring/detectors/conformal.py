"""Conformal p-values on-line (Vovk, Nouretdinov and Gammerman 2003): the rank of each score in the bag of all before it.

The bag begins with the reference and grows with the stream. While reference and stream are exchangeable the p-values are
independent and uniform, exactly, whatever the distribution and however few the reference rows: nothing is taken as known that
a finite reference only estimates. Scores are held as counts in cells, so memory does not depend on rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def cells_of(scores: NDArray[np.floating[Any]], edges: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """(N,) scores → the cell 0..len(edges) of each; the edges must not depend on the rows that are ranked."""
    return np.searchsorted(edges, scores, side="right").astype(np.int64)


def p_values(cells: NDArray[np.int64], bags: Counts, uniforms: Floats) -> tuple[Floats, Counts]:
    """p-values (N, S) of N rows in order in S scores, high cells giving small p, and the bags (S, cells) with the rows in them.

    p = (scores in higher cells + U · scores in the same cell, itself among them) / all; U in [0, 1) breaks ties.
    """
    if not len(cells):
        return np.zeros(cells.shape), bags
    one_hot = cells[:, :, None] == np.arange(bags.shape[1])
    running = bags + np.cumsum(one_hot, axis=0)  # (N, S, cells), the row itself included
    at_least = running[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    own = cells[:, :, None]
    same = np.take_along_axis(running, own, axis=2)[:, :, 0]
    higher = np.take_along_axis(at_least, own, axis=2)[:, :, 0] - same
    return np.asarray((higher + uniforms * same) / at_least[:, :, 0]), running[-1]
