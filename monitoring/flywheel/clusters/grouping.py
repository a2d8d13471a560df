"""Groups vectors so that every one has a group: k-means, started from the centroids of the previous round where there are any.

HDBSCAN leaves a third to a half of short texts without a group (BERTopic issue 1249), and a queue must not lose them.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.flywheel.candidates.log_pass import unit_rows

STEPS = 60  # of Lloyd's algorithm at most


class Grouping(NamedTuple):
    """The group of each of N vectors, and the groups' centroids."""

    clusters: NDArray[np.int64]  # (N,) 0..C-1
    centroids: NDArray[np.float32]  # (C, width), unit length; no group is empty


def group_vectors(vectors: NDArray[np.float32], count: int, seed: int, start: NDArray[np.float32] | None = None) -> Grouping:
    """Group unit vectors (N, width) into at most `count` groups.

    `start` are centroids (K, width) to begin with; further ones are drawn by k-means++ among the vectors far from these.
    """
    from sklearn.cluster import KMeans  # slow to import: only a round needs it

    count = min(count, len(np.unique(vectors, axis=0)))
    if count == 0:
        return Grouping(np.zeros(0, dtype=np.int64), np.zeros((0, vectors.shape[1]), np.float32))
    init: Any = "k-means++" if start is None or not len(start) else first_centroids(vectors, count, seed, start)
    fitted = KMeans(count, init=init, n_init=1, max_iter=STEPS, random_state=seed).fit(vectors)
    used, clusters = np.unique(fitted.labels_, return_inverse=True)
    return Grouping(clusters.astype(np.int64), unit_rows(fitted.cluster_centers_[used]))


def first_centroids(vectors: NDArray[np.float32], count: int, seed: int, start: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `count` centroids: those of `start` that are nearest to some vector, the most used first, and further ones.

    Further ones are drawn by k-means++ (Arthur and Vassilvitskii 2007): a vector's chance grows with its squared distance.
    """
    rng = np.random.default_rng(seed)
    similarity = vectors @ start.T
    nearest = similarity.argmax(axis=1)
    uses = np.bincount(nearest, minlength=len(start))
    kept = np.argsort(-uses, kind="stable")[: min(count, int((uses > 0).sum()))]
    centroids = [start[row] for row in kept]
    distance = np.maximum(0.0, 2 - 2 * similarity[:, kept].max(axis=1)).astype(np.float64)
    while len(centroids) < count and distance.sum() > 0:
        chosen = vectors[rng.choice(len(vectors), p=distance / distance.sum())]
        centroids.append(chosen)
        distance = np.minimum(distance, np.maximum(0.0, 2 - 2 * (vectors @ chosen)))
    return np.asarray(np.stack(centroids), dtype=np.float32)
