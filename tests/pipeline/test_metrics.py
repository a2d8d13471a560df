"""Scores against scikit-learn and scipy, and intervals against their nominal coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as sk

from pipeline import metrics

CLASSES = 5
ANSWERS = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60).map(
    lambda pairs: tuple(np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
)
Answers = tuple[metrics.Indices, metrics.Indices]


def drawn(rows: int, classes: int, seed: int) -> tuple[metrics.Floats, metrics.Indices]:
    """Return logits, and true classes drawn from exactly their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, size=(rows, classes))
    return logits, np.array([rng.choice(classes, p=p) for p in special.softmax(logits, axis=1)])


@given(ANSWERS)
@settings(deadline=None)
def test_scores_are_those_of_scikit_learn(answers: Answers) -> None:
    truth, predicted = answers
    matrix = metrics.confusion(truth, predicted, CLASSES)
    every = list(range(CLASSES))
    assert matrix.tolist() == sk.confusion_matrix(truth, predicted, labels=every).tolist()
    assert metrics.accuracy(matrix) == pytest.approx(sk.accuracy_score(truth, predicted))
    assert metrics.f1_macro(matrix) == pytest.approx(sk.f1_score(truth, predicted, average="macro", zero_division=0))
    assert metrics.f1_micro(matrix) == pytest.approx(sk.f1_score(truth, predicted, average="micro", zero_division=0))
    by_class = sk.f1_score(truth, predicted, average=None, labels=every, zero_division=0)
    assert metrics.f1_by_class(matrix) == pytest.approx(by_class)


@given(ANSWERS)
@settings(deadline=None, max_examples=30)
def test_class_scores_are_those_of_scikit_learn(answers: Answers) -> None:
    truth, predicted = answers
    scores = metrics.class_scores(truth, predicted, CLASSES, metrics.Bootstrap(len(truth), 5, 0.9, 0))
    expected = sk.precision_recall_fscore_support(truth, predicted, labels=list(range(CLASSES)), zero_division=0)
    assert [(c.precision, c.recall, c.f1.value, c.rows) for c in scores] == [
        pytest.approx(row) for row in zip(*expected, strict=True)
    ]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_softmax_is_that_of_scipy_also_for_large_logits(scale: float) -> None:
    logits = scale * np.random.default_rng(0).normal(size=(20, 4))
    assert metrics.softmax(logits) == pytest.approx(special.softmax(logits, axis=1))


def test_the_negative_log_likelihood_is_scikit_learns_log_loss() -> None:
    logits, truth = drawn(200, 4, 1)
    expected = sk.log_loss(truth, special.softmax(logits / 1.7, axis=1), labels=[0, 1, 2, 3])
    assert metrics.negative_log_likelihood(logits, truth, 1.7) == pytest.approx(expected)


def test_the_calibration_error_by_hand() -> None:
    """Ten bins: 0.95 twice, right once → 2/5 · 0.45; 0.65 twice, both right → 2/5 · 0.35; 0.55, wrong → 1/5 · 0.55."""
    confidence = np.array([0.95, 0.95, 0.65, 0.65, 0.55])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    truth = np.array([0, 1, 0, 0, 1])
    assert metrics.calibration_error(probabilities, truth, bins=10) == pytest.approx(0.18 + 0.14 + 0.11)


def test_reliability_has_a_point_for_each_bin_with_rows_and_counts_every_row() -> None:
    confidence = np.array([1.0, 0.95, 0.65, 0.51])  # confidence 1 belongs to the last bin
    points = metrics.reliability(np.stack([confidence, 1 - confidence], axis=1), np.array([0, 0, 1, 0]), bins=10)
    assert [p[0] for p in points] == pytest.approx([0.51, 0.65, 0.975])
    assert [p[1] for p in points] == [1.0, 0.0, 1.0]
    assert [p[2] for p in points] == [0.25, 0.25, 0.5]


def test_calibrated_probabilities_have_almost_no_calibration_error() -> None:
    logits, truth = drawn(20_000, 4, 2)
    assert metrics.calibration_error(metrics.softmax(logits), truth, bins=15) < 0.02
    assert metrics.calibration_error(metrics.softmax(4 * logits), truth, bins=15) > 0.1


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    logits, truth = drawn(20_000, 4, 3)
    fitted = metrics.fit_temperature(logits * temperature, truth)
    assert fitted.value == pytest.approx(temperature, rel=0.04)
    assert fitted.rows == len(truth)
    assert fitted.right == int((logits.argmax(axis=1) == truth).sum())


