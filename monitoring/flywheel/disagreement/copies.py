"""Pairs of the champion's answers and a challenger's: copies, and texts that both have answered. Pure."""

from collections.abc import Sequence
from itertools import accumulate

from monitoring.flywheel.disagreement.logged_answers import LoggedAnswers
from monitoring.flywheel.disagreement.pairs import AnswerPair, LoggedAnswer, pair
from monitoring.flywheel.disagreement.task import FlywheelTask
from pipeline.params import Flywheel
from serving.release.routing import Routes, copy_rank, is_shadowed


def challenger_pairs(
    rows: Sequence[LoggedAnswer], logged: LoggedAnswers, routes: Routes, task: FlywheelTask, settings: Flywheel
) -> list[AnswerPair]:
    """Return a pair for each of the champion's answers that the challenger answered too, or was sent and did not answer.

    A copy has the id of its original. Without one, an answer of the challenger to the same text counts, of another unit or a copy
    of an earlier answer.
    """
    by_text = {answer.text_hash: answer for answer in [*logged.shadow.values(), *logged.challenger]}
    lost = _unanswered_copies(rows, logged, routes)
    pairs = []
    for row in rows:
        if copy := logged.shadow.get(row.prediction_id):
            pairs.append(pair(row, copy.answer, task, settings, copy.latency_ms))
        elif row.prediction_id in lost:
            pairs.append(pair(row, None, task, settings))
        elif other := by_text.get(row.text_hash):
            latency_ms = None if other.cache_hit else other.latency_ms
            pairs.append(pair(row, other.answer, task, settings, latency_ms))
    return pairs


def _unanswered_copies(rows: Sequence[LoggedAnswer], logged: LoggedAnswers, routes: Routes) -> set[str]:
    """Return the predictions (oldest first) that were certainly copied and whose copy was not answered.

    The log does not say which texts were copied, and the share may have changed: a text was copied when both the share of now
    and the largest rank copied before it are above its rank. After the last copy nothing is known.
    """
    ranks = [copy_rank(routes, row.prediction_id) for row in rows]
    is_copied = [row.prediction_id in logged.shadow for row in rows]
    highest = accumulate((rank if copied else -1.0 for rank, copied in zip(ranks, is_copied, strict=True)), max)
    last = max((number for number, copied in enumerate(is_copied) if copied), default=-1)
    rows_ranked = enumerate(zip(rows, ranks, highest, strict=True))
    return {
        row.prediction_id
        for number, (row, rank, known) in rows_ranked
        if number < last and rank < known and is_shadowed(routes, row.prediction_id) and not is_copied[number]
    }
