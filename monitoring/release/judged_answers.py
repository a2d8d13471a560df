"""Labels that nobody was asked for, on the answers of a canary: callers' own judgement of both versions.

Texts of the label queue are left out: they were chosen because the versions differ, and say nothing about either alone.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
import structlog

from monitoring.labels.entries import is_counted
from pipeline.data.records import normalise_label
from serving.prediction_ids import issued_at
from serving.prediction_log.segments import SegmentName, read_segments
from state.tables import feedback, queue_actions

AT_MOST = 500  # labels a look
LOGGED_WITHIN_S = 60.0  # an answer is in the log by then; a label that comes sooner waits until its answer must be there
Share = tuple[int, int]  # right, all
log = structlog.get_logger()


class JudgedAnswers(NamedTuple):
    """What labels say about each version's answers since the last look, and the last row of `feedback` that was read."""

    challenger: Share
    champion: Share
    upto: int


def read_judged(
    connection: sa.Connection, url: str, *, champion: int, challenger: int, since: float, upto: int, now: float
) -> JudgedAnswers:
    """Read the labels after `upto` on answers that were given since a time, in seconds of the epoch."""
    given = _new_labels(connection, (champion, challenger), since, upto, now)
    answers = _logged_answers(url, {id: at for _, id, _ in given if (at := issued_at(id)) is not None and at >= since})
    counts = {challenger: [0, 0], champion: [0, 0]}
    for _, id, label in given:
        version, answer = answers.get(id, (None, ""))
        if version in counts:
            counts[version][0] += normalise_label(label) == normalise_label(answer)
            counts[version][1] += 1
    right = {version: (row[0], row[1]) for version, row in counts.items()}
    return JudgedAnswers(right[challenger], right[champion], max((row[0] for row in given), default=upto))


def _new_labels(
    connection: sa.Connection, versions: tuple[int, int], since: float, upto: int, now: float
) -> list[tuple[int, str, str]]:
    """Return row, prediction id and label of the first label that counts of each answer."""
    f, earlier = feedback.c, feedback.alias()
    period = f.received_at.between(datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(now - LOGGED_WITHIN_S, UTC))
    is_asked = sa.exists().where(queue_actions.c.prediction_id == f.prediction_id)
    is_second = sa.exists().where(
        earlier.c.prediction_id == f.prediction_id, earlier.c.id < f.id, earlier.c.withdrawn_at.is_(None)
    )
    wanted = (f.id > upto) & period & f.version.in_(versions) & is_counted() & ~is_asked & ~is_second
    rows = connection.execute(sa.select(f.id, f.prediction_id, f.label).where(wanted).order_by(f.id).limit(AT_MOST))
    return [(row.id, row.prediction_id, row.label) for row in rows]


def _logged_answers(url: str, issued: Mapping[str, int]) -> dict[str, tuple[int, str]]:
    """Return version and label of these predictions, as callers got them; only segments of their time are opened."""
    if not issued:
        return {}
    ids, times = pa.array(list(issued)), sorted(issued.values())

    def is_selected(name: SegmentName) -> bool:
        at = name.sequence / 1000
        return any(time <= at <= time + LOGGED_WITHIN_S for time in times)

    answers: dict[str, tuple[int, str]] = {}
    segments = read_segments(
        url, since=times[0], is_selected=is_selected, on_skipped=lambda path: log.warning("skipped", path=path)
    )
    for _name, table in segments:
        is_wanted = pc.and_(pc.is_in(table["id"], value_set=ids), pc.not_equal(table["role"], "shadow"))
        rows = table.select(["id", "version", "label"]).filter(is_wanted).to_pylist()
        answers |= {row["id"]: (row["version"], row["label"]) for row in rows}
    return answers
