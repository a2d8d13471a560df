"""A threshold's promise is broken as seldom as it says, in many worlds whose truth is known. A naive threshold breaks it."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest

from pipeline.selective.coverage import Floats
from pipeline.selective.threshold import (
    ScoredRows,
    exact_interval,
    fit_accuracy,
    fit_coverage,
    lower_bound,
    p_values,
    rows_needed,
)

WORLDS, ORDERING, FITTING = 300, 150, 300
TARGET, CONFIDENCE, COUNT = 0.9, 0.9, 50
MOST_BROKEN = int(binom.ppf(0.999, WORLDS, 1 - CONFIDENCE))  # promises, by chance

Truth = Callable[[Floats], Floats]  # P(right) at each confidence


def sharp(confidence: Floats) -> Floats:
    """Confidence tells much: answers from 0.23 on are right in 90 %."""
    return 1 - 0.5 * (1 - confidence) ** 2


def flat(confidence: Floats) -> Floats:
    """Confidence tells nothing, and the target is missed everywhere by a hair: the hardest world."""
    return np.full(len(confidence), TARGET - 0.0005)


def waved(confidence: Floats) -> Floats:
    """The most confident answers are the worst, so that accuracy does not fall with coverage."""
    return np.where(confidence > 0.8, 0.86, 0.93)


def draw(truth: Truth, rows: int, rng: np.random.Generator) -> ScoredRows:
    confidence = rng.random(rows)
    return ScoredRows(confidence, rng.random(rows) < truth(confidence))


def true_accuracy(truth: Truth, threshold: float) -> float:
    """Return the accuracy of the answers at the threshold, for confidences that are uniform."""
    return float(truth(np.linspace(threshold, 1, 20001)[:-1]).mean())


def naive_threshold(rows: ScoredRows) -> float | None:
    """Return the lowest threshold whose answers reach the target on the rows themselves."""
    order = np.argsort(-rows.confidence)
    reached = np.flatnonzero(np.cumsum(rows.correct[order]) / np.arange(1, len(order) + 1) >= TARGET)
    return float(rows.confidence[order[reached[-1]]]) if len(reached) else None


def broken(truth: Truth, choose: Callable[[ScoredRows, ScoredRows], float | None]) -> tuple[int, int]:
    """Return in how many worlds a threshold was chosen, and in how many it misses the target."""
    rng = np.random.default_rng(1)
    chosen = [choose(draw(truth, ORDERING, rng), draw(truth, FITTING, rng)) for _ in range(WORLDS)]
    missed = [threshold is not None and true_accuracy(truth, threshold) < TARGET for threshold in chosen]
    return sum(threshold is not None for threshold in chosen), sum(missed)


def guaranteed(ordering: ScoredRows, fitting: ScoredRows) -> float | None:
    return fit_accuracy(ordering, fitting, target=TARGET, confidence=CONFIDENCE, count=COUNT).threshold


@pytest.mark.parametrize("truth", [sharp, flat, waved])
def test_the_promised_accuracy_is_missed_as_seldom_as_promised(truth: Truth) -> None:
    _, missed = broken(truth, guaranteed)
    assert missed <= MOST_BROKEN


def test_where_confidence_tells_much_a_threshold_is_found_nearly_always() -> None:
    chosen, _ = broken(sharp, guaranteed)
    assert chosen > 0.9 * WORLDS


@pytest.mark.parametrize("truth", [sharp, flat])
def test_a_naive_threshold_breaks_the_promise(truth: Truth) -> None:
    _, missed = broken(truth, lambda _, fitting: naive_threshold(fitting))
    assert missed > 2 * MOST_BROKEN


def test_the_sequence_ends_at_the_first_threshold_that_fails() -> None:
    confidence = np.linspace(1, 0.001, 400)
    correct = np.ones(400, dtype=np.bool_)
    correct[150:190] = False  # a pit; below it everything is right again
    ordering = ScoredRows(confidence, np.arange(400) < 150)
    fit = fit_accuracy(ordering, ScoredRows(confidence, correct), target=0.9, confidence=0.95, count=40)
    assert fit.threshold is not None
    assert 0.6 < fit.threshold < 0.65
    assert fit.bound >= 0.9


def test_p_values_are_the_binomial_tail_of_the_rows_at_or_above_each_threshold() -> None:
    rows = ScoredRows(np.array([0.9, 0.8, 0.8, 0.3]), np.array([True, False, True, False]))
    answered, errors, p = p_values(rows, np.array([0.95, 0.8, 0.0]), 0.9)
    assert (answered.tolist(), errors.tolist()) == ([0, 3, 4], [0, 1, 2])
    assert p == pytest.approx([1.0, binom.cdf(1, 3, 0.1), binom.cdf(2, 4, 0.1)])


def test_a_missed_target_names_what_is_proved_and_how_many_rows_would_do() -> None:
    rng = np.random.default_rng(3)
    ordering, fitting = draw(sharp, 60, rng), draw(sharp, 40, rng)
    few = fit_accuracy(ordering, fitting, target=0.95, confidence=0.95, count=COUNT)
    assert few.threshold is None
    assert few.bound < 0.95
    assert few.bound == pytest.approx(beta.ppf(0.05, few.answered - few.errors, few.errors + 1) if few.answered else 0.0)
    assert rows_needed(100, 4, 300, 0.95, 0.05) is None or rows_needed(100, 4, 300, 0.95, 0.05) > 300
    assert rows_needed(100, 20, 300, 0.9, 0.05) is None  # the errors are too frequent for any number of rows
    enough = rows_needed(100, 0, 100, 0.95, 0.05)
    assert enough is not None
    assert 59 <= enough < 100  # 59 rows without an error prove 95 %


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_a_coverage_is_reached_on_new_rows_within_its_interval(target: float) -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(WORLDS):
        fit = fit_coverage(draw(sharp, FITTING, rng), target=target, confidence=CONFIDENCE)
        assert fit.threshold is not None
        assert fit.answered >= target * FITTING
        held += 1 - fit.threshold >= fit.bound
    assert held >= binom.ppf(0.001, WORLDS, 1 - (1 - CONFIDENCE) / 2)


@pytest.mark.parametrize(("hits", "rows"), [(0, 7), (7, 7), (3, 11), (95, 100)])
def test_intervals_are_those_of_scipy(hits: int, rows: int) -> None:
    theirs = binomtest(hits, rows).proportion_ci(0.9, "exact")
    assert exact_interval(hits, rows, 0.9)[1:] == pytest.approx((theirs.low, theirs.high))
    one_sided = binomtest(hits, rows, alternative="greater").proportion_ci(0.95, "exact")
    assert lower_bound(hits, rows, 0.05) == pytest.approx(one_sided.low)
