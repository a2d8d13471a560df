"""Publish the watched version's state: numbers for Prometheus, and /report.json with words and texts for people."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.accuracy import estimate_label_shift, harm_log_e, labelled_accuracy
from monitoring.drift.baseline import Baseline
from monitoring.drift.signals import alarm_kind
from monitoring.drift.stream import WatchedVersion
from monitoring.drift.window import fill_ratio
from monitoring.monitor.metrics import MonitorMetrics
from monitoring.monitor.store import MIN_LOG_E
from pipeline.params import Monitor

Flags = NDArray[np.bool_]


def export_metrics(
    metrics: MonitorMetrics,
    baseline: Baseline,
    watched: WatchedVersion | None,
    correct: Flags,
    settings: Monitor,
    *,
    now: float,
) -> None:
    """Set every gauge whose value is known."""
    version, reference_accuracy = baseline.version, baseline.estimator.accuracy
    metrics.set_watched_version(version)
    age_s = max(0.0, now - baseline.recorded_at)
    metrics.set_reference(version, rows=baseline.estimator.rows, age_s=age_s, accuracy=reference_accuracy)
    metrics.set_harm(version, harm_log_e(correct, reference_accuracy, settings.tolerated_loss, settings.harm_alpha))
    metrics.set_label_count(version, len(correct))
    if labelled := labelled_accuracy(correct, settings):
        metrics.set_labelled_accuracy(version, estimate=labelled.estimate, lower=labelled.lower, upper=labelled.upper)
    calibration = baseline.calibration
    if watched is None or calibration is None:
        return
    for signal, promised in calibration.false_alarms_per_week.items():
        metrics.set_promise(signal, log_e_threshold=calibration.log_threshold.get(signal), false_alarms_per_week=promised)
    if calibration.check:
        realised = {"window": calibration.check.realised, **calibration.check.by_signal}
        for signal, rate in realised.items():
            metrics.set_checked_rate(version, signal, rate / calibration.check.promised)
    for signal, view in watched.signals.items():
        metrics.set_log_e(version, signal, log_e=max(view.log_e, MIN_LOG_E))
        if view.value is not None and view.effect is not None:
            threshold = calibration.thresholds[signal]
            metrics.set_window_statistic(version, signal, statistic=view.value, threshold=threshold, effect_size=view.effect)
    for signal, distance in watched.distances.items():
        metrics.set_histogram_distance(version, signal, psi=distance.psi, jensen_shannon=distance.jensen_shannon)
    rows = len(watched.open_rows.id)
    metrics.set_window(version, rows=rows, wanted=settings.window_rows, fullest=largest_fill_ratio(watched, settings))
    if watched.estimate:
        accuracy = watched.estimate.accuracy
        metrics.set_unlike_reference_share(version, watched.estimate.unlike_reference_share)
        metrics.set_estimated_accuracy(version, estimate=accuracy.estimate, lower=accuracy.lower, upper=accuracy.upper)


def largest_fill_ratio(watched: WatchedVersion, settings: Monitor) -> float:
    """Return how full the fuller of the last two windows is, 0..1: a window that was just emptied is no lack of traffic."""
    return fill_ratio(max(len(watched.open_rows.id), len(watched.last_rows.id)), settings.window_rows)


def build_report(
    baseline: Baseline, watched: WatchedVersion | None, correct: Flags, settings: Monitor, *, now: float
) -> dict[str, Any]:
    """Return /report.json. The inbox reads `signals`, `accuracy`, `labelled` and `tolerated_loss` under these keys."""
    estimate = watched.estimate if watched else None
    labelled = labelled_accuracy(correct, settings)
    return {
        "version": baseline.version,
        "at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "window": _window(watched, settings),
        "signals": _signals(baseline, watched),
        "accuracy": {
            "estimate": estimate and estimate.accuracy.estimate,
            "lower": estimate and estimate.accuracy.lower,
            "upper": estimate and estimate.accuracy.upper,
            "reference": baseline.estimator.accuracy,
        },
        "labelled": {"labels": len(correct), **(labelled._asdict() if labelled else {})},
        "tolerated_loss": settings.tolerated_loss,
        "harm_log_e": harm_log_e(correct, baseline.estimator.accuracy, settings.tolerated_loss, settings.harm_alpha),
        "estimated_share": estimate and estimate.unlike_reference_share,
        "kinds": estimate
        and {
            "spoilt": estimate.corrupted_share,
            "foreign": estimate.out_of_distribution_share,
            "unexplained": estimate.unexplained,
        },
        "class_shares": _class_shares(baseline, watched),
    }


def _window(watched: WatchedVersion | None, settings: Monitor) -> dict[str, Any]:
    rows, evaluated = (len(watched.open_rows.id), watched.windows) if watched else (0, 0)
    state = "watching" if watched and len(watched.last_rows.id) else "not enough data"
    return {"state": state, "rows": rows, "wanted": settings.window_rows, "judged": evaluated}


def _signals(baseline: Baseline, watched: WatchedVersion | None) -> list[dict[str, Any]]:
    calibration = baseline.calibration
    if watched is None or calibration is None:
        return []
    entries = []
    for name, view in watched.signals.items():
        threshold, log_threshold = calibration.thresholds[name], calibration.log_threshold[name]
        distance = watched.distances.get(name)
        entries.append(
            {
                "signal": name,
                "value": view.value,
                "window_threshold": threshold if np.isfinite(threshold) else None,
                "log_e": max(view.log_e, MIN_LOG_E),
                "threshold": log_threshold,
                "effect_size": view.effect,
                "psi": distance and distance.psi,
                "jensen_shannon": distance and distance.jensen_shannon,
                "alarm": alarm_kind(in_window=view.value_alarms, in_stream=view.log_e >= log_threshold),
                "moved_words": [word.word for word in view.words],
                "word_shares": [[word.word, word.now, word.before] for word in view.words],
                "examples": list(view.examples),
            }
        )
    return entries


def _class_shares(baseline: Baseline, watched: WatchedVersion | None) -> dict[str, dict[str, float]]:
    """Return class shares that would explain the last window if only the shares had changed."""
    shift = estimate_label_shift(baseline.reference, watched.last_rows) if watched and len(watched.last_rows.id) else None
    if shift is None:
        return {}
    rows = zip(baseline.reference.labels.tolist(), shift.reference, shift.em, shift.bbse, strict=True)
    return {label: {"reference": float(r), "em": float(e), "bbse": float(b)} for label, r, e, b in rows}
