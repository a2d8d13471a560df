"""MMD by random features, against the kernel itself."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from monitoring.detectors.mmd import median_distance, random_features, squared_mmd


def test_random_features_come_near_the_kernel() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(200, 4)).astype(np.float32), rng.normal(0.7, 1, size=(200, 4)).astype(np.float32)
    features = random_features(4, 4000, 2.0, rng)
    kernel = [np.exp(-cdist(x, y, "sqeuclidean") / (2 * 2.0**2)).mean() for x, y in ((a, a), (b, b), (a, b))]
    exact = kernel[0] + kernel[1] - 2 * kernel[2]
    assert squared_mmd(features(a).mean(axis=0), features(b).mean(axis=0)) == pytest.approx(exact, abs=0.02)


def test_the_bandwidth_is_the_median_distance() -> None:
    rows = np.random.default_rng(3).normal(size=(50, 5)).astype(np.float32)
    assert median_distance(rows) == pytest.approx(np.median(pdist(rows)), rel=1e-4)
    assert median_distance(np.ones((9, 2), dtype=np.float32)) == 1
