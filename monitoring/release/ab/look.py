"""A look at a test: reads what callers reported and the prediction log, and judges. Writes nothing."""

from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from monitoring.labels.entries import is_counted, is_known
from monitoring.release.ab.intervals import summarise_arm
from monitoring.release.ab.tests_table import AbTest, is_interrupted
from monitoring.release.ab.units import ReportedValue, UnitValues, collect_units
from monitoring.release.ab.verdict import AbVerdict, describe, judge
from pipeline.params import Params
from serving.prediction_ids import issued_at
from serving.prediction_log.answered import FoundAnswer, find_answers
from serving.prediction_log.writer import log_url
from state.tables import feedback, outcomes, queue_actions

INTERRUPTED = "no verdict: the routing is no longer the one that the test began with, so its arms are mixed"


class AbLook(NamedTuple):
    """A test and what is known about it now."""

    test: AbTest
    verdict: AbVerdict
    units: UnitValues
    is_interrupted: bool
    at: float

    @property
    def sentence(self) -> str:
        """Return the verdict in one sentence: the first one that was reached, or this look's."""
        if self.test.verdict is not None:
            return str(self.test.verdict["sentence"])
        return INTERRUPTED if self.is_interrupted else describe(self.verdict, self.test.margin)

    @property
    def has_answer(self) -> bool:
        """Return whether this look reaches a verdict."""
        return self.verdict.answer != "not yet" and not self.is_interrupted

    def record(self) -> dict[str, Any]:
        """Return the verdict for the state database and MLflow; bounds that are not known are None."""
        difference, a, b = self.verdict.difference, self.verdict.a, self.verdict.b
        is_bounded = a.units > 0 and b.units > 0 and abs(difference.lower) < float("inf")
        return {
            "answer": self.verdict.answer if self.has_answer else "not yet",
            "sentence": self.sentence,
            "difference": difference.estimate,
            "lower": difference.lower if is_bounded else None,
            "upper": difference.upper if is_bounded else None,
            "mean_a": a.mean,
            "mean_b": b.mean,
            "units_a": a.units,
            "units_b": b.units,
            "outcomes": self.units.outcomes,
            "at": self.at,
        }


class AnswerMemory:
    """Answers that were found in the log, so that the next look reads only what is new. For one test at a time."""

    def __init__(self) -> None:
        self._known: dict[str, FoundAnswer] = {}

    def find(self, url: str, ids: set[str]) -> dict[str, FoundAnswer]:
        """Return the logged answers among these ids; forget all others."""
        missing = ids - self._known.keys()
        self._known = {id: answer for id, answer in self._known.items() if id in ids} | find_answers(url, missing)
        return self._known


def look_at(
    test: AbTest, connection: sa.Connection, params: Params, home: Path, now: float, memory: AnswerMemory | None = None
) -> AbLook:
    """Return what is known about a test now; a prediction log that is down raises what fsspec raises."""
    reports = read_outcomes(connection, test) if test.metric == "outcome" else read_feedback(connection)
    since, until = test.began_at, test.ended_at or now
    reports = [report for report in reports if since <= (issued_at(report.prediction_id) or 0) <= until]
    ids = {report.prediction_id for report in reports}
    answers = (memory or AnswerMemory()).find(log_url(params.log, home), ids)
    units = collect_units(reports, answers, test.arms)
    a, b = summarise_arm(units.a), summarise_arm(units.b)
    verdict = judge(a, b, test.rule, weight=test.weight, is_lower_better=test.is_lower_better)
    return AbLook(test, verdict, units, test.ended_at is None and is_interrupted(connection, test), now)


def read_outcomes(connection: sa.Connection, test: AbTest) -> list[ReportedValue]:
    """Return the outcomes that were reported while the test ran."""
    c = outcomes.c
    counts = c.received_at >= test.began_at
    if test.ended_at is not None:
        counts &= c.received_at <= test.ended_at
    if test.caller is not None:
        counts &= c.caller == test.caller
    rows = connection.execute(sa.select(c.prediction_id, c.value).where(counts).order_by(c.id))
    return [ReportedValue(row.prediction_id, row.value) for row in rows]


def read_feedback(connection: sa.Connection) -> list[ReportedValue]:
    """Return the labels in force that nobody was asked for: the queue asks for texts that models find hard."""
    was_asked = sa.exists().where(queue_actions.c.prediction_id == feedback.c.prediction_id)
    counts = is_counted() & is_known() & ~was_asked
    rows = connection.execute(sa.select(feedback.c.prediction_id, feedback.c.label).where(counts).order_by(feedback.c.id))
    return [ReportedValue(row.prediction_id, row.label) for row in rows]
