"""The replay: what other thresholds would have made of the signals that were stored, what would have been decided, at what cost.

It moves in steps of a window, the finest that is stored; who decides is `rehearse`.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from matplotlib.figure import Figure
from pydantic import ValidationError

from monitoring.drift.calibration import calibrate, log_thresholds, window_alpha
from monitoring.drift.features import SIGNALS
from monitoring.retrain.history.replay import Alert, Decided, Opinion, Policy, Ran, Seen, rehearse, version_at
from monitoring.retrain.history.stores import Stores
from pipeline import charts
from pipeline.errors import InputError
from pipeline.params import Monitor, Retrain
from pipeline.reference_profile import load_reference
from serving.release.manifest import model_name, repository
from state.tables import feedback, judgements, retrains, signals, windows

STREAM, WINDOW = "EvergreenDrift", "EvergreenWindowDrift"
MEASURED_BY = (
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


class Point(NamedTuple):
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


class Limits(NamedTuple):
    """What a version's signals are held against."""

    log_e: dict[str, float]
    value: dict[str, float] | None  # None: the reference is not there, `p` is held against `level`
    level: float


class Replay(NamedTuple):
    """One policy over all that is stored."""

    name: str
    promised: float | None  # false alarms over these rows; None: of what did fire it is not known
    decided: list[Decided]
    ran: list[Ran]


Alarms = Callable[[Point], tuple[bool, bool]]  # → (stream, window)


class Kept(NamedTuple):
    """All that is replayed."""

    points: list[Point]  # by time
    seen: Seen


def stored(at: Stores) -> Kept:
    """Read it; raises `InputError` where the monitor has stored nothing yet."""
    same = (windows.c.version == signals.c.version) & (windows.c.number == signals.c.number)
    shown = sa.select(
        signals.c.version, windows.c.ended_at, signals.c.signal, windows.c.rows, signals.c.value, signals.c.p,
        signals.c.log_e, signals.c.log_threshold, signals.c.alarm,
    )  # fmt: skip
    rows = at.rows(shown.join(windows, same).order_by(windows.c.ended_at, signals.c.signal), signals)
    if not rows:
        what = "the monitor has stored no window yet"
        raise InputError(
            str(at.home), what, "let it judge traffic first: make watch, or .venv/bin/python -m monitoring.monitor --once"
        )
    return Kept([Point(**row) for row in rows], _seen(at))


def _seen(at: Stores) -> Seen:
    """What was known besides, by time. A judgement became known with the first opinion on its prediction."""
    shown = sa.select(windows.c.ended_at, windows.c.version, windows.c.accuracy_upper).order_by(windows.c.ended_at)
    ends = at.rows(shown, windows)
    given = at.rows(sa.select(feedback).order_by(feedback.c.id), feedback)
    opinions = sorted(Opinion(_seconds(one["received_at"]), one["prediction_id"], one["label"], one["source"]) for one in given)
    first: dict[str, float] = {}
    for one in opinions:
        first.setdefault(one.prediction_id, one.at)
    judged = at.rows(sa.select(judgements).order_by(judgements.c.number), judgements)
    return Seen(
        champions=[(row["ended_at"], row["version"]) for row in ends],
        accuracy_upper=[
            (row["ended_at"], row["version"], row["accuracy_upper"]) for row in ends if row["accuracy_upper"] is not None
        ],
        opinions=opinions,
        correct=[(first.get(row["prediction_id"], 0.0), row["version"], row["correct"]) for row in judged],
        versions={version: version_at(version, at.home) for version in {row["version"] for row in ends}},
    )


