"""Wilson's score interval (1927) of a share."""

from math import sqrt
from typing import NamedTuple


class ShareInterval(NamedTuple):
    """A share and its bounds, 0..1."""

    estimate: float
    lower: float
    upper: float


def wilson_interval(right: int, total: int, z: float) -> ShareInterval:
    """Return the interval of `right` of `total` (at least 1); `z` is the normal quantile of the confidence.

    >>> [round(bound, 3) for bound in wilson_interval(41, 50, 1.959964)]
    [0.82, 0.692, 0.902]
    """
    share = right / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return ShareInterval(share, max(0.0, centre - half), min(1.0, centre + half))
