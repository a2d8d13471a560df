"""What labels brought is measured on held-out texts of their clusters, with an interval that covers the truth."""

import numpy as np
import pytest

from monitoring.detectors.paired_test import PairCounts
from monitoring.flywheel.label_return import LabelReturn, describe_returns, measure_returns


def flags(right: int, of: int) -> np.ndarray:
    return np.arange(of) < right


def test_each_cluster_is_scored_on_its_held_out_rows_and_the_most_removed_errors_come_first() -> None:
    held_out = np.array([4] * 10 + [7] * 10)
    before = np.concatenate([flags(2, 10), flags(5, 10)])
    after = np.concatenate([flags(4, 10), flags(9, 10)])
    every, *each = measure_returns(held_out, before, after, {4: 30, 7: 20}, {4: 100, 7: 200}, 0.95)
    assert (every.cluster, every.labels, every.texts, every.counts) == (None, 50, 300, PairCounts(20, 6, 0))
    assert every.removed == pytest.approx(0.2 * 100 + 0.4 * 200)
    assert [found.cluster for found in each] == [7, 4]
    assert each[0].per_label == pytest.approx(0.4 * 200 / 20)
    assert each[0].per_label_bounds[0] < each[0].per_label < each[0].per_label_bounds[1]


@pytest.mark.parametrize(("labels", "texts"), [({4: 5}, {4: 10}), ({4: 5, 9: 15}, {4: 10}), ({4: 5}, {4: 10, 9: 90})])
def test_a_cluster_without_size_or_labels_is_left_out(labels: dict[int, int], texts: dict[int, int]) -> None:
    """Without the size of a cluster nothing is known of its errors, and no advice may follow."""
    every, only = measure_returns(np.array([4, 9]), flags(0, 2), flags(2, 2), labels, texts, 0.95)
    assert (every.labels, every.texts, every.counts.rows) == (5, 10, 1)
    assert only.cluster == 4


def test_nothing_that_can_be_measured_is_no_return_and_no_advice() -> None:
    none = np.array([], dtype=np.int64)
    assert measure_returns(none, flags(0, 0), flags(0, 0), {1: 5}, {1: 5}, 0.95) == []
    assert measure_returns(np.zeros(20, np.int64), flags(0, 20), flags(20, 20), {0: 50}, {}, 0.95) == []
    assert describe_returns([], 0.2) == ""


def test_the_interval_of_a_sum_covers_the_true_gain_as_often_as_it_promises() -> None:
    rng, covered, tries = np.random.default_rng(5), 0, 300
    for _ in range(tries):
        held_out = np.repeat([0, 1], 25)
        before, after = np.zeros(50, np.bool_), np.zeros(50, np.bool_)
        for cluster, (gained, lost) in enumerate([(0.3, 0.05), (0.5, 0.1)]):
            kinds = rng.choice(4, size=25, p=[0.1, 0.9 - gained - lost, gained, lost])
            before[held_out == cluster], after[held_out == cluster] = np.isin(kinds, [1, 3]), np.isin(kinds, [1, 2])
        every = measure_returns(held_out, before, after, {0: 1, 1: 1}, {0: 100, 1: 40}, 0.95)[0]
        covered += every.lower <= 0.25 * 100 + 0.4 * 40 <= every.upper
    assert 0.91 <= covered / tries <= 0.99


@pytest.mark.parametrize(
    ("gained", "lost", "rows", "advice"),
    [(30, 0, 40, "go on labelling"), (1, 1, 4, "too few held-out texts"), (0, 30, 40, "stop labelling")],
)
def test_the_sentence_says_when_to_stop(gained: int, lost: int, rows: int, advice: str) -> None:
    before = np.arange(rows) < lost
    after = (np.arange(rows) >= lost) & (np.arange(rows) < lost + gained)
    returns = measure_returns(np.zeros(rows, np.int64), before, after, {0: 100}, {0: 100}, 0.95)
    assert advice in describe_returns(returns, 0.2)


def test_the_figures_are_per_label() -> None:
    found = LabelReturn(3, labels=50, texts=400, counts=PairCounts(20, 8, 2), removed=120.0, lower=40.0, upper=200.0)
    assert found.per_label == pytest.approx(2.4)
    assert found.per_label_bounds == pytest.approx((0.8, 4.0))