def _seconds(moment: datetime) -> float:
    """Of the epoch; SQLite keeps times in UTC without saying so."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def did_fire(point: Point) -> tuple[bool, bool]:
    """The alarms of that time."""
    return point.alarm in ("stream", "both"), point.alarm in ("window", "both")


def would_fire(limits: dict[int, Limits]) -> Alarms:
    """The alarms under these limits, by version."""

    def alarms(point: Point) -> tuple[bool, bool]:
        own = limits[point.version]
        stream = point.log_e >= own.log_e[point.signal]
        if own.value is None:
            return stream, point.p is not None and point.p <= own.level
        return stream, point.value is not None and point.value > own.value[point.signal]

    return alarms


def limits_under(settings: Monitor, now: Monitor, kept: Kept, home: Path) -> dict[int, Limits]:
    """Each version's limits under other settings, from its own reference, live or parked.

    Raises `InputError` where the settings differ from those of `now` in what signals are measured by: those stored are no others.
    """
    other = [key for key in MEASURED_BY if getattr(settings, key) != getattr(now, key)]
    if other:
        is_, was = getattr(settings, other[0]), getattr(now, other[0])
        what = f"monitor.{other[0]} is {is_}, and the stored signals were measured with {was}"
        do = "change thresholds alone: monitor.false_alarms_per_week, window_share, expected_rows_per_week"
        raise InputError("the other params", what, do)
    return {version: _limits(version, settings, home) for version in sorted({point.version for point in kept.points})}


def _limits(version: int, settings: Monitor, home: Path) -> Limits:
    level = window_alpha(settings) / len(SIGNALS)  # Bonferroni, where there is nothing to calibrate on
    for folder in (repository(home) / model_name(version), home / "parked" / model_name(version)):
        try:
            calibrated = calibrate(load_reference(folder / "reference.npz"), settings)
        except (OSError, ValueError, KeyError):
            continue
        return Limits(log_thresholds(settings), calibrated.thresholds if calibrated else None, level)
    return Limits(log_thresholds(settings), None, level)


def highest(limits: dict[int, Limits]) -> float:
    """The log e-value that the newest version's signals are held against, for a picture."""
    return max(limits[max(limits)].log_e.values())


def episodes(points: Sequence[Point], alarms: Alarms, hold_s: float) -> list[Alert]:
    """Alerts by time, one a signal: it is over when windows have been quiet for `hold_s`, and begins anew after that."""
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
    left = [Alert(*key, began, quiet_since[key] + hold_s if key in quiet_since else None) for key, began in open_since.items()]
    return sorted([*closed, *left], key=lambda one: (one.began_at, one.alertname, one.signal))


def replay(name: str, kept: Kept, alarms: Alarms, policy: Policy, hold_s: float, *, promised: float | None) -> Replay:
    """One policy over all that is kept."""
    return Replay(name, promised, *rehearse(episodes(kept.points, alarms, hold_s), kept.seen, policy))


def other_settings(settings: Retrain, text: str) -> Retrain:
    """The settings with some others, `cooldown_s=3600, min_labels=20`; raises `InputError`."""
    values = settings.model_dump()
    for key, _, value in (part.strip().partition("=") for part in text.split(",")):
        if key not in values:
            near = get_close_matches(key, values, n=1, cutoff=0)[0]
            raise InputError(
                "--retrain", f"there is no key `retrain.{key}`", f"did you mean `{near}`? Write {near}={values[near]}"
            )
        values[key] = value
    try:
        return Retrain.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"`retrain.{first['loc'][0]}` = {first['input']!r} is not usable: {first['msg']}"
        raise InputError("--retrain", what, "give a value that params.yaml would take") from None


def promised(points: Sequence[Point], settings: Monitor) -> float:
    """False alarms that the settings promise over the rows that are stored."""
    rows = sum({(point.version, point.ended_at): point.rows for point in points}.values())
    return settings.false_alarms_per_week * rows / settings.expected_rows_per_week


def measured_retrain_s(at: Stores) -> float | None:
    """Median seconds of the retrains that the journal has; None: there were none."""
    done = at.rows(sa.select(retrains.c.began_wall, retrains.c.ended_wall).where(retrains.c.state == "done"), retrains)
    took = [row["ended_wall"] - row["began_wall"] for row in done]
    return float(np.median(took)) if took else None


def picture(points: Sequence[Point], replays: Sequence[Replay], log_limits: dict[str, float]) -> Figure:
    """Evidence, limits, alerts and starts over time."""
    evidence: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        evidence.setdefault(point.signal, []).append((point.ended_at, point.log_e))
    end = points[-1].ended_at
    spans = {
        one.name: [(own.began_at, own.over_at or end, own.alertname == STREAM) for own, *_ in one.decided] for one in replays
    }
    return charts.backtest(evidence, log_limits, spans, {one.name: [ran.began_at for ran in one.ran] for one in replays})
