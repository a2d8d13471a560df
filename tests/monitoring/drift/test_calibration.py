"""Thresholds: the joint level, the promise and its check, and references too small to calibrate on."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monitoring.drift.calibration import (
    Means,
    calibrate,
    draw_null,
    joint_level,
    log_thresholds,
    mean_columns,
    reference_rows,
    threshold_at,
    window_alpha,
    window_statistics,
)
from monitoring.drift.features import SIGNALS, fit_features, window_columns
from monitoring.drift.signals import initial_evidence, update_evidence
from pipeline.params import Params
from tests.monitoring.worlds import World, settings

MANY = 1e9


def test_a_threshold_is_the_value_whose_p_value_is_the_level() -> None:
    null = np.arange(99.0)
    # above 94 lie 95 … 98, and with the draw to come five in a hundred
    assert threshold_at(null, 0.05) == pytest.approx(94, abs=1e-5)
    assert threshold_at(null, 0.01) == pytest.approx(98, abs=1e-5)
    assert threshold_at(null, 0.0) == float("inf")


def test_the_joint_level_of_equal_signals_is_the_level_of_one() -> None:
    same = np.random.default_rng(1).random(999)
    assert joint_level(dict.fromkeys(SIGNALS, same), 0.05) == pytest.approx(0.05, abs=0.0011)


def test_the_joint_level_of_independent_signals_is_sidaks() -> None:
    rng = np.random.default_rng(2)
    level = joint_level({name: rng.random(20_000) for name in SIGNALS}, 0.05)
    assert level == pytest.approx(1 - 0.95 ** (1 / len(SIGNALS)), rel=0.06)


def test_a_level_finer_than_the_draws_is_never_reached() -> None:
    rng = np.random.default_rng(3)
    assert joint_level({name: rng.random(100) for name in SIGNALS}, 0.001) == 0


def test_the_promise_is_shared_between_windows_and_signals(params: Params) -> None:
    monitor_settings = settings(
        params.monitor, window_rows=200, expected_rows_per_week=2000, false_alarms_per_week=0.1, window_share=0.5
    )
    assert window_alpha(monitor_settings) == pytest.approx(0.05 / 10)
    assert np.exp(log_thresholds(monitor_settings)["input_length"]) == pytest.approx(2000 / (0.05 / 7))


def test_all_promises_add_up(params: Params) -> None:
    calibration = calibrate(World(1).reference(600), settings(params.monitor))
    assert calibration is not None
    assert sum(calibration.false_alarms_per_week.values()) == pytest.approx(params.monitor.false_alarms_per_week)


def test_a_reference_that_is_too_small_is_not_calibrated(params: Params) -> None:
    assert calibrate(World(1).reference(150), settings(params.monitor)) is None


def test_a_reference_of_equal_rows_calibrates_and_does_not_alarm_on_such_rows(params: Params) -> None:
    reference = World(1).reference(600)
    same = reference._replace(
        probabilities=np.tile(reference.probabilities[:1], (600, 1)),
        sketch=np.tile(reference.sketch[:1], (600, 1)),
        pieces=np.full(600, 7, dtype=np.int32),
        pieces_per_word=np.ones(600, dtype=np.float32),
    )
    calibration = calibrate(same, settings(params.monitor))
    assert calibration is not None
    rows = reference_rows(same, same.calibrate)
    columns = window_columns(calibration.features, rows)
    means = {name: column.mean(axis=0) for name, column in columns.items()}
    values = window_statistics(calibration.means, means, (150, 200))
    assert all(np.isfinite(value) and value <= calibration.thresholds[name] for name, value in values.items())


def test_calibration_is_the_same_each_time(params: Params) -> None:
    first, second = (calibrate(World(5).reference(600), settings(params.monitor)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.thresholds == second.thresholds
    assert first.check == second.check


def naive_null(means: Means, columns: dict[str, NDArray[np.float32]], window: int, draws: int, rng: np.random.Generator) -> Means:
    """Draw windows from the reference rows and compare them with the means of those same rows."""
    count = len(columns[SIGNALS[0]])
    drawn = rng.multinomial(window, np.full(count, 1 / count), size=draws) / window
    return window_statistics(means, {name: drawn @ column for name, column in columns.items()}, (MANY, window))


def test_the_null_includes_the_chance_deviation_of_the_reference(params: Params) -> None:
    """Against a null that takes 150 reference rows for the truth, windows of 200 alarm several times too often."""
    monitor_settings = settings(params.monitor, window_rows=200)
    redrawn, naive, runs = 0, 0, 150
    for seed in range(runs):
        world = World(1000 + seed)
        fitted, ranked = world.rows(150), world.rows(150)
        features = fit_features(fitted, monitor_settings, np.random.default_rng(seed))
        columns = window_columns(features, ranked)
        means = mean_columns(columns)
        window = mean_columns(window_columns(features, world.rows(200)))
        values = window_statistics(means, window, (150, 200))
        null = draw_null(columns, 200, 400, np.random.default_rng(seed))
        level = joint_level(null, 0.1)
        redrawn += any(values[name] > threshold_at(null[name], level) for name in SIGNALS)
        fixed = naive_null(means, columns, 200, 400, np.random.default_rng(seed))
        level = joint_level(fixed, 0.1)
        values = window_statistics(means, window, (MANY, 200))
        naive += any(values[name] > threshold_at(fixed[name], level) for name in SIGNALS)
    assert redrawn / runs <= 0.1 + 2 * np.sqrt(0.09 / runs)
    assert naive / runs > 0.2


def test_whole_streams_without_drift_alarm_within_the_promise(params: Params) -> None:
    """P(any e-detector alarms within N rows) ≤ N / weekly rows · the weekly part: here 400 rows at .1."""
    monitor_settings = settings(params.monitor, expected_rows_per_week=400, false_alarms_per_week=0.2, window_share=0.5, axes=4)
    alarms, runs = 0, 150
    for seed in range(runs):
        world = World(2000 + seed)
        calibration = calibrate(world.reference(250), monitor_settings.model_copy(update={"null_draws": 100, "check_draws": 1}))
        assert calibration is not None
        _, peak = update_evidence(calibration, initial_evidence(calibration), world.rows(400), monitor_settings)
        alarms += any(peak[name] >= calibration.log_threshold[name] for name in SIGNALS)
    assert alarms / runs <= 0.1 + 2 * np.sqrt(0.09 / runs)


def test_a_reference_without_an_a_a_half_is_calibrated_and_not_checked(params: Params) -> None:
    reference = World(6).reference(600)
    calibration = calibrate(reference._replace(calibrate=np.ones(600, dtype=np.bool_)), settings(params.monitor))
    assert calibration is not None
    assert calibration.rows == 300
    assert calibration.check is None


def test_the_check_counts_false_alarms_on_the_a_a_half(params: Params) -> None:
    calibration = calibrate(World(7).reference(1200), settings(params.monitor))
    assert calibration is not None
    assert calibration.check is not None
    assert (calibration.check.rows, calibration.check.windows, calibration.check.promised) == (200, 200, 0.05)
    assert 0 <= max(calibration.check.by_signal.values()) <= calibration.check.realised <= 0.2
