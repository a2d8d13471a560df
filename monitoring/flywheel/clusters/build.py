"""From candidates to ranked, named clusters with stable ids. Pure, but for the groups' algorithm."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.wilson import ShareInterval
from monitoring.flywheel.clusters.grouping import Grouping, group_vectors
from monitoring.flywheel.clusters.names import distinctive_words
from monitoring.flywheel.clusters.rank import rank_score
from monitoring.flywheel.clusters.stable_ids import PreviousClusters, carry_ids
from monitoring.flywheel.disagreement.excess import Expected, excess_by_cluster
from monitoring.flywheel.queue.round import Cluster, LabelCandidate, Round
from pipeline.params import Flywheel

CENTRAL = 3  # texts shown for a cluster
WORDS = 5
UNKNOWN = ShareInterval(0.0, -1.0, 1.0)  # disagreement where the second model was not asked


class Compared(NamedTuple):
    """Answers that a second model gave too, and what is to be expected of them."""

    sketches: NDArray[np.float32]  # (M, width), unit length
    differing: NDArray[np.bool_]  # (M,)
    expected: Expected
    z: float  # normal quantile of the intervals' confidence

    @property
    def chance(self) -> float:
        """The share that differs without a reason in the traffic."""
        return sum(counts.differing / counts.texts for counts in self.expected if counts.texts)


class Clustered(NamedTuple):
    """Candidates with their cluster, the clusters from the highest rank to the lowest, and the next unused id."""

    candidates: list[LabelCandidate]
    clusters: list[Cluster]
    next_cluster: int


def cluster_candidates(
    candidates: Sequence[LabelCandidate],
    sketches: NDArray[np.float32],
    compared: Compared,
    labels: Mapping[str, int],
    previous: Round | None,
    version: int,
    settings: Flywheel,
) -> Clustered:
    """Group, name and rank the candidates, whose `cluster` is not yet known; `labels` are labelled texts by class."""
    before = previous_clusters(previous, version, sketches.shape[1])
    count = cluster_count(len(candidates), settings)
    start = before.centroids if before.is_comparable else None
    grouping = group_vectors(sketches, count, settings.seed, start)
    ids, next_cluster = carry_ids(
        before, grouping.centroids, [row.text_id for row in candidates], grouping.clusters, same=settings.same_cluster
    )
    assigned = [row._replace(cluster=int(ids[index])) for row, index in zip(candidates, grouping.clusters, strict=True)]
    clusters = _describe(assigned, sketches, grouping, ids, compared, labels, settings)
    return Clustered(assigned, clusters, next_cluster)


def cluster_count(candidates: int, settings: Flywheel) -> int:
    """Return how many clusters so many candidates make; in proportion to their number, new texts would split too many of them."""
    wanted = min(candidates / settings.texts_per_cluster, settings.clusters_per_root * sqrt(candidates))
    return max(1, min(settings.max_clusters, round(wanted)))


def previous_clusters(previous: Round | None, version: int, width: int) -> PreviousClusters:
    """Return the clusters of the previous round; their vectors compare with the new ones if one version made both."""
    if previous is None:
        return PreviousClusters([], np.zeros((0, width), np.float32), {}, 1, is_comparable=False)
    centroids = [cluster.centroid for cluster in previous.clusters]
    is_comparable = previous.version == version and bool(centroids) and len(centroids[0]) == width
    return PreviousClusters(
        ids=[cluster.id for cluster in previous.clusters],
        centroids=np.array(centroids, dtype=np.float32) if is_comparable else np.zeros((0, width), np.float32),
        members={row.text_id: row.cluster for row in previous.candidates},
        next_id=previous.next_cluster,
        is_comparable=is_comparable,
    )


def _describe(
    candidates: Sequence[LabelCandidate],
    sketches: NDArray[np.float32],
    grouping: Grouping,
    ids: NDArray[np.int64],
    compared: Compared,
    labels: Mapping[str, int],
    settings: Flywheel,
) -> list[Cluster]:
    words = distinctive_words([row.text for row in candidates], [row.cluster for row in candidates], WORDS)
    places = (compared.sketches @ grouping.centroids.T).argmax(axis=1) if len(ids) else np.zeros(0, dtype=np.int64)
    intervals = excess_by_cluster(compared.differing, places, compared.expected, compared.z)
    over_all = float(compared.differing.mean()) if len(compared.differing) else 0.0
    nearness = np.einsum("ij,ij->i", sketches, grouping.centroids[grouping.clusters])
    order = np.lexsort((-nearness, grouping.clusters))  # by cluster, the most central first
    bounds = np.searchsorted(grouping.clusters[order], np.arange(len(ids) + 1))
    clusters = []
    for index, id in enumerate(ids.tolist()):
        members = [candidates[row] for row in order[bounds[index] : bounds[index + 1]].tolist()]
        nearby = compared.differing[places == index]
        counts = int(nearby.sum()), len(nearby)
        interval = intervals.get(index, UNKNOWN)
        clusters.append(
            Cluster(
                id=id,
                words=words[id],
                central=tuple(row.text_id for row in members[:CENTRAL]),
                size=sum(row.repeats for row in members),
                disagreement=interval.estimate,
                disagreement_lower=interval.lower,
                disagreement_upper=interval.upper,
                rank_score=rank_score(members, *counts, over_all, compared.chance, labels, settings.few_labels),
                first_at=min(row.at for row in members),
                last_at=max(row.at for row in members),
                centroid=tuple(grouping.centroids[index].tolist()),
            )
        )
    return sorted(clusters, key=lambda cluster: (-cluster.rank_score, cluster.id))
