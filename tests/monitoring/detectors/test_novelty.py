"""Novelty of a text, and of a window of texts."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import entropy as scipy_entropy

from monitoring.detectors.novelty import entropy, fit_novelty, out_of_distribution_share, tail_excess

RNG = np.random.default_rng(1)
SKETCH, CERTAIN = RNG.normal(size=(400, 5)) * [1, 2, 3, 4, 5], RNG.dirichlet([9, 1, 1], 400)


def test_entropy_is_scipys_and_0_for_certainty() -> None:
    assert entropy(CERTAIN) == pytest.approx(scipy_entropy(CERTAIN, axis=1))
    assert entropy(np.array([[1.0, 0.0]])) == pytest.approx(0)


def test_the_distance_is_mahalanobis_but_for_shrinkage() -> None:
    fitted = fit_novelty(SKETCH, CERTAIN, 1e-9)
    inverse = np.linalg.inv(np.cov(SKETCH.T, bias=True))
    expected = [mahalanobis(row, SKETCH.mean(axis=0), inverse) ** 2 for row in SKETCH[:9]]
    distance = (((SKETCH[:9] - fitted.mean) @ fitted.whitening) ** 2).sum(axis=1)
    assert distance == pytest.approx(expected, rel=1e-5)


def test_far_rows_and_uncertain_rows_are_novel() -> None:
    fitted = fit_novelty(SKETCH, CERTAIN, 0.1)
    near, certain, uncertain = np.zeros((1, 5)), np.array([[0.98, 0.01, 0.01]]), np.full((1, 3), 1 / 3)
    base = fitted(near, certain)[0]
    assert fitted(near + np.array([0, 0, 0, 0, 25]), certain)[0] > base + 1
    assert fitted(near, uncertain)[0] > base + 1


def test_equal_rows_are_fitted_without_a_division_by_zero() -> None:
    fitted = fit_novelty(np.ones((5, 3)), np.tile([1.0, 0.0], (5, 1)), 0.1)
    assert np.isfinite(fitted(np.ones((2, 3)), np.tile([1.0, 0.0], (2, 1)))).all()


def test_one_row_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        fit_novelty(SKETCH[:1], CERTAIN[:1], 0.1)


def test_tail_excess_by_hand() -> None:
    excess = tail_excess(np.array([0.9, 0.1]), np.array([0.7, 0.3]), (100, 50))
    pooled = (10 + 15) / 150
    assert excess == pytest.approx(0.2 / np.sqrt(pooled * (1 - pooled) * (1 / 100 + 1 / 50)))


def test_fewer_odd_rows_are_no_excess() -> None:
    assert tail_excess(np.array([0.8, 0.2]), np.array([0.9, 0.1]), (100, 100)) < 0


def test_the_out_of_distribution_share_is_exact_where_all_such_rows_are_novel() -> None:
    reference, odd = np.array([0.5, 0.4, 0.1]), np.array([0.0, 0.0, 1.0])
    assert out_of_distribution_share(reference, 0.8 * reference + 0.2 * odd) == pytest.approx(0.2)


def test_where_nothing_is_novel_the_share_is_0() -> None:
    assert out_of_distribution_share(np.array([0.5, 0.4, 0.1]), np.array([0.6, 0.4, 0.0])) == 0
    assert out_of_distribution_share(np.ones(1), np.ones(1)) == 0
