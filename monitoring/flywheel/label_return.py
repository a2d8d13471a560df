"""What labels brought: the errors that a retrained model no longer makes on each labelled cluster, per label. Pure.

A cluster is scored on the labelled texts of it that no model learnt from: the split keeps some of them for the test. Both models
answer the same texts, so the interval is Tango's (1998) for a difference of paired shares. It is carried over to all texts of the
cluster in the traffic. People label the hardest texts first, so the whole cluster may gain less.
"""

from collections.abc import Iterable, Mapping
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.paired_test import Flags, PairCounts, count_pairs, tango_lower_bound


class LabelReturn(NamedTuple):
    """The return of the labels of one cluster, or of several together (`cluster` None)."""

    cluster: int | None
    labels: int  # that people gave, whichever side of the split the texts are on
    texts: int  # texts of the cluster in the traffic of the round
    counts: PairCounts  # on its held-out rows
    removed: float  # errors that the new model no longer makes on these texts
    lower: float  # bounds of `removed`
    upper: float

    @property
    def per_label(self) -> float:
        """Return the errors removed per label."""
        return self.removed / self.labels

    @property
    def per_label_bounds(self) -> tuple[float, float]:
        """Return the interval of `per_label`."""
        return self.lower / self.labels, self.upper / self.labels


def measure_returns(
    held_out: NDArray[np.int64],
    champion_right: Flags,
    candidate_right: Flags,
    labels: Mapping[int, int],
    texts: Mapping[int, int],
    confidence: float,
) -> list[LabelReturn]:
    """Return the return of all clusters together, then of each, that of most errors removed first.

    `held_out` (N,) has the clusters of the held-out rows; `labels` and `texts` in the traffic are counts by cluster. A cluster
    without a held-out row or of unknown size cannot be measured, and its labels are left out; empty when none can.
    """
    measured = []
    for cluster in np.unique(held_out).tolist():
        if labels.get(cluster) and texts.get(cluster):
            rows = held_out == cluster
            counts = count_pairs(champion_right[rows], candidate_right[rows])
            measured.append(_measure(cluster, labels[cluster], texts[cluster], counts, (1 - confidence) / 2))
    return sort_returns([_combine(measured), *measured]) if measured else []


def sort_returns(returns: Iterable[LabelReturn]) -> list[LabelReturn]:
    """Return that of all clusters first, then each by errors removed."""
    return sorted(returns, key=lambda found: (found.cluster is not None, -found.removed, found.cluster or 0))


def describe_returns(returns: list[LabelReturn], least: float) -> str:
    """Describe the return of all clusters in a sentence, with advice whether to go on; empty without one.

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


def _measure(cluster: int, labels: int, texts: int, counts: PairCounts, alpha: float) -> LabelReturn:
    mirrored = PairCounts(counts.rows, counts.lost, counts.gained)
    lower, upper = tango_lower_bound(counts, alpha), -tango_lower_bound(mirrored, alpha)
    return LabelReturn(cluster, labels, texts, counts, counts.difference * texts, lower * texts, upper * texts)


def _combine(measured: list[LabelReturn]) -> LabelReturn:
    """Add the clusters up; the interval of the sum is that of Zou, Huang and Zhang (2009) for independent estimates."""
    removed = sum(each.removed for each in measured)
    return LabelReturn(
        cluster=None,
        labels=sum(each.labels for each in measured),
        texts=sum(each.texts for each in measured),
        counts=PairCounts(*(sum(values) for values in zip(*(each.counts for each in measured), strict=True))),
        removed=removed,
        lower=removed - sqrt(sum((each.removed - each.lower) ** 2 for each in measured)),
        upper=removed + sqrt(sum((each.upper - each.removed) ** 2 for each in measured)),
    )
