"""Pairs of answers are typed, and the champion's disagreement with itself is counted apart."""

from typing import Any

import pytest

from monitoring.flywheel.disagreement.excess import DifferenceCounts
from monitoring.flywheel.disagreement.pairs import count_kinds, pair
from monitoring.flywheel.disagreement.repeats import count_unstable
from monitoring.flywheel.disagreement.task import TASK, ModelAnswer
from pipeline.params import Flywheel, Params
from tests.monitoring.flywheel.disagreement.answers import answer, shares


@pytest.fixture
def settings(params: Params) -> Flywheel:
    return params.flywheel.model_copy(update={"confidence_gap": 0.3, "slower_times": 3.0})


def given(label: str, confidence: float = 0.9) -> ModelAnswer:
    return ModelAnswer(label, shares(label, confidence))


@pytest.mark.parametrize(
    ("champion", "second", "latency_ms", "kinds"),
    [
        ({}, given("refund"), None, set()),
        ({}, given("track"), None, {"label"}),
        ({"confidence": 0.9}, given("refund", 0.55), None, {"gap"}),
        ({"confidence": 0.9}, given("refund", 0.65), None, set()),
        ({"confidence": 0.9}, given("track", 0.4), None, {"label"}),  # a gap between other labels says nothing more
        ({"latency_ms": 10.0}, given("refund"), 30.0, {"slower"}),
        ({"latency_ms": 10.0}, given("refund"), 29.0, set()),
        ({"latency_ms": 0.1, "cache_hit": True}, given("refund"), 30.0, set()),
        ({"latency_ms": 10.0}, given("track"), 90.0, {"label", "slower"}),
        ({}, None, None, {"failed"}),
    ],
)
def test_a_pair_is_of_each_kind_that_it_shows(
    settings: Flywheel, champion: dict[str, Any], second: ModelAnswer | None, latency_ms: float | None, kinds: set[str]
) -> None:
    made = pair(answer(1, "refund", **champion), second, TASK, settings, latency_ms)
    assert made.kinds == kinds
    assert made.differs == ("label" in kinds)
    assert dict(count_kinds([made, made])) == dict.fromkeys(kinds, 2)


def test_a_repeat_from_the_cache_is_no_second_answer() -> None:
    first, cached, again = (answer(n, "refund", text="same") for n in (1, 2, 3))
    rows = [first, cached._replace(cache_hit=True)]
    assert count_unstable([first], rows, {}, TASK) == DifferenceCounts(0, 0)
    assert count_unstable([first], [*rows, again], {}, TASK) == DifferenceCounts(1, 0)
    assert count_unstable([first], [*rows, answer(3, "track", text="same")], {}, TASK) == DifferenceCounts(1, 1)


def test_a_text_counts_once_however_often_it_was_repeated() -> None:
    rows = [answer(n, ("refund", "track")[n % 2], text="bot") for n in range(1000)]
    assert count_unstable(rows[-1:], rows, {}, TASK) == DifferenceCounts(1, 1)


def test_another_precision_is_a_second_answer() -> None:
    first, second = answer(1, "refund"), answer(2, "track")
    again = {first.text_hash: given("refund"), second.text_hash: given("refund")}
    assert count_unstable([first, second], [first, second], again, TASK) == DifferenceCounts(2, 1)
