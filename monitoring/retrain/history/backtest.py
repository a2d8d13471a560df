"""The backtest: which alerts other thresholds would have raised on the stored signals, with which decisions and costs.

It moves in steps of a window, the finest stored resolution; `replay` decides.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import sqlalchemy as sa
from pydantic import ValidationError

from monitoring.drift.calibration import calibrate, log_thresholds, window_alpha
from monitoring.drift.features import SIGNALS
from monitoring.labels.entries import is_counted, is_known
from monitoring.retrain.history.replay import (
    Alert,
    GivenLabel,
    Observations,
    Policy,
    ReplayedDecision,
    ReplayedRetrain,
    read_version_facts,
    replay_decisions,
)
from monitoring.retrain.history.sources import Sources
from pipeline import charts
from pipeline.errors import InputError
from pipeline.params import Monitor, Retrain
from pipeline.reference_profile import load_reference
from serving.release.manifest import model_name, repository
from state.tables import answers, disagreements, feedback, judgements, labellers, retrains, signals, windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STREAM, WINDOW = "EvergreenDrift", "EvergreenWindowDrift"
MEASUREMENT_KEYS = (  # of params.yaml, section monitor: another value would have stored other signals
    "window_rows",
    "rows_per_unit",
    "min_reference_rows",
    "fit_share",
    "cells",
    "axes",
    "kernel_features",
    "shrinkage",
    "seed",
)


class SignalPoint(NamedTuple):
    """One signal in one window, as the monitor stored it; times are seconds of the epoch."""

    version: int
    ended_at: float
    signal: str
    rows: int
    value: float | None
    p: float | None
    log_e: float  # the highest within the window
    log_threshold: float  # of that time
    alarm: str  # of that time: none, window, stream, both


class Thresholds(NamedTuple):
    """The thresholds of one version's signals."""

    log_e: dict[str, float]
    value: dict[str, float] | None  # None: without the reference, `p` is compared with `level`
    level: float


class PolicyReplay(NamedTuple):
    """One policy replayed over all stored signals."""

    name: str
    promised: float | None  # false alarms over these rows; None: unknown for the recorded alarms
    decisions: list[ReplayedDecision]
    retrains: list[ReplayedRetrain]


Alarms = Callable[[SignalPoint], tuple[bool, bool]]  # → (stream, window)


class StoredSignals(NamedTuple):
    """Everything that is replayed."""

    points: list[SignalPoint]  # by time
    observations: Observations


def read_stored_signals(sources: Sources) -> StoredSignals:
    """Read the signals and observations; raises `InputError` when the monitor has stored no window."""
    same = (windows.c.version == signals.c.version) & (windows.c.number == signals.c.number)
    columns = sa.select(
        signals.c.version, windows.c.ended_at, signals.c.signal, windows.c.rows, signals.c.value, signals.c.p,
        signals.c.log_e, signals.c.log_threshold, signals.c.alarm,
    )  # fmt: skip
    rows = sources.rows(columns.join(windows, same).order_by(windows.c.ended_at, signals.c.signal), signals, windows)
    if not rows:
        what = "the monitor has stored no window yet, or an older release did"
        do = "let it evaluate traffic first: make watch, or .venv/bin/python -m monitoring.monitor --once"
        raise InputError(str(sources.home), what, do)
    return StoredSignals([SignalPoint(**row) for row in rows], _observations(sources))


def _observations(sources: Sources) -> Observations:
    """Read the observations by time: labels as the controller counts them, a judgement from the first label of its prediction."""
    columns = sa.select(windows.c.ended_at, windows.c.version, windows.c.accuracy_upper).order_by(windows.c.ended_at)
    ends = sources.rows(columns, windows)
    counted = sa.select(feedback, is_known().label("is_known")).where(is_counted()).order_by(feedback.c.id)
    given = sources.rows(counted, feedback, labellers, answers)
    labels = sorted(
        GivenLabel(_seconds(row["received_at"]), row["prediction_id"], row["label"], row["labeller"])
        for row in given
        if row["is_known"]
    )
    first: dict[str, float] = {}
    for row in given:
        first.setdefault(row["prediction_id"], _seconds(row["received_at"]))
    measured = sources.rows(sa.select(disagreements).order_by(disagreements.c.measured_at), disagreements)
    judged = sources.rows(sa.select(judgements).order_by(judgements.c.number), judgements)
    return Observations(
        champions=[(row["ended_at"], row["version"]) for row in ends],
        accuracy_upper=[
            (row["ended_at"], row["version"], row["accuracy_upper"]) for row in ends if row["accuracy_upper"] is not None
        ],
        labels=labels,
        correct=[(first.get(row["prediction_id"], 0.0), row["version"], row["correct"]) for row in judged],
        versions={version: read_version_facts(version, sources.home) for version in {row["version"] for row in ends}},
        disagreement=[(row["measured_at"], row["version"], row["other"], row["lower"]) for row in measured],
    )


