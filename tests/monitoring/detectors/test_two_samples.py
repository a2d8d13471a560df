"""Statistics of two samples or two histograms, each against an independent reference or a value worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from monitoring.detectors.chi_square import chi_square, p_value
from monitoring.detectors.jensen_shannon import jensen_shannon
from monitoring.detectors.kolmogorov_smirnov import ks, ks_of_cells
from monitoring.detectors.psi import psi
from monitoring.detectors.wasserstein import wasserstein

RNG = np.random.default_rng(5)
A, B = RNG.normal(size=300), RNG.normal(0.3, 1.2, size=170)
P, Q = RNG.dirichlet(np.ones(9)), RNG.dirichlet(np.ones(9))


def test_psi_is_what_a_pencil_finds() -> None:
    assert psi(np.array([0.5, 0.5]), np.array([0.4, 0.6]), 1e-4) == pytest.approx(-0.1 * math.log(0.8) + 0.1 * math.log(1.2))


def test_psi_is_relative_entropy_both_ways() -> None:
    assert psi(P, Q, 1e-12) == pytest.approx(stats.entropy(P, Q) + stats.entropy(Q, P))


def test_psi_of_an_empty_cell_is_finite() -> None:
    assert psi(np.array([1.0, 0.0]), np.array([0.5, 0.5]), 1e-4) == pytest.approx(0.4999 * math.log(5000) - 0.5 * math.log(0.5))


def test_chi_square_is_that_of_the_contingency_table() -> None:
    counts = np.array([[30, 50, 20, 7], [9, 40, 21, 0]])
    found = chi_square(counts[0] / counts[0].sum(), counts[1] / counts[1].sum(), (counts[0].sum(), counts[1].sum()))
    expected = stats.chi2_contingency(counts, correction=False)
    assert found == pytest.approx(expected.statistic)
    assert p_value(float(found), 4) == pytest.approx(expected.pvalue)


def test_chi_square_leaves_out_what_neither_sample_has() -> None:
    with_empty = chi_square(np.array([0.5, 0.5, 0]), np.array([0.3, 0.7, 0]), (10, 20))
    assert with_empty == pytest.approx(chi_square(np.array([0.5, 0.5]), np.array([0.3, 0.7]), (10, 20)))


def test_one_category_is_no_change() -> None:
    assert chi_square(np.array([1.0]), np.array([1.0]), (5, 9)) == 0
    assert p_value(0.0, 1) == 1


@pytest.mark.parametrize("current", [B, np.round(B, 1), A[:3], np.zeros(4)])
def test_ks_and_wasserstein_are_scipys(current: np.ndarray) -> None:
    assert ks(A, current) == pytest.approx(stats.ks_2samp(A, current).statistic)
    assert wasserstein(A, current) == pytest.approx(stats.wasserstein_distance(A, current))


def test_ks_of_cells_is_ks_of_samples_that_sit_in_the_cells() -> None:
    reference, current = np.array([0, 0, 1, 3, 3, 3]), np.array([1, 1, 2, 3])
    cells = [np.bincount(own, minlength=4) / len(own) for own in (reference, current)]
    assert ks_of_cells(cells[0], cells[1]) == pytest.approx(ks(reference.astype(float), current.astype(float)))


@pytest.mark.parametrize("distance", [ks, wasserstein])
def test_an_empty_sample_has_no_distance(distance: object) -> None:
    with pytest.raises(ValueError, match="empty"):
        distance(A, np.zeros(0))  # type: ignore[operator]


def test_jensen_shannon_is_scipys() -> None:
    assert jensen_shannon(P, Q) == pytest.approx(jensenshannon(P, Q, base=2))


def test_jensen_shannon_is_0_for_equal_and_1_for_disjoint_histograms() -> None:
    assert jensen_shannon(P, P) == 0
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1


def test_histograms_are_compared_row_by_row() -> None:
    many = np.stack([P, Q, P])
    for one in (lambda p, q: psi(p, q, 1e-6), jensen_shannon, ks_of_cells, lambda p, q: chi_square(p, q, (3, 4))):
        assert one(many, Q) == pytest.approx(np.array([one(P, Q), one(Q, Q), one(P, Q)]))
