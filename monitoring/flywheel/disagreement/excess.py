"""The share of texts on which two models differ beyond what is to be expected, with an interval. Pure: counts in, shares out.

Two things make models differ without a reason in the traffic: the champion does not always give a text the same label (other
batch, other precision), and two models differ on some rows of the reference too. Both shares are subtracted.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.wilson import ShareInterval, wilson_interval


class DifferenceCounts(NamedTuple):
    """Texts, and those of them with two different labels."""

    texts: int
    differing: int


NONE = DifferenceCounts(0, 0)


class Expected(NamedTuple):
    """What differs without a reason in the traffic; without texts a share is unknown, and counts as 0."""

    unstable: DifferenceCounts = NONE  # texts that the champion answered again
    reference: DifferenceCounts = NONE  # rows of the reference that the second model answered too


def excess_share(compared: DifferenceCounts, expected: Expected, z: float) -> ShareInterval:
    """Return compared − unstable − reference, in −1..1; `z` is the normal quantile of the confidence. Needs a compared text.

    The interval is that of Zou, Huang and Zhang (2009, Comput. Stat. Data Anal. 53, 1080-1085) for a linear function of
    binomial proportions: Wilson's limits of each share are combined, which holds its level where counts are small or 0. For two
    shares it is Newcombe's hybrid score interval (1998, Statistics in Medicine 17, 873-890, method 10).

    >>> expected = Expected(reference=DifferenceCounts(80, 48))
    >>> [round(bound, 4) for bound in excess_share(DifferenceCounts(70, 56), expected, 1.959964)]
    [0.2, 0.0524, 0.3339]
    """
    shares = [(1.0, wilson_interval(compared.differing, compared.texts, z))]
    shares += [(-1.0, wilson_interval(counts.differing, counts.texts, z)) for counts in expected if counts.texts]
    estimate = sum(sign * share.estimate for sign, share in shares)
    below = sum((share.estimate - (share.lower if sign > 0 else share.upper)) ** 2 for sign, share in shares)
    above = sum((share.estimate - (share.upper if sign > 0 else share.lower)) ** 2 for sign, share in shares)
    return ShareInterval(estimate, max(-1.0, estimate - sqrt(below)), min(1.0, estimate + sqrt(above)))


def excess_by_cluster(
    differs: NDArray[np.bool_], clusters: NDArray[np.int64], expected: Expected, z: float
) -> dict[int, ShareInterval]:
    """Return the excess share of each cluster; `differs` (N,) and the cluster ids (N,) are of the same compared texts."""
    ids, rows = np.unique(clusters, return_inverse=True)
    texts, differing = np.bincount(rows, minlength=len(ids)), np.bincount(rows, weights=differs, minlength=len(ids))
    counts = (DifferenceCounts(int(all_), int(some)) for all_, some in zip(texts, differing, strict=True))
    return {int(id): excess_share(count, expected, z) for id, count in zip(ids, counts, strict=True)}
