"""Paired statistics against scipy, a brute-force search, and the promised error rates in seeded streams."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

from monitoring.detectors.paired_test import (
    PairCounts,
    count_pairs,
    pass_probability,
    tango_lower_bound,
    tango_p_value,
    tarone_rejections,
)
from pipeline.metrics import mcnemar


def test_pairs_count_what_only_one_of_the_two_gets_right() -> None:
    champion, candidate = np.array([1, 1, 0, 0, 1], dtype=bool), np.array([1, 0, 1, 0, 0], dtype=bool)
    assert count_pairs(champion, candidate) == PairCounts(5, gained=1, lost=2)
    assert count_pairs(champion, candidate).difference == pytest.approx(-0.2)


@pytest.mark.parametrize(("more", "less"), [(0, 0), (0, 5), (5, 0), (3, 1), (10, 10), (34, 64), (1000, 900)])
def test_the_sign_test_is_scipys_binomial_test(more: int, less: int) -> None:
    expected = stats.binomtest(more, more + less, 0.5, alternative="greater").pvalue if more + less else 1.0
    assert mcnemar(more, less, "greater") == pytest.approx(expected, rel=1e-9)


def searched_score(rows: int, gained: int, lost: int, difference: float) -> float:
    """Return Tango's statistic with the nuisance parameter, the share of lost rows, found by search instead of by formula."""

    def surprise(share: float) -> float:
        won, same = share + difference, 1 - 2 * share - difference
        return -(gained * np.log(won) + lost * np.log(share) + (rows - gained - lost) * np.log(same))

    bounds = (max(1e-12, 1e-12 - difference), (1 - difference) / 2 - 1e-12)
    share = minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (gained - lost - rows * difference) / np.sqrt(rows * (2 * share + difference * (1 - difference)))


@pytest.mark.parametrize("counts", [(654, 25, 30), (50, 3, 1), (200, 0, 4), (3080, 90, 120), (40, 12, 12)])
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_the_margin_test_is_tangos_score_test(counts: tuple[int, int, int], margin: float) -> None:
    expected = stats.norm.sf(searched_score(*counts, -margin))
    assert float(tango_p_value(*counts, margin)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("counts", [PairCounts(654, 25, 30), PairCounts(654, 0, 0), PairCounts(10, 5, 0), PairCounts(100, 0, 60)])
def test_the_lower_bound_is_where_the_margin_test_stops_rejecting(counts: PairCounts) -> None:
    bound = tango_lower_bound(counts, 0.05)
    assert float(tango_p_value(*counts, -bound + 1e-4)) < 0.05 < float(tango_p_value(*counts, -bound - 1e-4))


@pytest.mark.parametrize("rows", [100, 654, 3080])
@pytest.mark.parametrize("discordant", [0.03, 0.1])
def test_a_model_that_lost_the_margin_is_rarely_called_not_worse(rows: int, discordant: float) -> None:
    rng = np.random.default_rng(31)
    shares = [(discordant - 0.02) / 2, (discordant + 0.02) / 2, 1 - discordant]
    gained, lost, _ = rng.multinomial(rows, shares, size=20_000).T
    assert (tango_p_value(rows, gained, lost, 0.02) <= 0.05).mean() <= 0.05 + 3 * (0.05 * 0.95 / 20_000) ** 0.5 + 0.005


def test_the_pass_probability_agrees_with_simulated_models() -> None:
    rng = np.random.default_rng(32)
    for rows, discordant, difference in ((150, 0.1, 0.0), (654, 0.08, -0.02), (1000, 0.05, 0.01)):
        shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
        gained, lost, _ = rng.multinomial(rows, shares, size=40_000).T
        simulated = float((mcnemar(lost, gained, "greater") > 0.1).mean())
        computed = pass_probability(rows, discordant, difference, lambda more, less: mcnemar(less, more, "greater") > 0.1)
        assert computed == pytest.approx(simulated, abs=4 * (simulated * (1 - simulated) / 40_000) ** 0.5 + 1e-4)


def test_tarone_corrects_only_for_tests_that_could_reject() -> None:
    lost, gained = np.array([9, *[1] * 76]), np.zeros(77, dtype=np.int64)
    p, smallest = mcnemar(lost, gained, "greater"), 0.5 ** (lost + gained)
    assert p[0] == pytest.approx(0.5**9)
    assert tarone_rejections(p, smallest, 0.005).tolist() == [True, *[False] * 76]
    assert p[0] > 0.005 / 77  # Bonferroni over all classes would have missed it


def test_without_tests_nothing_is_rejected() -> None:
    assert tarone_rejections(np.ones(0), np.ones(0), 0.01).tolist() == []
    assert not tarone_rejections(np.ones(5), np.ones(5), 0.01).any()


def test_of_77_equal_classes_one_is_called_worse_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(33)
    wrong = 0
    for _ in range(4000):
        discordant = rng.binomial(40, 0.15, size=77)
        lost = rng.binomial(discordant, 0.5)
        wrong += bool(tarone_rejections(mcnemar(lost, discordant - lost, "greater"), 0.5**discordant, 0.05).any())
    assert wrong / 4000 <= 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5
    assert wrong > 0
