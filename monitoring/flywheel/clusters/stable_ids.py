"""Gives new clusters the ids of the previous round's clusters that they continue. An id is never used for another cluster."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


class PreviousClusters(NamedTuple):
    """The clusters of the previous round."""

    ids: Sequence[int]
    centroids: NDArray[np.float32]  # (K, width), unit length
    members: Mapping[str, int]  # content id of a text → id of its cluster
    next_id: int  # the lowest that no cluster has had
    is_comparable: bool  # whether its vectors and the new ones are of one model


def carry_ids(
    previous: PreviousClusters, centroids: NDArray[np.float32], texts: Sequence[str], clusters: NDArray[np.int64], *, same: float
) -> tuple[NDArray[np.int64], int]:
    """Return an id for each new cluster (C,), and the next unused id.

    Texts of the previous round are followed into the new clusters. Those that are gone (labelled, or too old) count for the new
    cluster nearest to their old centroid, if the cosine is at least `same`. The assignment with the most texts in all decides
    (Hungarian method), so after a split or a merge the larger part keeps its id.

    Parameters
        centroids: (C, width), unit length.
        texts: content ids of all texts, clusters: (N,) the index of each one's new cluster.
    """
    flow = _flow(previous, centroids, texts, clusters, same)
    ids = np.full(len(centroids), -1, dtype=np.int64)
    old, new = linear_sum_assignment(flow, maximize=True)
    for row, column in zip(old.tolist(), new.tolist(), strict=True):
        if flow[row, column] > 0:
            ids[column] = previous.ids[row]
    fresh = np.flatnonzero(ids < 0)
    ids[fresh] = previous.next_id + np.arange(len(fresh))
    return ids, previous.next_id + len(fresh)


def _flow(
    previous: PreviousClusters, centroids: NDArray[np.float32], texts: Sequence[str], clusters: NDArray[np.int64], same: float
) -> NDArray[np.float64]:
    """Return how many texts of each previous cluster are in each new one (K, C)."""
    row_of = {id: row for row, id in enumerate(previous.ids)}
    flow = np.zeros((len(previous.ids), len(centroids)))
    sizes = np.zeros(len(previous.ids))
    for cluster in previous.members.values():
        sizes[row_of[cluster]] += 1
    for text, new in zip(texts, clusters.tolist(), strict=True):
        old = previous.members.get(text)
        if old is not None:
            flow[row_of[old], new] += 1
    if previous.is_comparable and len(previous.ids) and len(centroids):
        cosine = previous.centroids @ centroids.T
        nearest = cosine.argmax(axis=1)
        is_same = cosine[np.arange(len(nearest)), nearest] >= same
        gone = sizes - flow.sum(axis=1)
        flow[np.flatnonzero(is_same), nearest[is_same]] += gone[is_same]
    return flow
