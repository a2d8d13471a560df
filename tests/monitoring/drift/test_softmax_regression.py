"""The regression against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from monitoring.drift.softmax_regression import fit_softmax, softmax_probabilities


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of three kinds, two of which lie on each other, and weights."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    x = rng.normal(size=(count, 5)) + 1.5 * np.eye(3, 5)[kind]
    x[:, 4] = x[:, 0] ** 2 + 0.1 * x[:, 4]
    return x, kind, rng.uniform(0.5, 2, count)


@pytest.mark.parametrize("ridge", [0.1, 1.0, 30.0])
def test_chances_are_scikit_learns(ridge: float) -> None:
    x, kind, weight = rows(1, 800)
    found = softmax_probabilities(with_one(x), fit_softmax(with_one(x), kind, 3, weight, ridge))
    theirs = LogisticRegression(C=1 / ridge, max_iter=5000, tol=1e-8).fit(x, kind, sample_weight=weight)
    assert found == pytest.approx(theirs.predict_proba(x), abs=1e-4)


def test_a_kind_without_rows_is_hardly_expected() -> None:
    x, kind, weight = rows(2, 800)
    found = softmax_probabilities(with_one(x), fit_softmax(with_one(x), kind, 4, weight, 1.0))
    assert found[:, 3].max() < 0.01
    assert found.sum(axis=1) == pytest.approx(1)


def test_without_rows_every_kind_is_as_likely() -> None:
    weights = fit_softmax(np.zeros((0, 6)), np.zeros(0, dtype=np.int64), 2, np.zeros(0), 1.0)
    assert softmax_probabilities(with_one(rows(3, 5)[0]), weights) == pytest.approx(0.5)


def with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)
