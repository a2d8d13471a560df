"""The excess share against a published example and by simulation: its interval holds what it promises at small counts."""

from itertools import product

import numpy as np
import pytest

from monitoring.flywheel.disagreement.excess import DifferenceCounts, Expected, excess_by_cluster, excess_share

Z = 1.959964


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [  # Newcombe 1998, table II: cases a to d by method 10
        ((56, 70), (48, 80), (0.2, 0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.6, 0.1705, 0.8090)),
        ((6, 7), (2, 7), (0.5714, 0.0582, 0.8062)),
        ((5, 56), (0, 29), (0.0893, -0.0381, 0.1926)),
    ],
)
def test_two_shares_give_newcombes_published_intervals(
    first: tuple[int, int], second: tuple[int, int], expected: tuple[float, float, float]
) -> None:
    compared = DifferenceCounts(first[1], first[0])
    reference = Expected(reference=DifferenceCounts(second[1], second[0]))
    assert excess_share(compared, reference, Z) == pytest.approx(expected, abs=5e-5)


def test_all_three_shares_widen_the_interval() -> None:
    compared, unstable, reference = DifferenceCounts(100, 30), DifferenceCounts(40, 2), DifferenceCounts(200, 30)
    alone = excess_share(compared, Expected(), Z)
    both = excess_share(compared, Expected(unstable, reference), Z)
    assert alone.estimate == pytest.approx(0.3)
    assert both.estimate == pytest.approx(0.3 - 0.05 - 0.15)
    assert both.upper - both.lower > alone.upper - alone.lower
    assert excess_share(compared, Expected(), Z) == excess_share(compared, Expected(DifferenceCounts(0, 0)), Z)


def test_nothing_that_differs_is_no_proof_of_none() -> None:
    none = excess_share(DifferenceCounts(10, 0), Expected(reference=DifferenceCounts(500, 100)), Z)
    assert none.estimate == pytest.approx(-0.2)
    assert none.lower < -0.2 < none.upper
    assert excess_share(DifferenceCounts(1, 1), Expected(), Z).upper == 1.0


@pytest.mark.parametrize(("texts", "reference"), list(product((10, 30, 200), (30, 600))))
def test_the_interval_covers_the_true_excess_as_often_as_promised(texts: int, reference: int) -> None:
    rng = np.random.default_rng(texts + reference)
    covered, below = [], []
    for differs, unstable, expected in product((0.02, 0.15, 0.3, 0.6), (0.0, 0.03), (0.02, 0.2)):
        for _ in range(250):
            share = excess_share(
                DifferenceCounts(texts, rng.binomial(texts, differs)),
                Expected(
                    DifferenceCounts(texts, rng.binomial(texts, unstable)),
                    DifferenceCounts(reference, rng.binomial(reference, expected)),
                ),
                Z,
            )
            true = differs - unstable - expected
            covered.append(share.lower <= true <= share.upper)
            below.append(share.lower > true)
    assert np.mean(covered) >= 0.94  # 4,000 draws: standard error 0.0034
    assert np.mean(below) <= 0.03  # the bound that a retrain rests on


def test_each_cluster_has_its_share_of_the_texts_in_it() -> None:
    differs = np.array([True, False, True, True, False])
    clusters = np.array([7, 7, 3, 3, 7])
    expected = Expected(reference=DifferenceCounts(100, 20))
    shares = excess_by_cluster(differs, clusters, expected, Z)
    assert shares == {
        3: excess_share(DifferenceCounts(2, 2), expected, Z),
        7: excess_share(DifferenceCounts(3, 1), expected, Z),
    }
    assert excess_by_cluster(differs[:0], clusters[:0], expected, Z) == {}
