"""MMD: features against the kernel, the permutation null against what a p-value has to be."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from monitoring.detectors.mmd import median_distance, mmd_exact, mmd_of_means, permutation_p, random_features


def test_the_exact_one_is_the_mean_of_three_kernels() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(20, 3)), rng.normal(0.5, 1, size=(30, 3))
    kernel = [np.exp(-cdist(x, y, "sqeuclidean") / (2 * 1.3**2)).mean() for x, y in ((a, a), (b, b), (a, b))]
    assert mmd_exact(a, b, 1.3) == pytest.approx(kernel[0] + kernel[1] - 2 * kernel[2])


def test_random_features_come_near_the_kernel() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(200, 4)).astype(np.float32), rng.normal(0.7, 1, size=(200, 4)).astype(np.float32)
    features = random_features(4, 4000, 2.0, rng)
    found = mmd_of_means(features(a).mean(axis=0), features(b).mean(axis=0))
    assert found == pytest.approx(mmd_exact(a, b, 2.0), abs=0.02)


def test_the_bandwidth_is_the_median_distance() -> None:
    rows = np.random.default_rng(3).normal(size=(50, 5)).astype(np.float32)
    assert median_distance(rows) == pytest.approx(np.median(pdist(rows)), rel=1e-4)
    assert median_distance(np.ones((9, 2), dtype=np.float32)) == 1


def test_permutation_p_values_are_uniform_where_nothing_changed() -> None:
    rng = np.random.default_rng(4)
    found = [permutation_p(rng.normal(size=(30, 4)), rng.normal(size=(15, 4)), 99, rng) for _ in range(400)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=3.5 * np.sqrt(level * (1 - level) / 400))


def test_a_permutation_p_value_is_never_0() -> None:
    rng = np.random.default_rng(5)
    assert permutation_p(np.zeros((20, 2)), np.ones((20, 2)), 99, rng) == 0.01


def test_equal_rows_give_p_1() -> None:
    assert permutation_p(np.ones((20, 2)), np.ones((9, 2)), 99, np.random.default_rng(6)) == 1
