"""The regression against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from monitoring.drift.softmax_regression import fit_softmax, softmax_probabilities


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features of three classes, with correlated columns, the classes, and row weights."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, count)
    x = rng.normal(size=(count, 5)) + 1.5 * np.eye(3, 5)[target]
    x[:, 4] = x[:, 0] ** 2 + 0.1 * x[:, 4]
    return x, target, rng.uniform(0.5, 2, count)


@pytest.mark.parametrize("ridge", [0.1, 1.0, 30.0])
def test_probabilities_are_scikit_learns(ridge: float) -> None:
    x, target, row_weights = rows(1, 800)
    ours = softmax_probabilities(with_intercept(x), fit_softmax(with_intercept(x), target, 3, row_weights, ridge))
    model = LogisticRegression(C=1 / ridge, max_iter=5000, tol=1e-8).fit(x, target, sample_weight=row_weights)
    assert ours == pytest.approx(model.predict_proba(x), abs=1e-4)


def test_a_class_without_rows_is_hardly_predicted() -> None:
    x, target, row_weights = rows(2, 800)
    probabilities = softmax_probabilities(with_intercept(x), fit_softmax(with_intercept(x), target, 4, row_weights, 1.0))
    assert probabilities[:, 3].max() < 0.01
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_without_rows_all_classes_are_equally_likely() -> None:
    weights = fit_softmax(np.zeros((0, 6)), np.zeros(0, dtype=np.int64), 2, np.zeros(0), 1.0)
    assert softmax_probabilities(with_intercept(rows(3, 5)[0]), weights) == pytest.approx(0.5)


def with_intercept(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)
