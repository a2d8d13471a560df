"""What is known of the watched version, told: to Prometheus as numbers, to people as /report.json with words and texts."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.accuracy import harm_log_e, label_shift, labelled
from monitoring.drift.baseline import Judge
from monitoring.drift.stream import Watched
from monitoring.drift.window import fill
from monitoring.monitor.metrics import Exporter
from monitoring.monitor.store import LEAST_LOG_E
from pipeline.params import Monitor

Flags = NDArray[np.bool_]


def export(exporter: Exporter, judge: Judge, watched: Watched | None, correct: Flags, settings: Monitor, *, now: float) -> None:
    """Every fact that is known."""
    version = judge.version
    exporter.watched(version)
    age_s = max(0.0, now - judge.recorded_at)
    exporter.reference(version, rows=judge.known.rows, age_s=age_s, accuracy=judge.known.accuracy)
    exporter.harm(version, harm_log_e(correct, judge.known.accuracy, settings.tolerated_loss, settings.harm_alpha))
    exporter.labels(version, len(correct))
    if found := labelled(correct, settings):
        exporter.accuracy_labelled(version, estimate=found.estimate, lower=found.lower, upper=found.upper)
    calibrated = judge.calibrated
    if watched is None or calibrated is None:
        return
    for signal, promised in calibrated.false_alarms_per_week.items():
        exporter.promise(signal, log_e_threshold=calibrated.log_threshold.get(signal), false_alarms_per_week=promised)
    if calibrated.check:
        checked = {"window": calibrated.check.realised, **calibrated.check.by_signal}
        for signal, realised in checked.items():
            exporter.checked(version, signal, realised / calibrated.check.promised)
    for signal, own in watched.shown.items():
        exporter.drift(version, signal, log_e=max(own.log_e, LEAST_LOG_E))
        if own.value is not None and own.effect is not None:
            exporter.window_statistic(
                version, signal, statistic=own.value, threshold=calibrated.thresholds[signal], effect_size=own.effect
            )
    exporter.window(version, rows=len(watched.rows.id), wanted=settings.window_rows, fullest=fullest(watched, settings))
    if watched.estimate:
        accuracy = watched.estimate.accuracy
        exporter.unlike_share(version, watched.estimate.unlike_share)
        exporter.accuracy_estimated(version, estimate=accuracy.estimate, lower=accuracy.lower, upper=accuracy.upper)


def fullest(watched: Watched, settings: Monitor) -> float:
    """How full the fuller of the last two windows is, 0..1: one that was just judged and emptied is no lack of traffic."""
    return fill(max(len(watched.rows.id), len(watched.last.id)), settings.window_rows)


def report(judge: Judge, watched: Watched | None, correct: Flags, settings: Monitor, *, now: float) -> dict[str, Any]:
    """/report.json; what an alert shows is under the names that `evidence.py` reads, thresholds on log e first."""
    found = watched.estimate if watched else None
    by_labels = labelled(correct, settings)
    return {
        "version": judge.version,
        "at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "window": _window(watched, settings),
        "signals": _signals(judge, watched),
        "accuracy": {
            "estimate": found and found.accuracy.estimate,
            "lower": found and found.accuracy.lower,
            "upper": found and found.accuracy.upper,
            "reference": judge.known.accuracy,
        },
        "labelled": {"labels": len(correct), **(by_labels._asdict() if by_labels else {})},
        "harm_log_e": harm_log_e(correct, judge.known.accuracy, settings.tolerated_loss, settings.harm_alpha),
        "estimated_share": found and found.unlike_share,
        "kinds": found
        and {"spoilt": found.spoilt_share, "foreign": found.out_of_distribution_share, "unexplained": found.unexplained},
        "class_shares": _class_shares(judge, watched),
    }


def _window(watched: Watched | None, settings: Monitor) -> dict[str, Any]:
    rows, judged = (len(watched.rows.id), watched.number) if watched else (0, 0)
    state = "watching" if watched and len(watched.last.id) else "not enough data"
    return {"state": state, "rows": rows, "wanted": settings.window_rows, "judged": judged}


def _signals(judge: Judge, watched: Watched | None) -> list[dict[str, Any]]:
    calibrated = judge.calibrated
    if watched is None or calibrated is None:
        return []
    found = []
    for name, own in watched.shown.items():
        limit = calibrated.thresholds[name]
        is_over = own.log_e >= calibrated.log_threshold[name]
        found.append(
            {
                "signal": name,
                "value": own.value,
                "window_threshold": limit if np.isfinite(limit) else None,
                "log_e": max(own.log_e, LEAST_LOG_E),
                "threshold": calibrated.log_threshold[name],
                "effect_size": own.effect,
                "alarm": {(False, False): "none", (True, False): "window", (False, True): "stream", (True, True): "both"}[
                    own.value_alarms, is_over
                ],
                "moved_words": [word.word for word in own.words],
                "word_shares": [[word.word, word.now, word.before] for word in own.words],
                "examples": list(own.examples),
            }
        )
    return found


def _class_shares(judge: Judge, watched: Watched | None) -> dict[str, dict[str, float]]:
    """Shares of classes that would explain the last window if only shares had moved."""
    shift = label_shift(judge.reference, watched.last) if watched and len(watched.last.id) else None
    if shift is None:
        return {}
    columns = zip(judge.reference.labels.tolist(), shift.before, shift.em, shift.bbse, strict=True)
    return {label: {"reference": float(b), "em": float(e), "bbse": float(s)} for label, b, e, s in columns}
