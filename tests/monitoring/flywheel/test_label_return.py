"""What labels brought is measured on held-out texts of their clusters, with an interval that covers the truth."""

import numpy as np
import pytest

from monitoring.detectors.paired_test import PairCounts
from monitoring.flywheel.label_return import NO_CLUSTER, LabelReturn, describe_returns, measure_returns


def flags(right: int, of: int) -> np.ndarray:
    return np.arange(of) < right


def test_each_cluster_is_scored_on_its_held_out_rows_and_the_most_removed_errors_come_first() -> None:
    held_out = np.array([4] * 10 + [7] * 10)
    before = np.concatenate([flags(2, 10), flags(5, 10)])
    after = np.concatenate([flags(4, 10), flags(9, 10)])
    every, *each = measure_returns(held_out, before, after, {4: 30, 7: 20}, {4: 100, 7: 200}, 0.95)
    assert (every.cluster, every.labels, every.texts, every.counts) == (None, 50, 300, PairCounts(20, 6, 0))
    assert [found.cluster for found in each] == [7, 4]  # 0.4 of 200 texts against 0.2 of 100
    assert each[0].per_label == pytest.approx(0.4 * 200 / 20)
    assert each[0].per_label_bounds[0] < each[0].per_label < each[0].per_label_bounds[1]


def test_a_cluster_without_a_held_out_row_counts_its_labels_and_has_no_figure_of_its_own() -> None:
    every, *each = measure_returns(np.array([4]), flags(0, 1), flags(1, 1), {4: 5, 9: 15}, {4: 10, 9: 90}, 0.95)
    assert (every.labels, every.texts) == (20, 100)
    assert [found.cluster for found in each] == [4]


def test_rows_labelled_outside_the_queue_belong_to_no_cluster() -> None:
    returns = measure_returns(np.array([NO_CLUSTER, 2]), flags(1, 2), flags(2, 2), {2: 3}, {2: 30}, 0.95)
    assert [found.cluster for found in returns] == [None, 2]


def test_nothing_held_out_is_no_return() -> None:
    assert measure_returns(np.array([], dtype=np.int64), flags(0, 0), flags(0, 0), {1: 5}, {1: 5}, 0.95) == []
    assert describe_returns([], 0.2) == ""


def test_the_interval_covers_the_true_gain_as_often_as_it_promises() -> None:
    rng, covered, tries = np.random.default_rng(5), 0, 300
    for _ in range(tries):
        both, only_after, only_before = rng.multinomial(25, [0.55, 0.3, 0.05, 0.1])[:3]
        before = flags(both + only_before, 25)
        after = flags(both, 25) | ((np.arange(25) >= both + only_before) & (np.arange(25) < both + only_before + only_after))
        (every, _) = measure_returns(np.zeros(25, np.int64), before, after, {0: 1}, {0: 1}, 0.95)
        covered += every.lower <= 0.25 <= every.upper
    assert 0.91 <= covered / tries <= 0.99


@pytest.mark.parametrize(
    ("gained", "lost", "advice"),
    [(30, 0, "go on labelling"), (0, 1, "too few held-out texts"), (0, 30, "stop labelling")],
)
def test_the_sentence_says_when_to_stop(gained: int, lost: int, advice: str) -> None:
    before = flags(lost + 10, 60)
    after = (np.arange(60) >= lost) & (np.arange(60) < lost + 10 + gained)
    if (gained, lost) == (0, 1):
        before, after = flags(2, 4), np.arange(4) == 1
    returns = measure_returns(np.zeros(len(before), np.int64), before, after, {0: 100}, {0: 100}, 0.95)
    assert advice in describe_returns(returns, 0.2)


def test_the_figures_are_per_label() -> None:
    found = LabelReturn(3, labels=50, texts=400, counts=PairCounts(20, 8, 2), lower=0.1, upper=0.5)
    assert found.per_label == pytest.approx(0.3 * 400 / 50)
    assert found.per_label_bounds == pytest.approx((0.8, 4.0))
