"""The plan of an A/B test: units until an answer, by the stopping rule that the test itself uses. Simulated with a seed. Pure."""

from math import ceil, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.release.ab.intervals import StoppingRule, multiplier

PATHS, LOOKS, SEED = 4000, 400, 7
LONGEST = 60  # times the fixed test


class AbPlan(NamedTuple):
    """Units with an outcome, in both arms together."""

    units: int  # within which a difference of the margin is found with the wished power
    usual_units: int  # half of the tests of such a difference end by then
    double_units: int  # half of the tests of twice that difference end by then
    equal_units: int  # half of the tests of two equal arms end by then, with "no difference"
    fixed_units: int  # of a test that looks once, at its end, with the same power
    wrong: float  # simulated share of equal arms that get A or B


class SimulatedEnds(NamedTuple):
    """For each path the units at its end (infinite: none), and whether it ended with A or B."""

    units: NDArray[np.float64]
    is_found: NDArray[np.bool_]

    def when_found(self) -> NDArray[np.float64]:
        """Return the units at the ends with A or B; infinite for the others."""
        return np.where(self.is_found, self.units, np.inf)


def plan_test(rule: StoppingRule, *, deviation: float, weight: float, power: float) -> AbPlan:
    """Plan a test whose outcome has this standard deviation between units; B gets `weight` of them.

    The estimate is a Brownian motion with drift, as the interval's theory takes it.
    """
    spread = deviation / sqrt(weight * (1 - weight))  # of the difference, after one unit
    fixed = fixed_units(rule, deviation=deviation, weight=weight, power=power)
    least = max(ceil(rule.min_units / min(weight, 1 - weight)), fixed // 50)
    units = np.unique(np.geomspace(least, max(2 * least, LONGEST * fixed), LOOKS).astype(np.int64))
    walk = _walks(units)
    equal, one, double = (_simulate(times * rule.margin, walk, units, spread, rule) for times in (0, 1, 2))
    return AbPlan(
        units=_quantile(one.when_found(), power),
        usual_units=_quantile(one.when_found(), 0.5),
        double_units=_quantile(double.when_found(), 0.5),
        equal_units=_quantile(equal.units, 0.5),
        fixed_units=fixed,
        wrong=float(equal.is_found.mean()),
    )


def fixed_units(rule: StoppingRule, *, deviation: float, weight: float, power: float) -> int:
    """Return the units of a two-sided z-test of the margin that looks once.

    >>> fixed_units(StoppingRule(0.05, 0.02, 50, 4000), deviation=0.5, weight=0.5, power=0.9)
    26269
    """
    normal = NormalDist()
    z = normal.inv_cdf(1 - rule.alpha / 2) + normal.inv_cdf(power)
    return ceil((z * deviation / rule.margin) ** 2 / (weight * (1 - weight)))


def _walks(units: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return Brownian motions at these times, divided by them (paths, looks)."""
    steps = np.random.default_rng(SEED).standard_normal((PATHS, len(units))) * np.sqrt(np.diff(units, prepend=0))
    return np.asarray(steps.cumsum(axis=1) / units)


def _simulate(
    difference: float, walk: NDArray[np.float64], units: NDArray[np.int64], spread: float, rule: StoppingRule
) -> SimulatedEnds:
    """Return how each path ends when the arms differ by this much."""
    estimate = difference + spread * walk
    radius = np.array([multiplier(int(count), rule) for count in units]) * spread / np.sqrt(units)
    found = np.abs(estimate) > radius
    ended = found | (np.abs(estimate) + radius < rule.margin)
    rows, first = np.arange(len(walk)), ended.argmax(axis=1)
    return SimulatedEnds(np.where(ended[rows, first], units[first], np.inf), found[rows, first])


def _quantile(ends: NDArray[np.float64], share: float) -> int:
    """Return the units within which this share of the paths has ended; the longest simulated ones where it is not reached."""
    value = float(np.quantile(ends, share, method="higher"))
    return ceil(value if np.isfinite(value) else ends[np.isfinite(ends)].max())
