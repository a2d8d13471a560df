"""Accuracy with labels, without labels, and the proof of harm."""

import pickle

import numpy as np
import pytest
from scipy.stats import binomtest

from monitoring.drift.accuracy import (
    AccuracyEstimator,
    estimate_accuracy,
    estimate_label_shift,
    fit_accuracy_estimator,
    harm_log_e,
    is_harm,
    labelled_accuracy,
)
from pipeline.params import Monitor, Params
from pipeline.reference_profile import Reference
from tests.monitoring.worlds import World, settings

SHIFTED = np.array([0.6, 0.3, 0.05, 0.05])


@pytest.fixture(scope="module")
def monitor_settings(params: Params) -> Monitor:
    return settings(params.monitor, window_rows=500)


@pytest.fixture(scope="module")
def references() -> tuple[Reference, Reference]:
    return World(1).reference_and_corrupted(2000)


@pytest.fixture(scope="module")
def reference(references: tuple[Reference, Reference]) -> Reference:
    return references[0]


@pytest.fixture(scope="module")
def estimator(references: tuple[Reference, Reference], monitor_settings: Monitor) -> AccuracyEstimator:
    return fit_accuracy_estimator(*references, monitor_settings)


def test_the_interval_of_labelled_accuracy_is_wilsons(monitor_settings: Monitor) -> None:
    interval = labelled_accuracy(np.arange(50) < 41, monitor_settings)
    expected = binomtest(41, 50).proportion_ci(0.95, method="wilson")
    assert interval == pytest.approx((0.82, expected.low, expected.high))


@pytest.mark.parametrize("count", [0, 1, 29])
def test_too_few_labels_are_no_accuracy(monitor_settings: Monitor, count: int) -> None:
    assert labelled_accuracy(np.ones(count, dtype=np.bool_), monitor_settings) is None


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"out_of_distribution": 0.1},
        {"out_of_distribution": 0.3},
        {"shares": SHIFTED},
        {"corrupted": 0.3},
        {"corrupted": 1.0},
    ],
)
def test_accuracy_is_estimated_within_three_points_and_its_bounds(
    estimator: AccuracyEstimator, monitor_settings: Monitor, change: dict[str, object]
) -> None:
    misses, covered = [], 0
    for seed in range(20):
        rows, right = World(50 + seed).labelled_rows(1000, **change)  # type: ignore[arg-type]
        estimate = estimate_accuracy(estimator, rows, monitor_settings)
        assert estimate is not None
        misses.append(estimate.accuracy.estimate - right.mean())
        covered += estimate.accuracy.lower <= right.mean() <= estimate.accuracy.upper
    assert abs(np.mean(misses)) <= 0.03
    assert covered >= 18


def test_bounds_hold_for_corrupted_and_out_of_distribution_texts_together(
    estimator: AccuracyEstimator, monitor_settings: Monitor
) -> None:
    """The estimate itself is 3.4 points too high here: it has seen no out-of-distribution texts that are corrupted too."""
    covered = 0
    for seed in range(20):
        rows, right = World(50 + seed).labelled_rows(1000, corrupted=0.8, out_of_distribution=0.1)
        estimate = estimate_accuracy(estimator, rows, monitor_settings)
        assert estimate is not None
        covered += estimate.accuracy.lower <= right.mean() <= estimate.accuracy.upper
    assert covered >= 18


def test_the_accuracy_of_corrupted_texts_is_learnt_from_the_reference(
    references: tuple[Reference, Reference], estimator: AccuracyEstimator, monitor_settings: Monitor
) -> None:
    """The control: a version without corrupted reference texts trusts their confidence; its bounds still hold."""
    rows, right = World(61).labelled_rows(1000, corrupted=1.0)
    estimate, without = (
        estimate_accuracy(each, rows, monitor_settings)
        for each in (estimator, fit_accuracy_estimator(references[0], None, monitor_settings))
    )
    assert estimate is not None
    assert without is not None
    assert estimate.corrupted_share > 0.9
    assert abs(estimate.accuracy.estimate - right.mean()) <= 0.03
    assert without.accuracy.estimate > right.mean() + 0.08
    assert without.accuracy.lower <= right.mean() <= without.accuracy.upper


def test_confidence_alone_is_fooled_by_out_of_distribution_texts(estimator: AccuracyEstimator, monitor_settings: Monitor) -> None:
    """The control: the mean confidence (NannyML's CBPE) does not see that a text has no right answer."""
    rows, right = World(60).labelled_rows(1000, out_of_distribution=0.3)
    estimate = estimate_accuracy(estimator, rows, monitor_settings)
    assert estimate is not None
    assert rows.probabilities.max(axis=1).mean() - right.mean() > 0.05
    assert estimate.out_of_distribution_share == pytest.approx(0.3, abs=0.05)


