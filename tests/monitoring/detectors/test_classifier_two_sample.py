"""The classifier two-sample test."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from monitoring.detectors.classifier_two_sample import area_under_curve, classifier_auc


def test_the_area_is_mann_and_whitneys_u() -> None:
    rng = np.random.default_rng(1)
    low, high = np.round(rng.normal(size=40), 1), np.round(rng.normal(0.5, 1, size=30), 1)
    assert area_under_curve(low, high) == pytest.approx(mannwhitneyu(high, low).statistic / 40 / 30)


def test_what_cannot_be_told_apart_scores_a_half() -> None:
    rng = np.random.default_rng(2)
    found = [classifier_auc(rng.normal(size=(200, 8)), rng.normal(size=(100, 8)), 0.1, rng) for _ in range(40)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_a_shifted_mean_scores_what_the_best_direction_can() -> None:
    rng = np.random.default_rng(3)
    found = classifier_auc(rng.normal(size=(4000, 2)), rng.normal([1, 0], 1, size=(4000, 2)), 0.01, rng)
    assert found == pytest.approx(0.760, abs=0.015)  # Φ(1 / √2)


def test_one_row_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        classifier_auc(np.zeros((1, 2)), np.zeros((9, 2)), 0.1, np.random.default_rng(0))
