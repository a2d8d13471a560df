"""Groups vectors so that every one has a group: k-means, started from the previous round's centroids or from Ward's groups.

HDBSCAN leaves a third to a half of short texts without a group (BERTopic issue 1249), and a queue must not lose them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.flywheel.candidates.log_pass import unit_rows

STEPS, TOLERANCE = 20, 1e-3  # of Lloyd's algorithm at most; it ends when the centroids move less (a share of the variance)
SAMPLE = 4000  # vectors that Ward's algorithm groups, in memory that grows with their square


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
    first = first_centroids(vectors, count, seed, ward_centroids(vectors, count, seed) if start is None else start)
    fitted = KMeans(count, init=first, n_init=1, max_iter=STEPS, tol=TOLERANCE).fit(vectors)
    used, clusters = np.unique(fitted.labels_, return_inverse=True)
    return Grouping(clusters.astype(np.int64), unit_rows(fitted.cluster_centers_[used]))


def ward_centroids(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Return centroids of Ward's groups (1963) of a sample; k-means finds more rare intents from there than from k-means++."""
    from sklearn.cluster import AgglomerativeClustering

    rng = np.random.default_rng(seed)
    sample = vectors[np.sort(rng.permutation(len(vectors))[:SAMPLE])]
    groups = AgglomerativeClustering(min(count, len(sample))).fit_predict(sample) if len(sample) > 1 else np.zeros(1, int)
    return np.stack([sample[groups == group].mean(axis=0) for group in np.unique(groups)])


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
