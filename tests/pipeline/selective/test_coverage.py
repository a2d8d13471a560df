"""The coverage curve, against counting by hand and over the orders of ties."""

from itertools import permutations

import numpy as np
import pytest

from pipeline.selective.coverage import coverage_curve, coverage_scores


def test_the_most_confident_rows_are_answered_first() -> None:
    curve = coverage_curve(np.array([0.2, 0.9, 0.5, 0.7]), np.array([False, True, False, True]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.accuracy.tolist() == pytest.approx([1, 1, 2 / 3, 0.5])
    assert curve.area_under_risk() == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_rows_of_equal_confidence_count_as_in_the_mean_over_their_orders() -> None:
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, False, True, True])
    apart = confidence - 1e-6 * np.arange(4)
    curves = [coverage_curve(apart, correct[list(order)]).accuracy for order in permutations(range(4)) if order[0] == 0]
    assert coverage_curve(confidence, correct).accuracy == pytest.approx(np.mean(curves, axis=0))


def test_scores_have_the_accuracy_at_each_coverage_that_enough_rows_reach() -> None:
    correct = np.arange(100) < 85  # the 85 most confident
    scores = coverage_scores(coverage_curve(1 - np.arange(100) / 100, correct))
    assert scores["accuracy_at_coverage_80"] == 1.0
    assert scores["accuracy_at_coverage_90"] == pytest.approx(85 / 90)
    assert scores["accuracy_at_coverage_95"] == pytest.approx(85 / 95)
    assert set(scores) == {"area_under_risk_coverage", *(f"accuracy_at_coverage_{n}" for n in (80, 90, 95))}
