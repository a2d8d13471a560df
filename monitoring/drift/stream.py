"""The watched version's stream: its open window, its evidence and each signal as people see it. Pure, one step per batch.

Batches may be cut anywhere: windows, their reports and the evidence come out the same. An alarm stays visible for `hold_s`, so
that a scrape every few seconds misses none of the windows that fill faster.
"""

from typing import NamedTuple

import numpy as np

from monitoring.drift.accuracy import AccuracyEstimate, AccuracyEstimator, estimate_accuracy
from monitoring.drift.calibration import Calibration
from monitoring.drift.features import SIGNALS
from monitoring.drift.histogram_distances import HistogramDistance
from monitoring.drift.logged_predictions import HASH_PREFIX, LoggedPredictions
from monitoring.drift.signals import (
    Evidence,
    LogE,
    WindowReport,
    WordShift,
    evaluate_window,
    initial_evidence,
    log_e_values,
    most_novel_texts,
    shifted_words,
    update_evidence,
)
from monitoring.drift.window import PredictionRows, TextsByUnit, admit, empty_rows
from pipeline.params import Monitor

MIN_BATCH = 100  # rows read at a time when a window is nearly full


class EvaluatedWindow(NamedTuple):
    """A full window and its results. Times are seconds since the epoch, of its first and last row."""

    number: int  # from 1
    began_at: float
    ended_at: float
    report: WindowReport
    estimate: AccuracyEstimate | None


class SignalView(NamedTuple):
    """One signal as people see it; a statistic that alarmed, or a high log e-value, stays for `hold_s`."""

    value: float | None
    effect: float | None
    value_alarms: bool
    value_at: float
    log_e: float
    log_e_at: float
    words: tuple[WordShift, ...]
    examples: tuple[str, ...]


class WatchedVersion(NamedTuple):
    """State of the watched version; stored across restarts, together with the position in the log."""

    version: int
    baseline_key: str
    windows: int  # evaluated so far
    open_rows: PredictionRows  # of the open window
    last_rows: PredictionRows  # of the window before
    counted: TextsByUnit  # in the open window
    peak_log_e: LogE  # within the open window
    evidence: Evidence
    first_texts: tuple[str, ...]  # of the first window
    signals: dict[str, SignalView]
    estimate: AccuracyEstimate | None  # of the last window
    distances: dict[str, HistogramDistance]  # of the last window; empty before the first


def watch_version(version: int, baseline_key: str, windows: int, calibration: Calibration, *, sketch_size: int) -> WatchedVersion:
    """Return the state before the first row of a version; `windows` of it are in the database from an earlier time."""
    no_rows = empty_rows(len(calibration.labels), sketch_size)
    evidence = initial_evidence(calibration)
    log_e = log_e_values(calibration, evidence)
    views = {name: SignalView(None, None, False, 0.0, value, 0.0, (), ()) for name, value in log_e.items()}
    return WatchedVersion(
        version, baseline_key, windows, no_rows, no_rows, {}, _no_peaks(), evidence, (), views, estimate=None, distances={}
    )


def advance(
    watched: WatchedVersion,
    new: LoggedPredictions,
    calibration: Calibration,
    estimator: AccuracyEstimator,
    settings: Monitor,
    *,
    now: float,
    hold_s: float,
) -> tuple[WatchedVersion, list[EvaluatedWindow]]:
    """Return the state after these predictions, and the windows that they filled."""
    evaluated: list[EvaluatedWindow] = []
    first, highest = 0, log_e_values(calibration, watched.evidence)
    while first < len(new.unit):
        watched, first, peaks = _fill(watched, new, first, calibration, settings)
        highest = _highest(highest, peaks)
        if len(watched.open_rows.id) >= settings.window_rows:
            watched, window = _evaluate_open_window(watched, calibration, estimator, settings)
            evaluated.append(window)
            views = {name: _view_of_window(watched.signals[name], window, name, now, hold_s) for name in SIGNALS}
            watched = watched._replace(signals=views)
    return _view_of_evidence(watched, highest, calibration, settings, now=now, hold_s=hold_s), evaluated


