"""Outcomes come in the order in which texts arrived, and stop at the first that somebody may still label."""

import pytest

from monitoring.release.asked_texts import ReleaseLabels
from monitoring.release.copied_texts import CopiedText
from monitoring.release.pairs import NewOutcomes, new_outcomes, outcome_of

SAME, OTHER = "refund", "track"


def text_of(id: str, other: str = OTHER, *, text: str | None = "a text") -> CopiedText:
    return CopiedText(id, 0.0, text, id, SAME, other)


def said(skipped: str = "", **labels: str) -> ReleaseLabels:
    return ReleaseLabels(labels, {id: frozenset({"ana"}) for id in skipped}, frozenset({"ana"}))


def test_equal_answers_need_no_label_and_differing_ones_wait_for_theirs() -> None:
    texts = [text_of("a", SAME), text_of("b"), text_of("c", SAME), text_of("d")]
    assert new_outcomes(texts, 0, said()) == NewOutcomes([0], 1)
    assert new_outcomes(texts, 0, said(d=OTHER)) == NewOutcomes([0], 1)  # the second text comes first
    assert new_outcomes(texts, 1, said(b=SAME)) == NewOutcomes([-1, 0], 2)
    assert new_outcomes(texts, 0, said(b="third", d=OTHER)) == NewOutcomes([0, 2, 0, 1], 4)


def test_a_text_that_everybody_has_skipped_counts_as_nothing() -> None:
    texts = [text_of("a"), text_of("b", SAME)]
    assert new_outcomes(texts, 0, said(skipped="a")) == NewOutcomes([0], 2)


def test_a_differing_text_that_the_log_does_not_keep_is_never_assumed_to_be_right() -> None:
    texts = [text_of("a", text=None), text_of("b", SAME)]
    assert new_outcomes(texts, 0, said(skipped="a")) == NewOutcomes([], 0)
    assert new_outcomes(texts, 0, said(a=OTHER)) == NewOutcomes([1, 0], 2)


@pytest.mark.parametrize(("label", "outcome"), [("Track", 1), ("REFUND", -1), ("other", 2)])
def test_another_spelling_of_a_label_is_that_label(label: str, outcome: int) -> None:
    assert outcome_of(text_of("a"), label) == outcome
