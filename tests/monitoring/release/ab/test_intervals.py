"""The interval of a difference: its formula against the paper, its floor under the variance, and what leaves it open."""

from math import inf, isclose, log, sqrt

import numpy as np
import pytest
from scipy import stats

from monitoring.release.ab.intervals import StoppingRule, UnitSummary, find_difference, multiplier, standard_error, summarise_arm

RULE = StoppingRule(alpha=0.05, margin=0.02, min_units=50, expected_units=4000)


def draw(seed: int, units: int, mean: float = 0.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(mean, 3.0, units)


@pytest.mark.parametrize("units", [100, 1000, 10_000])
def test_the_bound_is_that_of_the_paper(units: int) -> None:
    """Waudby-Smith et al. (2024), equation 13, for a variance of 1, with rho tuned as in their appendix."""
    rho = sqrt((-2 * log(0.05) + log(-2 * log(0.05)) + 1) / 4000)
    squared = 2 * (units * rho**2 + 1) / (units**2 * rho**2) * log(sqrt(units * rho**2 + 1) / 0.05)
    assert isclose(multiplier(units, RULE) / sqrt(units), sqrt(squared))


def test_it_is_tightest_near_the_expected_units() -> None:
    at_4000 = {expected: multiplier(4000, RULE._replace(expected_units=expected)) for expected in (400, 2000, 4000, 8000, 40_000)}
    assert min(at_4000, key=at_4000.__getitem__) == 4000


def test_the_standard_error_is_welchs_where_the_arms_spread_alike() -> None:
    a, b = draw(1, 4000), draw(2, 3000)
    welch = stats.ttest_ind(b, a, equal_var=False)
    estimate = find_difference(summarise_arm(a), summarise_arm(b), RULE).estimate
    assert isclose(estimate / standard_error(summarise_arm(a), summarise_arm(b)), welch.statistic, rel_tol=0.02)


def test_an_arm_without_a_rare_event_has_the_variance_of_both() -> None:
    a, b = summarise_arm((np.arange(900) % 100 == 0).astype(float)), summarise_arm(np.zeros(100))
    alone = sqrt(a.squares / 899 / 900)
    assert standard_error(a, b) > 3 * alone
    assert find_difference(a, b, RULE).upper > 0


def test_arms_without_an_event_are_not_proved_equal_at_once() -> None:
    few, many = summarise_arm(np.zeros(60)), summarise_arm(np.zeros(5000))
    assert find_difference(few, few, RULE).upper > RULE.margin
    assert find_difference(many, many, RULE).upper < RULE.margin


def test_a_mixture_of_zeros_and_rare_sums_stays_open_until_sums_are_seen() -> None:
    zeros = np.zeros(400)
    few, enough = zeros.copy(), zeros.copy()
    few[:5] = enough[:15] = 120.0
    assert find_difference(summarise_arm(few), summarise_arm(few), RULE).upper == inf
    assert find_difference(summarise_arm(enough), summarise_arm(enough), RULE).upper < inf


def test_it_stays_open_while_an_arm_has_too_few_units() -> None:
    small, large, none = summarise_arm(draw(3, 49)), summarise_arm(draw(4, 5000)), summarise_arm(np.array([]))
    for arms in ((small, large), (large, small), (none, large), (none, none)):
        found = find_difference(*arms, RULE)
        assert (found.lower, found.upper) == (-inf, inf)


def test_both_arms_exchanged_give_the_opposite_interval() -> None:
    a, b = summarise_arm(draw(5, 300)), summarise_arm(draw(6, 200, 0.5))
    assert find_difference(a, b, RULE) == pytest.approx(find_difference(b, a, RULE).negated())


def test_the_largest_outcomes_that_the_gateway_takes_give_finite_bounds() -> None:
    huge = summarise_arm(np.where(np.arange(1000) % 2, 1e12, -1e12))
    found = find_difference(huge, huge, RULE)
    assert -inf < found.lower < found.estimate == 0 < found.upper < inf


def test_a_summary_says_how_many_units_vary_and_whether_all_are_shares() -> None:
    assert summarise_arm(np.array([0.0, 0.5, 1.0, 0.0])) == UnitSummary(4, 0.375, 0.6875, 2, True)
    assert not summarise_arm(np.array([0.0, 1.01])).is_share
    assert not summarise_arm(np.array([-0.1, 1.0])).is_share
