"""What labels brought: the errors that a retrained model no longer makes on each labelled cluster, per label. Pure.

A cluster is scored on the labelled texts of it that no model learnt from: the split keeps some of them for the test. Both models
answer the same texts, so the interval is Tango's (1998) for a difference of paired shares.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.paired_test import Flags, PairCounts, count_pairs, tango_lower_bound

NO_CLUSTER = -1  # of a row that was labelled outside the queue


class LabelReturn(NamedTuple):
    """The return of the labels of one cluster, or of all labels together (`cluster` None)."""

    cluster: int | None
    labels: int  # given and trained on
    texts: int  # texts of the cluster in the traffic of the round
    counts: PairCounts  # on its held-out rows
    lower: float  # bounds of the difference of accuracies
    upper: float

    @property
    def per_label(self) -> float:
        """Return the errors removed per label, on as much traffic as the round had."""
        return self.counts.difference * self._scale

    @property
    def per_label_bounds(self) -> tuple[float, float]:
        """Return the interval of `per_label`."""
        return self.lower * self._scale, self.upper * self._scale

    @property
    def _scale(self) -> float:
        return self.texts / max(1, self.labels)


def measure_returns(
    held_out: NDArray[np.int64],
    champion_right: Flags,
    candidate_right: Flags,
    labels: Mapping[int, int],
    texts: Mapping[int, int],
    confidence: float,
) -> list[LabelReturn]:
    """Return the return of all labels, then of each cluster, that of most errors removed first; empty without a held-out row.

    `held_out` (N,) has the clusters of the held-out rows; `labels` trained on and `texts` in traffic are counts by cluster.
    """

    def measure(cluster: int | None, rows: Flags, labels: int, texts: int) -> LabelReturn:
        counts = count_pairs(champion_right[rows], candidate_right[rows])
        mirrored = PairCounts(counts.rows, counts.lost, counts.gained)
        alpha = (1 - confidence) / 2
        bounds = tango_lower_bound(counts, alpha), -tango_lower_bound(mirrored, alpha)
        return LabelReturn(cluster, labels, texts, counts, *bounds)

    if not len(held_out):
        return []
    clusters = [cluster for cluster in np.unique(held_out).tolist() if cluster != NO_CLUSTER]
    each = [measure(cluster, held_out == cluster, labels.get(cluster, 0), texts.get(cluster, 0)) for cluster in clusters]
    every = measure(None, np.ones(len(held_out), np.bool_), sum(labels.values()), sum(texts.get(key, 0) for key in labels))
    return sort_returns([every, *each])


def sort_returns(returns: Iterable[LabelReturn]) -> list[LabelReturn]:
    """Return that of all labels first, then the clusters by errors removed."""
    return sorted(
        returns, key=lambda found: (found.cluster is not None, -found.counts.difference * found.texts, found.cluster or 0)
    )


def describe_returns(returns: list[LabelReturn], least: float) -> str:
    """Describe the return of all labels in a sentence, with advice whether to go on; empty without one.

    `least` is the number of errors removed per label below which labelling no longer pays.
    """
    if not returns:
        return ""
    every = returns[0]
    lower, upper = every.per_label_bounds
    counts = every.counts
    measured = (
        f"{every.labels} labels: {counts.gained} of {counts.rows} held-out texts of their clusters gained, {counts.lost} lost; "
        f"{every.per_label:.2f} errors removed per label ({lower:.2f} to {upper:.2f})"
    )
    if upper < least:
        return f"{measured}: stop labelling, the next label removes fewer than {least:g}"
    return f"{measured}: go on labelling" if lower >= least else f"{measured}: too few held-out texts to say whether to go on"
