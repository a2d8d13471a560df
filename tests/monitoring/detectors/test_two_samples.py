"""Statistics of two samples or two histograms, each against an independent reference or a value worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from monitoring.detectors.chi_square import chi_square
from monitoring.detectors.jensen_shannon import jensen_shannon
from monitoring.detectors.kolmogorov_smirnov import ks_distance
from monitoring.detectors.psi import psi

RNG = np.random.default_rng(5)
P, Q = RNG.dirichlet(np.ones(9)), RNG.dirichlet(np.ones(9))


def test_psi_by_hand() -> None:
    assert psi(np.array([0.5, 0.5]), np.array([0.4, 0.6]), 1e-4) == pytest.approx(-0.1 * math.log(0.8) + 0.1 * math.log(1.2))


def test_psi_is_relative_entropy_both_ways() -> None:
    assert psi(P, Q, 1e-12) == pytest.approx(stats.entropy(P, Q) + stats.entropy(Q, P))


def test_psi_of_an_empty_cell_is_finite() -> None:
    assert psi(np.array([1.0, 0.0]), np.array([0.5, 0.5]), 1e-4) == pytest.approx(0.4999 * math.log(5000) - 0.5 * math.log(0.5))


def test_chi_square_is_that_of_the_contingency_table() -> None:
    counts = np.array([[30, 50, 20, 7], [9, 40, 21, 0]])
    statistic = chi_square(counts[0] / counts[0].sum(), counts[1] / counts[1].sum(), (counts[0].sum(), counts[1].sum()))
    assert statistic == pytest.approx(stats.chi2_contingency(counts, correction=False).statistic)


def test_chi_square_leaves_out_what_neither_sample_has() -> None:
    with_empty = chi_square(np.array([0.5, 0.5, 0]), np.array([0.3, 0.7, 0]), (10, 20))
    assert with_empty == pytest.approx(chi_square(np.array([0.5, 0.5]), np.array([0.3, 0.7]), (10, 20)))


def test_one_category_is_no_change() -> None:
    assert chi_square(np.array([1.0]), np.array([1.0]), (5, 9)) == 0


def test_ks_is_scipys_for_samples_that_sit_in_the_cells() -> None:
    reference, current = np.array([0, 0, 1, 3, 3, 3]), np.array([1, 1, 2, 3])
    shares = [np.bincount(sample, minlength=4) / len(sample) for sample in (reference, current)]
    assert ks_distance(shares[0], shares[1]) == pytest.approx(stats.ks_2samp(reference, current).statistic)


def test_jensen_shannon_by_hand() -> None:
    """(.5, .5) against (.4, .6), whose mixture is (.45, .55); in bits, as the square root of the mean of both divergences."""
    p_to_mixture = 0.5 * math.log2(0.5 / 0.45) + 0.5 * math.log2(0.5 / 0.55)
    q_to_mixture = 0.4 * math.log2(0.4 / 0.45) + 0.6 * math.log2(0.6 / 0.55)
    distance = jensen_shannon(np.array([0.5, 0.5]), np.array([0.4, 0.6]))
    assert distance == pytest.approx(math.sqrt((p_to_mixture + q_to_mixture) / 2))


def test_jensen_shannon_is_scipys() -> None:
    assert jensen_shannon(P, Q) == pytest.approx(jensenshannon(P, Q, base=2))


def test_jensen_shannon_is_0_for_equal_and_1_for_disjoint_histograms() -> None:
    assert jensen_shannon(P, P) == 0
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1


def test_histograms_are_compared_row_by_row() -> None:
    many = np.stack([P, Q, P])
    for statistic in (lambda p, q: psi(p, q, 1e-6), jensen_shannon, ks_distance, lambda p, q: chi_square(p, q, (3, 4))):
        assert statistic(many, Q) == pytest.approx(np.array([statistic(P, Q), statistic(Q, Q), statistic(P, Q)]))
