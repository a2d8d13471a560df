"""The monitor's rows in the state database: windows and their signals, predictions that feedback may name, judgements.

Every write names the revision that was read, so of two monitors only one can write, and the cursor is stored with its results.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.drift.stream import EvaluatedWindow
from monitoring.labels.entries import is_counted
from pipeline.params import Monitor
from state.tables import answers, feedback, judgements, monitor, signals, windows

MIN_LOG_E = -1e4  # stored for the logarithm of 0


class OvertakenError(Exception):
    """Another monitor has written since this one read."""


class StoredState(NamedTuple):
    """Position in the log, and the watched version's state at exactly that position."""

    revision: int
    cursor: str
    watched: bytes | None


def load_state(connection: sa.Connection) -> StoredState:
    """Read the state that was written last."""
    return StoredState(*connection.execute(sa.select(monitor.c.revision, monitor.c.cursor, monitor.c.watched)).one())


def save_state(connection: sa.Connection, state: StoredState) -> StoredState:
    """Replace the revision that was read; raises `OvertakenError` if another has been written since."""
    values = {"revision": state.revision + 1, "cursor": state.cursor, "watched": state.watched}
    result = connection.execute(monitor.update().where(monitor.c.revision == state.revision).values(**values))
    if result.rowcount != 1:
        raise OvertakenError
    return state._replace(revision=state.revision + 1)


def add_windows(connection: sa.Connection, version: int, evaluated: Sequence[EvaluatedWindow], settings: Monitor) -> None:
    """Insert windows and their signals, and delete all but the version's last `windows_kept`."""
    if not evaluated:
        return
    connection.execute(windows.insert(), [_window_row(version, window) for window in evaluated])
    connection.execute(signals.insert(), [row for window in evaluated for row in _signal_rows(version, window)])
    oldest = evaluated[-1].number - settings.windows_kept
    for table in (windows, signals):
        connection.execute(table.delete().where(table.c.version == version, table.c.number <= oldest))


def last_number(connection: sa.Connection, version: int) -> int:
    """Return the number of the version's last window; 0 before the first."""
    newest = sa.select(sa.func.max(windows.c.number)).where(windows.c.version == version)
    return int(connection.execute(newest).scalar_one() or 0)


def add_answers(connection: sa.Connection, version: int, labels: Sequence[tuple[str, str]], settings: Monitor) -> None:
    """Insert the (id, label) of predictions, and delete all but the last `remembered_answers`. Known ids stay unchanged."""
    if not labels:
        return
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(answers).on_conflict_do_nothing()
    connection.execute(insert, [{"id": id, "version": version, "label": label} for id, label in labels])
    newest = connection.execute(sa.select(sa.func.max(answers.c.number))).scalar_one()
    connection.execute(answers.delete().where(answers.c.number <= newest - settings.remembered_answers))


def add_judgements(connection: sa.Connection, version: int) -> int:
    """Compare feedback with the predictions it names, whichever came first; return the number of judgements that changed.

    The first feedback on a prediction counts. A judgement is forgotten when its feedback is withdrawn or no longer counts.
    """
    is_based = sa.exists().where(feedback.c.id == judgements.c.feedback_id, is_counted())
    stale = judgements.delete().where(judgements.c.version == version, judgements.c.feedback_id.is_not(None), ~is_based)
    forgotten = connection.execute(stale).rowcount
    is_judged = sa.exists().where(judgements.c.prediction_id == feedback.c.prediction_id)
    first = (
        sa.select(sa.func.min(feedback.c.id).label("id"))
        .join(answers, answers.c.id == feedback.c.prediction_id)
        .where(answers.c.version == version, ~is_judged, is_counted())
        .group_by(feedback.c.prediction_id)
        .subquery()
    )
    new = (
        sa.select(
            feedback.c.prediction_id,
            answers.c.version,
            (feedback.c.label == answers.c.label).label("correct"),
            feedback.c.id.label("feedback_id"),
        )
        .join(first, first.c.id == feedback.c.id)
        .join(answers, answers.c.id == feedback.c.prediction_id)
        .order_by(feedback.c.id)
    )
    rows = [dict(row._mapping) for row in connection.execute(new)]
    if rows:
        connection.execute(judgements.insert(), rows)
    return forgotten + len(rows)


def correct_flags(connection: sa.Connection, version: int) -> NDArray[np.bool_]:
    """Return whether each judged prediction of the version was right (labels,), in the order in which that became known."""
    flags = sa.select(judgements.c.correct).where(judgements.c.version == version).order_by(judgements.c.number)
    return np.array(connection.execute(flags).scalars().all(), dtype=np.bool_)


def _window_row(version: int, window: EvaluatedWindow) -> dict[str, Any]:
    accuracy = window.estimate.accuracy if window.estimate else None
    words = [[word.word, word.now, word.before] for word in window.report.words]
    return {
        "version": version,
        "number": window.number,
        "began_at": window.began_at,
        "ended_at": window.ended_at,
        "rows": window.report.rows,
        "foreign_share": window.report.out_of_distribution_share,
        "accuracy_estimate": accuracy and accuracy.estimate,
        "accuracy_lower": accuracy and accuracy.lower,
        "accuracy_upper": accuracy and accuracy.upper,
        "details": json.dumps({"words": words, "examples": window.report.examples}, ensure_ascii=False),
    }


def _signal_rows(version: int, window: EvaluatedWindow) -> list[dict[str, Any]]:
    return [
        {
            "version": version,
            "number": window.number,
            "signal": signal.name,
            "value": signal.value,
            "threshold": signal.threshold if np.isfinite(signal.threshold) else None,
            "p": signal.p,
            "effect": signal.effect,
            "log_e": max(signal.log_e, MIN_LOG_E),
            "log_threshold": signal.log_threshold,
            "alarm": signal.alarm,
        }
        for signal in window.report.signals
    ]