def test_few_rows_that_are_all_right_are_no_evidence_for_certainty() -> None:
    """Their likelihood alone has no best temperature: it grows towards 0, and every answer would be certain."""
    for rows in (1, 2, 17, 33):
        logits = np.tile([[5.0, 1.0, 0.0]], (rows, 1))
        fitted = metrics.fit_temperature(logits, np.zeros(rows, dtype=np.int64))
        assert fitted.value > 0.5
        assert (fitted.rows, fitted.right) == (rows, rows)


def test_a_model_that_is_always_wrong_is_made_as_uncertain_as_bounds_allow() -> None:
    assert metrics.fit_temperature(5.0 * np.eye(3), np.array([1, 2, 0])).value == pytest.approx(20, rel=0.01)


def test_a_temperature_from_few_rows_is_hardly_ever_worse_than_none_and_one_from_many_is_the_likeliest() -> None:
    """The logits are those of a calibrated model, and of one that is too uncertain, on 20 validation rows and on 2,000."""
    logits, truth = drawn(6000, 8, 5)
    for scale in (1.0, 0.5):
        test_logits, test_truth = scale * logits[3000:], truth[3000:]
        none = metrics.negative_log_likelihood(test_logits, test_truth)
        few = [slice(start, start + 20) for start in range(0, 800, 20)]
        fits = [metrics.fit_temperature(scale * logits[rows], truth[rows]).value for rows in few]
        worse = [metrics.negative_log_likelihood(test_logits, test_truth, fit) - none for fit in fits]
        assert np.mean(worse) < 0.01
        fitted = metrics.fit_temperature(scale * logits[:2000], truth[:2000]).value
        assert fitted == pytest.approx(scale, rel=0.1)


def accuracy_interval(rows: int, seed: int, *, confidence: float = 0.9, resamples: int = 200) -> metrics.Interval:
    """Return the interval of an accuracy whose true value is 0.8."""
    right = np.random.default_rng(seed).random(rows) < 0.8
    truth, predicted = np.zeros(rows, dtype=np.int64), (~right).astype(np.int64)
    bootstrap = metrics.Bootstrap(rows, resamples, confidence, seed)
    resampled = [metrics.accuracy(matrix) for matrix in bootstrap.confusions(truth, predicted, 2)]
    return bootstrap.interval(metrics.accuracy(metrics.confusion(truth, predicted, 2)), resampled)


def test_nine_intervals_of_ten_hold_the_true_value() -> None:
    intervals = [accuracy_interval(150, seed) for seed in range(300)]
    covered = np.mean([interval.low <= 0.8 <= interval.high for interval in intervals])
    assert 0.85 <= covered <= 0.94  # 0.9 ± 3 standard errors; percentile intervals are slightly narrow
    assert all(interval.low <= interval.value <= interval.high for interval in intervals)


def test_an_interval_is_as_wide_as_the_normal_approximation_says_and_shrinks_with_rows() -> None:
    for rows in (100, 400, 1600):
        interval = accuracy_interval(rows, 1, confidence=0.95, resamples=1000)
        expected = 2 * 1.96 * np.sqrt(interval.value * (1 - interval.value) / rows)
        assert interval.high - interval.low == pytest.approx(expected, rel=0.15)


def test_more_confidence_gives_a_wider_interval() -> None:
    narrow, wide = (accuracy_interval(200, 1, confidence=confidence) for confidence in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_two_scores_are_resampled_on_the_same_rows() -> None:
    """Predictions compared with themselves differ in no draw."""
    truth, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1])
    bootstrap = metrics.Bootstrap(5, 50, 0.9, 3)
    once, again = (bootstrap.confusions(truth, predicted, 2) for _ in range(2))
    assert all((a == b).all() for a, b in zip(once, again, strict=True))


def test_the_most_confused_pairs_come_in_order_of_rows_then_class() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    predicted = np.array([0, 1, 1, 0, 2, 2, 0, 0, 0])
    assert metrics.most_confused(truth, predicted, 10) == [(2, 0, 3), (0, 1, 2), (1, 0, 1), (1, 2, 1)]
    assert metrics.most_confused(truth, predicted, 2) == [(2, 0, 3), (0, 1, 2)]


@given(ANSWERS)
@settings(deadline=None)
def test_all_confused_pairs_together_are_all_mistakes(answers: Answers) -> None:
    truth, predicted = answers
    assert sum(rows for _, _, rows in metrics.most_confused(truth, predicted, CLASSES**2)) == int((truth != predicted).sum())


def test_a_one_sided_mcnemar_test_counts_rows_that_only_one_classifier_gets_right() -> None:
    assert metrics.mcnemar(10, 2, "greater") == pytest.approx(79 / 4096)  # (1 + 12 + 66) / 2**12
    assert metrics.mcnemar(2, 10, "greater") > 0.9
    assert metrics.mcnemar(0, 0, "greater") == 1.0
