"""The difference between two arms, with an interval that holds at every look together. Pure."""

from math import inf, log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_VARIED = 20  # units whose value is not the most frequent one, before the spread of an unbounded outcome is believed


class StoppingRule(NamedTuple):
    """When a test ends. It is fixed when the test begins."""

    alpha: float  # P(the interval ever misses the difference)
    margin: float  # a smaller difference does not matter
    min_units: int  # in each arm
    expected_units: int  # in both arms, for which the interval is tightest


class UnitSummary(NamedTuple):
    """One arm's units. A unit with several outcomes is one observation, their mean."""

    units: int
    mean: float
    squares: float  # sum of squared distances from the mean
    varied: int  # units whose value is not the most frequent one
    is_share: bool  # all values are in 0..1


class DifferenceInterval(NamedTuple):
    """The difference of two means and its bounds; without enough units the bounds are infinite."""

    estimate: float
    lower: float
    upper: float

    def negated(self) -> "DifferenceInterval":
        """Return the interval of the opposite difference."""
        return DifferenceInterval(-self.estimate, -self.upper, -self.lower)


def summarise_arm(values: NDArray[np.float64]) -> UnitSummary:
    """Return the summary of an arm's units.

    >>> summarise_arm(np.array([1.0, 0.0, 0.0, 1.0, 0.0]))
    UnitSummary(units=5, mean=0.4, squares=1.2, varied=2, is_share=True)
    """
    if not values.size:
        return UnitSummary(0, 0.0, 0.0, 0, True)
    mean = float(values.mean())
    most_frequent = int(np.unique(values, return_counts=True)[1].max())
    is_share = bool(values.min() >= 0 and values.max() <= 1)
    squares = round(float(((values - mean) ** 2).sum()), 12)
    return UnitSummary(values.size, mean, squares, values.size - most_frequent, is_share)


def find_difference(a: UnitSummary, b: UnitSummary, rule: StoppingRule) -> DifferenceInterval:
    """Return the difference b − a with its always-valid interval.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024, "Time-uniform central limit
    theory and asymptotic confidence sequences", theorem 2.2), with one change: an arm's variance is never taken to be below that
    of all units together. In a small arm without a rare event the sample variance is 0, and the sequence as published then finds
    differences that do not exist.

    >>> rule = StoppingRule(alpha=0.05, margin=0.02, min_units=50, expected_units=4000)
    >>> a, b = (UnitSummary(2000, mean, 480.0, 800, True) for mean in (0.40, 0.45))
    >>> [round(bound, 3) for bound in find_difference(a, b, rule)]
    [0.05, 0.003, 0.097]
    """
    estimate = b.mean - a.mean
    is_share = a.is_share and b.is_share
    too_alike = not is_share and a.varied + b.varied < MIN_VARIED
    if min(a.units, b.units) < rule.min_units or too_alike:
        return DifferenceInterval(estimate, -inf, inf)
    radius = standard_error(a, b) * multiplier(a.units + b.units, rule)
    return DifferenceInterval(estimate, estimate - radius, estimate + radius)


def standard_error(a: UnitSummary, b: UnitSummary) -> float:
    """Return the standard error of the difference."""
    pooled = _variance(_together(a, b))
    return sqrt(sum(max(_variance(arm), pooled) / arm.units for arm in (a, b)))


def multiplier(units: int, rule: StoppingRule) -> float:
    """Return the number of standard errors between the estimate and a bound after so many units of both arms.

    It is smallest near `rule.expected_units` in relation to a fixed test, and grows slowly before and after.
    """
    rho2 = (-2 * log(rule.alpha) + log(-2 * log(rule.alpha)) + 1) / rule.expected_units
    spread = units * rho2 + 1
    return sqrt(2 * spread / (units * rho2) * log(sqrt(spread) / rule.alpha))


def _together(a: UnitSummary, b: UnitSummary) -> UnitSummary:
    """Return the summary of both arms' units, without the count of varied ones."""
    units = a.units + b.units
    mean = (a.units * a.mean + b.units * b.mean) / units
    squares = a.squares + b.squares + a.units * b.units / units * (b.mean - a.mean) ** 2
    return UnitSummary(units, mean, squares, 0, a.is_share and b.is_share)


def _variance(arm: UnitSummary) -> float:
    """Return the variance of the units.

    Shares get two units more, a 0 and a 1: a hundred units without an event do not prove that none comes.
    """
    if not arm.is_share:
        return arm.squares / (arm.units - 1)
    return (arm.squares + 0.5 + 2 * arm.units / (arm.units + 2) * (arm.mean - 0.5) ** 2) / (arm.units + 1)
