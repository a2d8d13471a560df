"""What the monitor keeps in the state database: windows and their statistics, answers that feedback may come for, judgements.

Whoever writes gives the revision that was read: of two monitors only one can write, and what led to a window stands beside it.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.drift.stream import Judged
from pipeline.params import Monitor
from state.tables import answers, feedback, judgements, monitor, signals, windows


class OvertakenError(Exception):
    """Another monitor has written since."""


class Kept(NamedTuple):
    """How far the log was read, and what is watched after exactly that far."""

    revision: int
    cursor: str
    watched: bytes | None


def load(connection: sa.Connection) -> Kept:
    """What was written last."""
    return Kept(*connection.execute(sa.select(monitor.c.revision, monitor.c.cursor, monitor.c.watched)).one())


def save(connection: sa.Connection, kept: Kept) -> Kept:
    """Write over the revision that was read; raises `OvertakenError` where it is there no more."""
    changed = {"revision": kept.revision + 1, "cursor": kept.cursor, "watched": kept.watched}
    done = connection.execute(monitor.update().where(monitor.c.revision == kept.revision).values(**changed))
    if done.rowcount != 1:
        raise OvertakenError
    return kept._replace(revision=kept.revision + 1)


def add_windows(connection: sa.Connection, version: int, judged: Sequence[Judged], settings: Monitor) -> None:
    """Enter windows and their signals; of each version the last `windows_kept` stay."""
    if not judged:
        return
    connection.execute(windows.insert(), [_window(version, one) for one in judged])
    connection.execute(signals.insert(), [row for one in judged for row in _signals(version, one)])
    old = judged[-1].number - settings.windows_kept
    for table in (windows, signals):
        connection.execute(table.delete().where(table.c.version == version, table.c.number <= old))


def last_number(connection: sa.Connection, version: int) -> int:
    """Of the version's windows; 0 before the first."""
    newest = sa.select(sa.func.max(windows.c.number)).where(windows.c.version == version)
    return int(connection.execute(newest).scalar_one() or 0)


def add_answers(connection: sa.Connection, version: int, said: Sequence[tuple[str, str]], settings: Monitor) -> None:
    """Remember (id, label) of predictions; the last `remembered_answers` stay. One that is there already stays as it is."""
    if not said:
        return
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(answers).on_conflict_do_nothing()
    connection.execute(insert, [{"id": id, "version": version, "label": label} for id, label in said])
    newest = connection.execute(sa.select(sa.func.max(answers.c.number))).scalar_one()
    connection.execute(answers.delete().where(answers.c.number <= newest - settings.remembered_answers))


def add_judgements(connection: sa.Connection, version: int) -> int:
    """Hold feedback against the answers it speaks of, whichever came first; of several opinions on one the first counts."""
    known = sa.exists().where(judgements.c.prediction_id == feedback.c.prediction_id)
    first = (
        sa.select(sa.func.min(feedback.c.id).label("id"))
        .join(answers, answers.c.id == feedback.c.prediction_id)
        .where(answers.c.version == version, ~known)
        .group_by(feedback.c.prediction_id)
        .subquery()
    )
    found = (
        sa.select(feedback.c.prediction_id, answers.c.version, (feedback.c.label == answers.c.label).label("correct"))
        .join(first, first.c.id == feedback.c.id)
        .join(answers, answers.c.id == feedback.c.prediction_id)
        .order_by(feedback.c.id)
    )
    rows = [dict(row._mapping) for row in connection.execute(found)]
    if rows:
        connection.execute(judgements.insert(), rows)
    return len(rows)


def correct_flags(connection: sa.Connection, version: int) -> NDArray[np.bool_]:
    """(labels,) whether each judged answer of the version was right, in the order in which it became known."""
    flags = sa.select(judgements.c.correct).where(judgements.c.version == version).order_by(judgements.c.number)
    return np.array(connection.execute(flags).scalars().all(), dtype=np.bool_)


def _window(version: int, one: Judged) -> dict[str, Any]:
    accuracy = one.estimate.accuracy if one.estimate else None
    words = [[word.word, word.now, word.before] for word in one.report.words]
    return {
        "version": version,
        "number": one.number,
        "began_at": one.began_at,
        "ended_at": one.ended_at,
        "rows": one.report.rows,
        "foreign_share": one.report.out_of_distribution_share,
        "accuracy_estimate": accuracy and accuracy.estimate,
        "accuracy_lower": accuracy and accuracy.lower,
        "accuracy_upper": accuracy and accuracy.upper,
        "details": json.dumps({"words": words, "examples": one.report.examples}, ensure_ascii=False),
    }


def _signals(version: int, one: Judged) -> list[dict[str, Any]]:
    return [
        {
            "version": version,
            "number": one.number,
            "signal": own.name,
            "value": own.value,
            "threshold": own.threshold if np.isfinite(own.threshold) else None,
            "p": own.p,
            "effect": own.effect,
            "log_e": max(own.log_e, LEAST_LOG_E),
            "log_threshold": own.log_threshold,
            "alarm": own.alarm,
        }
        for own in one.report.signals
    ]


LEAST_LOG_E = -1e4  # stands for the logarithm of nothing
