"""Copies are paired with their originals by id; a copy that was never answered is a failure, and nothing else is."""

from collections.abc import Sequence

import pytest

from monitoring.flywheel.disagreement.copies import challenger_pairs
from monitoring.flywheel.disagreement.logged_answers import LoggedAnswers
from monitoring.flywheel.disagreement.pairs import AnswerPair, LoggedAnswer
from monitoring.flywheel.disagreement.task import TASK
from pipeline.params import Params
from serving.release.routing import Routes, is_shadowed
from tests.monitoring.flywheel.disagreement.answers import answer

ROUTES = Routes(4, 1, 2, 0.0, 0.5, "salt")
ROWS = [answer(n, "refund") for n in range(60)]
COPIED = [row for row in ROWS if is_shadowed(ROUTES, row.prediction_id)]


def pairs(
    params: Params, shadow: list[LoggedAnswer], challenger: Sequence[LoggedAnswer] = (), routes: Routes = ROUTES
) -> list[AnswerPair]:
    by_id = {row.prediction_id: row for row in shadow}
    return challenger_pairs(ROWS, LoggedAnswers(ROWS, list(challenger), by_id), routes, TASK, params.flywheel)


def failed(made: list[AnswerPair]) -> list[str]:
    return [row.champion.prediction_id for row in made if "failed" in row.kinds]


@pytest.fixture
def lost() -> LoggedAnswer:
    """Return a copied text whose rank is not the highest, neither the first nor the last."""
    return next(row for row in COPIED[5:-5] if is_shadowed(ROUTES._replace(shadow_share=0.25), row.prediction_id))


def test_each_copy_makes_a_pair(params: Params) -> None:
    made = pairs(params, [row._replace(answer=row.answer._replace(label="track")) for row in COPIED])
    assert [row.champion for row in made] == COPIED
    assert all(row.differs for row in made)
    assert not failed(made)


def test_a_copy_without_an_answer_is_a_failure(params: Params, lost: LoggedAnswer) -> None:
    made = pairs(params, [row for row in COPIED if row is not lost])
    assert failed(made) == [lost.prediction_id]
    assert len(made) == len(COPIED)


def test_what_was_asked_after_the_last_copy_may_still_be_on_its_way(params: Params) -> None:
    assert not failed(pairs(params, COPIED[:-3]))
    assert not pairs(params, [])


def test_texts_from_before_the_share_was_raised_are_no_failures(params: Params) -> None:
    low = ROUTES._replace(shadow_share=0.1)
    early = [row for row in ROWS[:30] if is_shadowed(low, row.prediction_id)]
    late = [row for row in COPIED if row.at > ROWS[30].at]
    assert not failed(pairs(params, [*early, *late]))


def test_texts_from_after_the_share_was_lowered_are_no_failures(params: Params) -> None:
    low = ROUTES._replace(shadow_share=0.1)
    early = [row for row in COPIED if row.at < ROWS[30].at]
    late = [row for row in ROWS[30:] if is_shadowed(low, row.prediction_id)]
    assert not failed(pairs(params, [*early, *late], routes=low))


def test_the_copy_of_an_earlier_answer_to_the_same_text_counts(params: Params) -> None:
    earlier = answer(-5, "track", text="text 7")
    (made,) = pairs(params, [earlier])
    assert (made.champion.prediction_id, made.kinds) == ("p7", {"label"})


def test_a_challengers_answer_to_the_same_text_makes_a_pair_too(params: Params) -> None:
    other = answer(900, "track", text="text 7", latency_ms=500.0)
    (made,) = pairs(params, [], [other])
    assert (made.champion.prediction_id, made.kinds) == ("p7", {"label", "slower"})
    (cached,) = pairs(params, [], [other._replace(cache_hit=True)])
    assert cached.kinds == {"label"}
