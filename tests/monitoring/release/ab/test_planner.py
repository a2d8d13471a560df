"""The plan of a test against statsmodels' formula by hand, and against the rule itself on drawn outcomes."""

import pytest
from scipy.stats import norm

from monitoring.release.ab.intervals import StoppingRule
from monitoring.release.ab.planner import fixed_units, plan_test
from tests.monitoring.release.ab.worlds import DIFFERENT, find_difference_in

RULE = StoppingRule(alpha=0.05, margin=0.05, min_units=50, expected_units=4000)


def test_the_fixed_test_is_the_textbooks() -> None:
    per_arm = (norm.ppf(0.975) + norm.ppf(0.9)) ** 2 * 2 * 0.5**2 / 0.05**2
    assert fixed_units(RULE, deviation=0.5, weight=0.5, power=0.9) == pytest.approx(2 * per_arm, abs=1)
    assert fixed_units(RULE, deviation=0.5, weight=0.1, power=0.9) > 2.7 * 2 * per_arm


def test_the_plan_costs_more_than_a_fixed_test_at_worst_and_less_usually() -> None:
    plan = plan_test(RULE, deviation=0.5, weight=0.5, power=0.9)
    assert plan.double_units < plan.usual_units < plan.fixed_units < plan.units < 2 * plan.fixed_units
    assert plan.wrong < RULE.alpha


def test_the_same_settings_give_the_same_plan() -> None:
    first, second = (plan_test(RULE, deviation=2.0, weight=0.3, power=0.8) for _ in range(2))
    assert first == second


def test_a_small_deviation_is_planned_with_the_least_units_of_both_arms() -> None:
    assert plan_test(RULE, deviation=0.001, weight=0.5, power=0.9).units >= 2 * RULE.min_units


def test_the_rule_finds_the_difference_within_the_planned_units_about_as_often_as_planned() -> None:
    found = find_difference_in(DIFFERENT[0], repeats=40)
    assert found.found >= 0.8
    assert found.wrong <= 0.1
    assert found.median < found.fixed
