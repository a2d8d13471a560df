"""Labels spread from few labelled texts to their neighbours (Zhou et al. 2004, "Learning with local and global consistency").

Own code because of what was measured (EXPERIMENTS.md): scikit-learn's `LabelSpreading` counts neighbours without weighing them
and does not make the graph symmetric; on Banking77 it gives 2 to 5 of 100 texts more a wrong label.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from pipeline.params import Spread

UNKNOWN = -1
TOLERANCE = 1e-4  # of what would come to every text if all got the same


def neighbour_graph(embeddings: NDArray[np.float32], settings: Spread) -> sparse.csr_matrix:
    """(N, N), symmetric, normalised by degrees: texts and their nearest by cosine, the nearer the heavier. Rows have length 1."""
    near = NearestNeighbors(n_neighbors=min(settings.neighbours, len(embeddings) - 1), metric="cosine", algorithm="brute")
    graph = near.fit(embeddings).kneighbors_graph(mode="distance").astype(np.float64)
    graph.data = np.clip(1.0 - graph.data, 0.0, 1.0) ** settings.sharpness
    graph = (graph + graph.T) / 2
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = sparse.diags(1.0 / np.sqrt(np.where(degrees > 0, degrees, 1.0)))
    return sparse.csr_matrix(scale @ graph @ scale)


def spread_labels(graph: sparse.csr_matrix, targets: NDArray[np.int64], classes: int, reach: float) -> NDArray[np.float64]:
    """(N, classes): how much of each class has come to a text when nothing moves any more; a row of zeros was not reached.

    `targets` (N,) holds class indices, `UNKNOWN` where nobody has labelled. `reach` in (0, 1) is what a text takes from its
    neighbours; the rest is its own label.
    """
    own: NDArray[np.float64] = np.zeros((len(targets), classes))
    labelled = np.flatnonzero(targets != UNKNOWN)
    own[labelled, targets[labelled]] = 1.0
    still = TOLERANCE * (1.0 - reach) * own.mean()
    come, moved = own, np.inf
    while moved > still:  # in the end it falls by `reach` in every step
        before = come
        come = np.asarray(reach * (graph @ before) + (1.0 - reach) * own)
        moved = float(np.abs(come - before).max())
    return come


def strongest_class(come: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each row its strongest class, and that class's share of all that came; class `UNKNOWN` and 0 where nothing came."""
    total = come.sum(axis=1)
    reached = total > 0
    share = np.divide(come.max(axis=1), total, out=np.zeros(len(come)), where=reached)
    return np.where(reached, come.argmax(axis=1), UNKNOWN), share