def _fill(
    watched: WatchedVersion, new: LoggedPredictions, first: int, calibration: Calibration, settings: Monitor
) -> tuple[WatchedVersion, int, LogE]:
    """Admit predictions from `first` on until the window is full or a batch was read; return the next index and the peaks."""
    need = settings.window_rows - len(watched.open_rows.id)
    stop = min(len(new.unit), first + max(need, MIN_BATCH))
    admission = admit(new.unit[first:stop], new.text_hash[first:stop], watched.counted, settings.rows_per_unit)
    chosen = np.flatnonzero(admission.admitted)[:need] + first
    rows = new.rows.take(chosen)
    evidence, peaks = update_evidence(calibration, watched.evidence, rows, settings)
    watched = watched._replace(
        open_rows=watched.open_rows.concatenate(rows),
        counted=admission.counted,
        peak_log_e=_highest(watched.peak_log_e, peaks),
        evidence=evidence,
    )
    return watched, int(chosen[-1]) + 1 if len(chosen) == need else stop, peaks


def _evaluate_open_window(
    watched: WatchedVersion, calibration: Calibration, estimator: AccuracyEstimator, settings: Monitor
) -> tuple[WatchedVersion, EvaluatedWindow]:
    """Evaluate the full window and open the next."""
    rows = watched.open_rows
    report = without_hashes(evaluate_window(calibration, rows, watched.peak_log_e, watched.first_texts, settings), rows)
    estimate = estimate_accuracy(estimator, rows, settings)
    window = EvaluatedWindow(watched.windows + 1, float(rows.time.min()), float(rows.time.max()), report, estimate)
    watched = watched._replace(
        windows=window.number,
        open_rows=rows.take(slice(0, 0)),
        last_rows=rows,
        counted={},
        peak_log_e=_no_peaks(),
        first_texts=watched.first_texts or tuple(rows.text.tolist()),
        estimate=estimate,
        distances=report.distances,
    )
    return watched, window


def without_hashes(report: WindowReport, rows: PredictionRows) -> WindowReport:
    """Remove words and hashes from the report where the log keeps hashes instead of texts."""
    if not np.char.startswith(rows.text, HASH_PREFIX).any():
        return report
    return report._replace(words=(), examples=tuple(text for text in report.examples if not text.startswith(HASH_PREFIX)))


def _view_of_window(view: SignalView, window: EvaluatedWindow, name: str, now: float, hold_s: float) -> SignalView:
    """Show a new window's result of a signal, unless it is quiet and an earlier alarm has to stay visible."""
    signal = next(result for result in window.report.signals if result.name == name)
    alarms = signal.alarm in ("window", "both")
    if not alarms and view.value_alarms and now - view.value_at < hold_s:
        return view
    return view._replace(
        value=signal.value,
        effect=signal.effect,
        value_alarms=alarms,
        value_at=now,
        words=window.report.words if alarms else view.words,
        examples=window.report.examples if alarms else view.examples,
    )


def _view_of_evidence(
    watched: WatchedVersion, highest: LogE, calibration: Calibration, settings: Monitor, *, now: float, hold_s: float
) -> WatchedVersion:
    """Show the log e-values, with words and texts for signals over their thresholds."""
    views = {}
    for name, view in watched.signals.items():
        is_new = highest[name] > view.log_e or now - view.log_e_at >= hold_s
        views[name] = view._replace(log_e=highest[name], log_e_at=now) if is_new else view
    over = {name for name, view in views.items() if view.log_e >= calibration.log_threshold[name]}
    rows = watched.last_rows.concatenate(watched.open_rows).take(slice(-settings.window_rows, None))
    texts = rows.text.tolist()
    if over and texts and not any(text.startswith(HASH_PREFIX) for text in texts):
        words = shifted_words(texts, watched.first_texts, settings.words)
        examples = most_novel_texts(texts, calibration.features.novelty(rows.sketch, rows.probabilities), settings.examples)
        views |= {name: views[name]._replace(words=words, examples=examples) for name in over if not views[name].value_alarms}
    quiet = {name for name, view in views.items() if name not in over and not view.value_alarms}
    return watched._replace(signals=views | {name: views[name]._replace(words=(), examples=()) for name in quiet})


def _highest(values: LogE, others: LogE) -> LogE:
    return {name: max(value, others[name]) for name, value in values.items()}


def _no_peaks() -> LogE:
    return dict.fromkeys(SIGNALS, -np.inf)
