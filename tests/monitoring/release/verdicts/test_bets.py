"""Check e-processes against exact expectations over all outcomes, products of single bets, scipy, and hand values."""

from itertools import product

import numpy as np
import pytest
from scipy import integrate, stats

from monitoring.release.verdicts import bets
from monitoring.release.verdicts.bets import log_e_above, log_e_excess, log_e_share, mean_interval, share_at_most
from monitoring.release.verdicts.two_arms import ArmSample, TwoArms


def counted(outcomes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return the numbers of 0, +1 and −1."""
    return tuple(np.array(float(outcomes.count(kind))) for kind in (0, 1, -1))


@pytest.mark.parametrize("floor", [-0.02, 0.0, 0.3])
def test_the_wealth_on_a_mean_is_the_product_of_its_bets(floor: float) -> None:
    outcomes = (1, 0, -1, 0, 0, 1)
    stakes = bets.STAKES / (1 + floor)
    wealth = np.prod([1 + stakes * (outcome - floor) for outcome in outcomes], axis=0)
    assert float(log_e_above(floor, *counted(outcomes))) == pytest.approx(np.log(bets.STAKE_WEIGHTS @ wealth))


@pytest.mark.parametrize(("floor", "gained"), [(-0.02, 0.05), (-0.02, 0.3), (0.0, 0.1), (0.2, 0.5)])
def test_the_expected_wealth_is_one_on_the_border_of_the_null_hypothesis_and_less_inside(floor: float, gained: float) -> None:
    def expected(mean: float) -> float:
        shares = {1: gained, -1: gained - mean, 0: 1 - 2 * gained + mean}
        runs = product(shares, repeat=5)
        return sum(np.prod([shares[x] for x in run]) * np.exp(float(log_e_above(floor, *counted(run)))) for run in runs)

    assert expected(floor) == pytest.approx(1)
    assert expected(floor - 0.1) < 1


def test_an_interval_ends_where_the_evidence_reaches_its_threshold() -> None:
    low, high = mean_interval(equal=900, gained=30, lost=70)
    counts = [np.array(float(count)) for count in (900, 30, 70)]
    assert float(log_e_above(low, *counts)) == pytest.approx(np.log(40), abs=1e-6)
    assert float(log_e_above(-high, counts[0], counts[2], counts[1])) == pytest.approx(np.log(40), abs=1e-6)
    assert low < -0.04 < high


def test_an_interval_of_nothing_is_everything() -> None:
    assert mean_interval(0, 0, 0) == pytest.approx((-1, 1))


def test_an_interval_holds_the_mean_at_all_times_in_95_of_100_runs() -> None:
    rng = np.random.default_rng(3)
    outcomes = rng.choice([0, 1, -1], p=[0.9, 0.04, 0.06], size=(1000, 300))
    gained, lost = (np.cumsum(outcomes == kind, axis=1, dtype=float) for kind in (1, -1))
    equal = np.arange(1, 301) - gained - lost
    above = log_e_above(-0.02, equal, gained, lost) >= np.log(40)
    below = log_e_above(0.02, equal, lost, gained) >= np.log(40)
    assert (above | below).any(axis=1).mean() <= 0.05


@pytest.mark.parametrize("tolerated", [0.05, 0.3])
def test_the_expected_wealth_on_a_share_is_one_at_the_tolerated_share(tolerated: float) -> None:
    hits = np.arange(13)
    wealth = np.exp([log_e_share(tolerated, int(count), 12) for count in hits])
    assert stats.binom.pmf(hits, 12, tolerated) @ wealth == pytest.approx(1)
    assert stats.binom.pmf(hits, 12, tolerated / 2) @ wealth < 1


def test_a_share_that_may_be_one_is_never_refuted() -> None:
    assert log_e_share(1.0, 10, 10) == 0.0 and log_e_share(1.0, 0, 10) < 0


def test_the_bound_of_a_share_is_where_a_beta_mixture_refutes_it() -> None:
    hits, answers, alpha = 7, 60, 0.05
    bound = share_at_most(hits, answers, alpha)
    mixture = integrate.quad(lambda p: stats.beta.pdf(p, 0.5, 0.5) * p**hits * (1 - p) ** (answers - hits), 0, 1)[0]
    assert mixture / (bound**hits * (1 - bound) ** (answers - hits)) == pytest.approx(1 / alpha, rel=1e-6)
    assert stats.binomtest(hits, answers).proportion_ci(0.9, "exact").high < bound, "it holds at all times, and is wider"
    assert share_at_most(0, 0, alpha) == pytest.approx(1)


@pytest.mark.parametrize("allowed", [0.01, 0.05, 0.9])
@pytest.mark.parametrize("base", [0.0, 0.004, 0.05, 0.1])
def test_the_expected_wealth_on_two_arms_is_at_most_one_on_the_border(allowed: float, base: float) -> None:
    pairs = 8
    hits = np.arange(pairs + 1)
    wealth = np.exp([[log_e_excess(allowed, pairs, a, b) for b in hits] for a in hits])
    arm, baseline = stats.binom.pmf(hits, pairs, base + allowed), stats.binom.pmf(hits, pairs, base)
    assert arm @ wealth @ baseline <= 1 + 1e-12


def test_two_arms_stay_fair_when_both_change_from_pair_to_pair() -> None:
    shares = [(0.01, 0.0), (0.5, 0.49), (0.9, 0.89), (0.06, 0.05)]
    expected = 0.0
    for run in product((0, 1), repeat=2 * len(shares)):
        arm, baseline = run[::2], run[1::2]
        chance = np.prod([(q if x else 1 - q) * (p if y else 1 - p) for (q, p), x, y in zip(shares, arm, baseline, strict=True)])
        expected += chance * np.exp(log_e_excess(0.01, len(shares), sum(arm), sum(baseline)))
    assert 0.5 < expected <= 1


def test_two_arms_are_waged_on_as_the_product_of_both_bets() -> None:
    p, stakes = (axis.ravel() for axis in np.meshgrid(bets.BASE_SHARES * 0.95, bets.ARM_STAKES, indexing="ij"))
    q = p + 0.05
    mu = stakes * np.minimum(1 / q, 1 / (1 - p))
    wealth = (1 + mu * (1 - q)) * (1 - mu * (0 - p)) * (1 + mu * (0 - q)) * (1 - mu * (1 - p))
    assert log_e_excess(0.05, 2, 1, 1) == pytest.approx(np.log(wealth.mean()))


def test_waiting_answers_are_worth_no_more_than_their_mean_over_all_choices() -> None:
    arms = TwoArms().add(ArmSample(4, 10), ArmSample(0, 6))
    drawn = np.arange(5)
    chances = stats.hypergeom.pmf(drawn, 10, 4, 6)
    averaged = np.log(chances @ np.exp([log_e_excess(0.01, 6, int(hits), 0) for hits in drawn]))
    assert arms.log_e(0.01) <= averaged
    assert arms.log_e(0.01) == pytest.approx(averaged, abs=0.6)


def test_answers_wait_for_a_partner_and_none_is_lost() -> None:
    arms = TwoArms()
    for hits, answers, baseline_answers in [(1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 2, 3)]:
        arms = arms.add(ArmSample(hits, answers), ArmSample(0, baseline_answers))
    assert arms.pairs == 4 and arms.hits == pytest.approx(2)
    assert arms.waiting.answers == 0 and arms.baseline_waiting.answers == 0
    assert arms.shares == pytest.approx((0.5, 0.0))
