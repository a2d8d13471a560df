"""Positions of the picture of a difference with its interval, in percent of its width. Pure."""

from typing import NamedTuple

from monitoring.release.ab.intervals import DifferenceInterval

EDGE = 1.15  # of the widest thing that is drawn


class IntervalPicture(NamedTuple):
    """The difference, its bounds and the margin on both sides of 0, which is in the middle."""

    extent: float  # at the right end, in the outcome's unit
    estimate: float
    low: float
    high: float
    margin_low: float
    margin_high: float


def picture_of(difference: DifferenceInterval, margin: float) -> IntervalPicture | None:
    """Return the picture; None while there is no interval.

    >>> picture_of(DifferenceInterval(0.0, -0.02, 0.02), 0.01)
    IntervalPicture(extent=0.023, estimate=50.0, low=6.5, high=93.5, margin_low=28.3, margin_high=71.7)
    """
    extent = EDGE * max(abs(difference.lower), abs(difference.upper), margin)
    if extent == float("inf"):
        return None
    values = (difference.estimate, difference.lower, difference.upper, -margin, margin)
    return IntervalPicture(round(extent, 12), *(round(50 + 50 * value / extent, 1) for value in values))
