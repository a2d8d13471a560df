"""Class shares recovered on simulated label shift."""

import numpy as np
import pytest

from monitoring.detectors.label_shift import bbse_shares, em_shares

MEANS = np.array([[0.0, 0.0], [1.8, 0.0], [0.0, 1.8]])


def rows(shares: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows with these shares: exact posteriors of three Gaussian classes under even shares, and the classes."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, count, p=shares)
    x = MEANS[truth] + rng.normal(size=(count, 2))
    likelihood = np.exp(-((x[:, None] - MEANS) ** 2).sum(axis=2) / 2)
    return likelihood / likelihood.sum(axis=1, keepdims=True), truth


EVEN = np.full(3, 1 / 3)
SHIFTED = np.array([0.7, 0.25, 0.05])


def test_em_recovers_the_shares() -> None:
    estimate = em_shares(rows(SHIFTED, 4000, 1)[0], EVEN, 200, 1e-6)
    assert estimate == pytest.approx(SHIFTED, abs=0.02)
    assert estimate.sum() == pytest.approx(1)


def test_em_stops_when_no_share_moves_by_more_than_the_tolerance() -> None:
    probabilities = rows(SHIFTED, 500, 2)[0]
    steps = [em_shares(probabilities, EVEN, number, 0.0) for number in (1, 2)]
    change = np.abs(steps[1] - steps[0]).max()
    assert em_shares(probabilities, EVEN, 100, change * 1.001) == pytest.approx(steps[1])
    assert np.abs(em_shares(probabilities, EVEN, 100, change * 0.999) - steps[1]).max() > 0.01


def test_em_maximises_the_likelihood() -> None:
    probabilities = rows(SHIFTED, 500, 2)[0]
    estimate = em_shares(probabilities, EVEN, 2000, 1e-9)

    def likelihood(shares: np.ndarray) -> float:
        return float(np.log((probabilities / EVEN * shares).sum(axis=1)).mean())

    rng = np.random.default_rng(0)
    assert all(likelihood(estimate) >= likelihood(estimate * 0.99 + 0.01 * rng.dirichlet(np.ones(3))) for _ in range(50))


def test_bbse_recovers_the_shares_and_em_comes_nearer() -> None:
    errors = {"em": 0.0, "bbse": 0.0}
    for seed in range(20):
        reference, truth = rows(EVEN, 1000, 100 + seed)
        current = rows(SHIFTED, 500, 200 + seed)[0]
        bbse = bbse_shares(current, reference, truth, 1e-6)
        errors["bbse"] += float(np.abs(bbse - SHIFTED).sum()) / 20
        errors["em"] += float(np.abs(em_shares(current, EVEN, 200, 1e-6) - SHIFTED).sum()) / 20
    assert errors["bbse"] < 0.12
    assert errors["em"] < errors["bbse"]


def test_without_shift_the_shares_stay() -> None:
    assert em_shares(rows(EVEN, 4000, 3)[0], EVEN, 200, 1e-6) == pytest.approx(EVEN, abs=0.025)


def test_a_class_that_the_reference_lacks_gets_nothing() -> None:
    estimate = em_shares(np.array([[0.5, 0.3, 0.2]] * 4), np.array([0.5, 0.5, 0.0]), 50, 1e-6)
    assert estimate[2] == 0
    assert np.isfinite(estimate).all()


def test_no_rows_have_no_shares() -> None:
    with pytest.raises(ValueError, match="no rows"):
        em_shares(np.zeros((0, 3)), EVEN, 10, 1e-6)