def test_bounds_widen_where_texts_are_like_nothing_seen(estimator: AccuracyEstimator, monitor_settings: Monitor) -> None:
    usual, longer = (estimate_accuracy(estimator, World(62).rows(1000, longer=times), monitor_settings) for times in (1.0, 2.0))
    assert usual is not None
    assert longer is not None
    assert usual.unexplained < 0.02
    assert longer.unexplained > 0.1
    assert longer.accuracy.lower < usual.accuracy.lower - 0.1


def test_memory_does_not_depend_on_the_references_rows(monitor_settings: Monitor) -> None:
    sizes = [
        len(pickle.dumps(fit_accuracy_estimator(*World(1).reference_and_corrupted(count), monitor_settings)))
        for count in (200, 2000)
    ]
    assert abs(sizes[1] - sizes[0]) <= 8  # of the bytes that a count takes


def test_a_window_that_is_not_full_has_no_estimate(estimator: AccuracyEstimator, monitor_settings: Monitor) -> None:
    assert estimate_accuracy(estimator, World(3).rows(499), monitor_settings) is None


def test_a_reference_without_rows_is_refused(reference: Reference, monitor_settings: Monitor) -> None:
    empty = Reference(*(column[:0] if name != "labels" else column for name, column in reference._asdict().items()))
    with pytest.raises(ValueError, match="fewer than 4 rows"):
        fit_accuracy_estimator(empty, None, monitor_settings)


def test_shares_are_recovered_by_em_and_by_bbse_with_the_runner_up_for_truth(reference: Reference) -> None:
    shift = estimate_label_shift(reference, World(4).rows(3000, shares=SHIFTED))
    assert shift is not None
    assert shift.em == pytest.approx(SHIFTED, abs=0.03)
    assert shift.bbse == pytest.approx(SHIFTED, abs=0.05)
    assert estimate_label_shift(reference, World(4).rows(0)) is None


def outcomes(seed: int, *parts: tuple[int, float]) -> np.ndarray:
    """Return whether each label confirms the prediction: parts of (labels, accuracy), one after the other."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random(count) < accuracy for count, accuracy in parts])


def first_harm(correct: np.ndarray, alpha: float) -> int | None:
    return next((n for n in range(1, len(correct) + 1) if is_harm(harm_log_e(correct[:n], 0.90, 0.02, alpha), alpha)), None)


@pytest.mark.parametrize(("seed", "label"), [(0, 254), (1, 405), (2, 338)])
def test_harm_is_proved_at(seed: int, label: int) -> None:
    """200 labels at .90, then at .70; the contract is .90 − .02."""
    assert first_harm(outcomes(seed, (200, 0.90), (400, 0.70)), 0.01) == label


def test_harm_is_claimed_in_few_streams_at_the_edge_of_what_is_tolerated() -> None:
    alpha, runs = 0.05, 200
    claimed = 0
    for seed in range(runs):
        correct = outcomes(seed, (600, 0.88))
        claimed += any(is_harm(harm_log_e(correct[:n], 0.90, 0.02, alpha), alpha) for n in (200, 400, 600))
    assert claimed / runs <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / runs)


def turns(correct: np.ndarray, looks: range) -> list[int]:
    """Return the looks at which harm begins or ends."""
    stands = [is_harm(harm_log_e(correct[:n], 0.90, 0.02, 0.01), 0.01) for n in looks]
    return [n for n, before, now in zip(looks, [False, *stands], stands, strict=False) if before != now]


@pytest.mark.parametrize("seed", [4, 14])  # in which the process itself passes the threshold three times, and five
def test_harm_that_was_proved_lasts_while_accuracy_hovers_below_what_is_tolerated(seed: int) -> None:
    assert len(turns(outcomes(seed, (200, 0.90), (1300, 0.84)), range(50, 1501, 50))) == 1


@pytest.mark.parametrize(("seed", "looks"), [(0, [300, 950, 1400]), (1, [450, 1000, 1400])])
def test_harm_ends_when_labels_prove_that_accuracy_is_back_and_a_second_fall_is_found(seed: int, looks: list[int]) -> None:
    assert turns(outcomes(seed, (200, 0.90), (400, 0.70), (700, 0.96), (400, 0.60)), range(50, 1701, 50)) == looks


def test_harm_ends_in_few_streams_that_stay_at_the_edge_of_it() -> None:
    alpha, runs, ended = 0.05, 100, 0
    for seed in range(runs):
        correct = outcomes(seed, (100, 0.50), (500, 0.88))
        ended += any(not is_harm(harm_log_e(correct[:n], 0.90, 0.02, alpha), alpha) for n in (300, 450, 600))
    assert ended / runs <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / runs)


def test_a_perfect_reference_and_no_labels_are_no_harm() -> None:
    assert harm_log_e(np.zeros(0, dtype=np.bool_), 0.9, 0.02, 0.01) == 0
    assert not is_harm(harm_log_e(np.ones(500, dtype=np.bool_), 1.0, 0.001, 0.01), 0.01)
    assert np.isfinite(harm_log_e(np.zeros(50, dtype=np.bool_), 0.0, 0.02, 0.01))