def _seconds(moment: datetime) -> float:
    """Return seconds of the epoch; SQLite stores UTC without a time zone."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def recorded_alarms(point: SignalPoint) -> tuple[bool, bool]:
    """Return the alarms of that time."""
    return point.alarm in ("stream", "both"), point.alarm in ("window", "both")


def alarms_under(thresholds: dict[int, Thresholds]) -> Alarms:
    """Return the alarms under these thresholds, by version."""

    def alarms(point: SignalPoint) -> tuple[bool, bool]:
        limits = thresholds[point.version]
        stream = point.log_e >= limits.log_e[point.signal]
        if limits.value is None:
            return stream, point.p is not None and point.p <= limits.level
        return stream, point.value is not None and point.value > limits.value[point.signal]

    return alarms


def thresholds_under(settings: Monitor, current: Monitor, stored: StoredSignals, home: Path) -> dict[int, Thresholds]:
    """Return each version's thresholds under other settings, from its reference, live or parked.

    Raises `InputError` when the settings differ from `current` in a key that changes the measurement: only the current
    signals are stored.
    """
    changed = [key for key in MEASUREMENT_KEYS if getattr(settings, key) != getattr(current, key)]
    if changed:
        value, stored_value = getattr(settings, changed[0]), getattr(current, changed[0])
        what = f"monitor.{changed[0]} is {value}, but the stored signals were measured with {stored_value}"
        do = "change only thresholds: monitor.false_alarms_per_week, window_share, expected_rows_per_week"
        raise InputError("the other params", what, do)
    return {version: _thresholds(version, settings, home) for version in sorted({point.version for point in stored.points})}


def _thresholds(version: int, settings: Monitor, home: Path) -> Thresholds:
    level = window_alpha(settings) / len(SIGNALS)  # Bonferroni, where there is nothing to calibrate on
    for folder in (repository(home) / model_name(version), home / "parked" / model_name(version)):
        try:
            calibrated = calibrate(load_reference(folder / "reference.npz"), settings)
        except (OSError, ValueError, KeyError):
            continue
        return Thresholds(log_thresholds(settings), calibrated.thresholds if calibrated else None, level)
    return Thresholds(log_thresholds(settings), None, level)


def highest_log_threshold(thresholds: dict[int, Thresholds]) -> float:
    """Return the newest version's highest log threshold, for the chart."""
    return max(thresholds[max(thresholds)].log_e.values())


def find_alerts(points: Sequence[SignalPoint], alarms: Alarms, hold_s: float) -> list[Alert]:
    """Return the alerts of each signal by time; an alert is over after windows without an alarm for `hold_s`."""
    open_since: dict[tuple[str, int, str], float] = {}
    quiet_since: dict[tuple[str, int, str], float] = {}
    closed: list[Alert] = []
    for point in points:
        for name, is_on in zip((STREAM, WINDOW), alarms(point), strict=True):
            key = (name, point.version, point.signal)
            quiet = quiet_since.get(key)
            if quiet is not None and point.ended_at - quiet > hold_s:
                closed.append(Alert(*key, open_since.pop(key), quiet_since.pop(key) + hold_s))
            if is_on:
                open_since.setdefault(key, point.ended_at)
                quiet_since.pop(key, None)
            elif key in open_since:
                quiet_since.setdefault(key, point.ended_at)
    still_open = [
        Alert(*key, began, quiet_since[key] + hold_s if key in quiet_since else None) for key, began in open_since.items()
    ]
    return sorted([*closed, *still_open], key=lambda alert: (alert.began_at, alert.alertname, alert.signal))


def replay_policy(
    name: str, stored: StoredSignals, alarms: Alarms, policy: Policy, hold_s: float, *, promised: float | None
) -> PolicyReplay:
    """Replay one policy over all stored signals."""
    alerts = find_alerts(stored.points, alarms, hold_s)
    return PolicyReplay(name, promised, *replay_decisions(alerts, stored.observations, policy))


def other_settings(settings: Retrain, text: str) -> Retrain:
    """Return the settings with the values of a text such as `cooldown_s=3600, min_labels=20`; raises `InputError`."""
    values = settings.model_dump()
    for key, _, value in (part.strip().partition("=") for part in text.split(",")):
        if key not in values:
            nearest = get_close_matches(key, values, n=1, cutoff=0)[0]
            do = f"did you mean `{nearest}`? Write {nearest}={values[nearest]}"
            raise InputError("--retrain", f"there is no key `retrain.{key}`", do)
        values[key] = value
    try:
        return Retrain.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"`retrain.{first['loc'][0]}` = {first['input']!r} is invalid: {first['msg']}"
        raise InputError("--retrain", what, "give a value that params.yaml accepts") from None


def promised_false_alarms(points: Sequence[SignalPoint], settings: Monitor) -> float:
    """Return the false alarms that the settings promise over the stored rows."""
    rows = sum({(point.version, point.ended_at): point.rows for point in points}.values())
    return settings.false_alarms_per_week * rows / settings.expected_rows_per_week


def measured_retrain_s(sources: Sources) -> float | None:
    """Return the median seconds of the journal's successful retrains, or None without one."""
    columns = sa.select(retrains.c.began_wall, retrains.c.ended_wall).where(retrains.c.state == "done")
    durations = [row["ended_wall"] - row["began_wall"] for row in sources.rows(columns, retrains)]
    return float(np.median(durations)) if durations else None


def draw(points: Sequence[SignalPoint], replays: Sequence[PolicyReplay], limits: dict[str, float]) -> "Figure":
    """Draw evidence, thresholds, alerts and started retrains over time."""
    evidence: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        evidence.setdefault(point.signal, []).append((point.ended_at, point.log_e))
    end = points[-1].ended_at
    spans = {
        replay.name: [(alert.began_at, alert.over_at or end, alert.alertname == STREAM) for alert, *_ in replay.decisions]
        for replay in replays
    }
    starts = {replay.name: [retrain.began_at for retrain in replay.retrains] for replay in replays}
    return charts.backtest(evidence, limits, spans, starts)
