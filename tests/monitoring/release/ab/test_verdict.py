"""The verdict at a look: which arm, no difference, or about how many more units."""

from math import isclose

import numpy as np
import pytest
from scipy import stats

from monitoring.release.ab.intervals import StoppingRule, UnitSummary, find_difference
from monitoring.release.ab.verdict import AbVerdict, describe, is_uneven, judge

RULE = StoppingRule(alpha=0.05, margin=0.05, min_units=50, expected_units=4000)


def share(units: int, mean: float) -> UnitSummary:
    return UnitSummary(units, mean, units * mean * (1 - mean), units // 3, True)


def judged(a: UnitSummary, b: UnitSummary, *, is_lower_better: bool = False, weight: float = 0.5) -> AbVerdict:
    return judge(a, b, RULE, weight=weight, is_lower_better=is_lower_better)


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        (share(3000, 0.3), share(3000, 0.4), "B"),
        (share(3000, 0.4), share(3000, 0.3), "A"),
        (share(9000, 0.3), share(9000, 0.302), "no difference"),
        (share(300, 0.3), share(300, 0.32), "not yet"),
        (share(10, 0.3), share(10, 0.9), "not yet"),
    ],
)
def test_the_answer_follows_from_the_interval(a: UnitSummary, b: UnitSummary, answer: str) -> None:
    assert judged(a, b).answer == answer


def test_where_less_is_better_the_other_arm_wins_and_no_difference_stays_one() -> None:
    assert judged(share(3000, 0.3), share(3000, 0.4), is_lower_better=True).answer == "A"
    assert judged(share(3000, 0.4), share(3000, 0.3), is_lower_better=True).answer == "B"
    assert judged(share(9000, 0.3), share(9000, 0.302), is_lower_better=True).answer == "no difference"


@pytest.mark.parametrize(("rate_b", "units"), [(0.33, 500), (0.301, 500), (0.36, 200)])
def test_after_about_the_missing_units_the_same_arms_give_an_answer(rate_b: float, units: int) -> None:
    verdict = judged(share(units, 0.3), share(units, rate_b))
    assert verdict.answer == "not yet"
    assert verdict.more_units is not None
    enough = units + verdict.more_units // 2
    assert judged(share(int(1.02 * enough), 0.3), share(int(1.02 * enough), rate_b)).answer != "not yet"
    assert judged(share(int(0.95 * enough), 0.3), share(int(0.95 * enough), rate_b)).answer == "not yet"


def test_missing_units_are_counted_for_the_share_that_b_gets() -> None:
    (even, uneven) = (judged(share(a, 0.3), share(b, 0.33), weight=w) for a, b, w in ((500, 500, 0.5), (900, 100, 0.1)))
    assert even.more_units is not None
    assert uneven.more_units is not None
    assert 2 < (1000 + uneven.more_units) / (1000 + even.more_units) < 4


def test_too_few_units_say_nothing_about_how_many_more() -> None:
    verdict = judged(share(10, 0.3), share(10, 0.4))
    assert verdict.more_units is None
    assert describe(verdict, 0.05) == "not yet: too few units to say how many"


def test_arms_whose_units_contradict_the_share_get_no_answer() -> None:
    verdict = judged(share(3000, 0.3), share(2000, 0.5))
    assert (verdict.answer, verdict.uneven, verdict.more_units) == ("not yet", True, None)
    assert "3000 and 2000" in describe(verdict, 0.05)


def test_uneven_arms_are_found_and_even_ones_are_not_called_so_at_any_look() -> None:
    rng = np.random.default_rng(3)
    called = 0
    for _ in range(300):
        b_units = (rng.random(4000) < 0.2).cumsum()
        called += any(is_uneven(n - int(b_units[n - 1]), int(b_units[n - 1]), 0.2) for n in range(50, 4001, 50))
    assert called <= 1
    assert is_uneven(8300, 1700, 0.2)
    assert isclose(stats.binomtest(1700, 10_000, 0.2).pvalue, 0, abs_tol=1e-9)


def test_every_answer_is_a_sentence() -> None:
    assert describe(judged(share(3000, 0.3), share(3000, 0.4)), 0.05) == "B is better"
    assert describe(judged(share(9000, 0.3), share(9000, 0.3)), 0.05) == "no difference above the margin of 0.05"
    waiting = judged(share(500, 0.3), share(500, 0.33))._replace(more_units=8214)
    assert describe(waiting, 0.05) == "not yet: about 8200 more units"


def test_the_interval_of_the_verdict_is_that_of_b_minus_a_also_where_less_is_better() -> None:
    a, b = share(3000, 0.3), share(3000, 0.4)
    assert judged(a, b, is_lower_better=True).difference == find_difference(a, b, RULE)
