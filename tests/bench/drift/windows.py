"""Measure goals D1, D2 and D4: false alarms over whole streams without drift, power in one window, and the cost of a check."""

import math
import pickle
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.calibration import Calibration, calibrate, joint_level, threshold_at, window_statistics
from monitoring.drift.features import SIGNALS, window_columns
from monitoring.drift.signals import evaluate_window, initial_evidence, log_e_values, update_evidence
from monitoring.drift.window import PredictionRows
from pipeline.params import Monitor
from tests.bench.drift.worlds import World, draw, mixed, monitor, to_reference, to_rows

ALPHAS, WINDOWS, SHARES = (0.05, 0.01), (200, 1000), (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
POWER_ALPHA, POWER_DRAWS, CHECKED_ROWS = 0.05, 2000, 1000
NULL_DRAWS = {200: 10_000, 1000: 5000}  # enough for the level of one window of a stream


class Quiet(NamedTuple):
    """Count false alarms in streams under one setting; an alarm may come from any signal, anywhere in the stream."""

    world: str
    window: int
    alpha: float
    runs: int
    alarms: int
    by_windows: int
    by_stream: int
    by_signal: dict[str, int]

    @property
    def rate(self) -> float:
        return self.alarms / self.runs

    def bound(self, settings: int) -> float:
        """Return the 95 % bound of the rate over all settings (Bonferroni, Clopper-Pearson) if the promise is kept."""
        from scipy.stats import binom

        return float(binom.ppf(1 - 0.05 / settings, self.runs, self.alpha) / self.runs)


class Power(NamedTuple):
    """Hold the alarm rates in one window at 5 % false alarms: all statistics jointly, the e-detectors, each statistic alone."""

    foreign: str
    share: float
    window: int
    runs: int
    jointly: float
    stream: float
    alone: dict[str, float]


def quiet_streams(world: World, runs: int, shipped: Monitor, seed: int) -> list[Quiet]:
    """Run streams of one week, each with a new reference; the promise is `alpha` false alarms a week."""
    length, results = world.stream_rows, []
    alarms = {(window, alpha): [] for window in WINDOWS for alpha in ALPHAS}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        reference, rest = draw(world, rng)
        stream = to_rows(rest.take(np.arange(length)), world.head, f"{seed}-{run}")
        peak: dict[str, float] = {}
        for window in WINDOWS:
            settings = monitor(
                shipped,
                window_rows=window,
                expected_rows_per_week=float(length),
                null_draws=NULL_DRAWS[window],
                seed=run,
                window_share=0.5,
            )
            calibrated = calibrate(to_reference(reference, world.head), settings)
            assert calibrated is not None
            if not peak:
                peak = update_evidence(calibrated, initial_evidence(calibrated), stream, settings)[1]
            values = _window_values(calibrated, stream, window)
            for alpha in ALPHAS:
                level = joint_level(calibrated.null, alpha / 2 * window / length)
                above = {name: bool((values[name] > threshold_at(calibrated.null[name], level)).any()) for name in SIGNALS}
                grown = {name: peak[name] >= math.log(length * len(SIGNALS) / (alpha / 2)) for name in SIGNALS}
                alarms[window, alpha].append((above, grown))
    for (window, alpha), outcomes in alarms.items():
        by_signal = {name: sum(above[name] or grown[name] for above, grown in outcomes) for name in SIGNALS}
        in_windows = [any(above.values()) for above, _ in outcomes]
        in_stream = [any(grown.values()) for _, grown in outcomes]
        either = sum(in_window or in_evidence for in_window, in_evidence in zip(in_windows, in_stream, strict=True))
        results.append(Quiet(world.name, window, alpha, runs, either, sum(in_windows), sum(in_stream), by_signal))
    return results


def power(world: World, foreign: str, runs: int, shipped: Monitor, seed: int, windows: Sequence[int] = WINDOWS) -> list[Power]:
    """Measure the power in one window with a share of foreign texts; at 0 % it is the rate of false alarms."""
    results = []
    for window in windows:
        outcomes: dict[float, list[tuple[bool, bool, dict[str, bool]]]] = {share: [] for share in SHARES}
        for run in range(runs):
            rng = np.random.default_rng([seed, window, run])
            reference, rest = draw(world, rng)
            settings = monitor(
                shipped, window_rows=window, expected_rows_per_week=float(window), null_draws=POWER_DRAWS, seed=run
            )
            calibrated = calibrate(to_reference(reference, world.head), settings)
            assert calibrated is not None
            level = joint_level(calibrated.null, POWER_ALPHA)
            for share in SHARES:
                rows = to_rows(mixed(rest, world.others[foreign], share, window, rng), world.head, f"{seed}-{run}-{share}")
                values = _window_values(calibrated, rows, window)
                any_above = any(values[name][0] > threshold_at(calibrated.null[name], level) for name in SIGNALS)
                alone = {name: bool(values[name][0] > threshold_at(calibrated.null[name], POWER_ALPHA)) for name in SIGNALS}
                peak = update_evidence(calibrated, initial_evidence(calibrated), rows, settings)[1]
                limit = math.log(window * len(SIGNALS) / POWER_ALPHA)
                outcomes[share].append((any_above, max(peak.values()) >= limit, alone))
        for share, runs_at_share in outcomes.items():
            alone = {name: float(np.mean([outcome[2][name] for outcome in runs_at_share])) for name in SIGNALS}
            jointly, stream = (float(np.mean([outcome[part] for outcome in runs_at_share])) for part in (0, 1))
            results.append(Power(foreign, share, window, runs, jointly, stream, alone))
    return results


class Cost(NamedTuple):
    """Hold the cost of watching one version with 77 classes."""

    check_ms: list[float]  # of a window of 1,000 texts
    update_us: list[float]  # of a row
    bytes_by_reference: dict[int, int]  # of the calibration, by the reference's rows
    calibrate_s: float


def cost(world: World, pairs: int, shipped: Monitor, seed: int) -> Cost:
    """Measure the cost on one core, in wall-clock time."""
    settings = monitor(shipped, window_rows=CHECKED_ROWS)
    rng = np.random.default_rng(seed)
    reference, rest = draw(world, rng)
    rows = to_rows(rest.take(np.arange(CHECKED_ROWS)), world.head, "cost")
    started = time.perf_counter()
    calibrated = calibrate(to_reference(reference, world.head), settings)
    calibrate_s = time.perf_counter() - started
    assert calibrated is not None
    evidence = initial_evidence(calibrated)
    checks, updates = [], []
    for _ in range(pairs):
        started = time.perf_counter()
        evaluate_window(calibrated, rows, log_e_values(calibrated, evidence), (), settings)
        checks.append(1000 * (time.perf_counter() - started))
        started = time.perf_counter()
        update_evidence(calibrated, evidence, rows, settings)
        updates.append(1e6 * (time.perf_counter() - started) / CHECKED_ROWS)
    sizes = {}
    for count in (500, world.reference_rows, len(world.pool.text)):
        calibration = calibrate(to_reference(world.pool.take(np.arange(count)), world.head), settings)
        sizes[count] = len(pickle.dumps(calibration))
    return Cost(checks, updates, sizes, calibrate_s)


def _window_values(calibrated: Calibration, rows: PredictionRows, window: int) -> dict[str, NDArray[np.float64]]:
    """Return the statistics (windows,) of each signal, over consecutive whole windows."""
    columns = window_columns(calibrated.features, rows)
    count = len(rows.id) // window
    means = {
        name: column[: count * window].reshape(count, window, -1).mean(axis=1, dtype=np.float64)
        for name, column in columns.items()
    }
    return window_statistics(calibrated.means, means, (calibrated.rows, window))
