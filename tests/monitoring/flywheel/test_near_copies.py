"""Near copies of a text are one candidate, and each is compared with few others."""

import pytest

from monitoring.flywheel.candidates.log_pass import FlaggedText
from monitoring.flywheel.candidates.near_copies import ask_once
from monitoring.flywheel.queue.round import MARGIN
from pipeline.data import near_duplicates

LONG = (
    "I sent back the blue kettle three weeks ago and the money for order number {} has still not arrived on my card please help"
)


def flagged(row: int, text: str, repeats: int = 1) -> FlaggedText:
    return FlaggedText(f"t{row}", f"p{row}", text, float(row), "refund", None, 0.5, 0.1, None, (MARGIN,), repeats)


def test_the_first_of_near_copies_stands_for_all_with_their_repeats() -> None:
    asked = [(LONG.format(1), 2), ("where is my parcel", 1), (LONG.format(2), 5), (LONG.format(3), 1)]
    texts = [flagged(row, text, repeats) for row, (text, repeats) in enumerate(asked)]
    once = ask_once(texts, 0.7)
    assert [(row.text_id, row.repeats) for row in once.texts] == [("t0", 8), ("t1", 1)]
    assert once.rows.tolist() == [0, 1]
    assert ask_once([], 0.8).texts == []


def test_a_thousand_copies_are_compared_with_one_text_each(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    matches = near_duplicates.NearTexts.matches

    class Counting(near_duplicates.NearTexts):
        def matches(self, text: str) -> list[tuple[int, float]]:
            nonlocal compared
            found = matches(self, text)
            compared += len(found)
            return found

    monkeypatch.setattr("monitoring.flywheel.candidates.near_copies.NearTexts", Counting)
    once = ask_once([flagged(row, LONG.format(row)) for row in range(1000)], 0.7)
    assert len(once.texts) == 1
    assert compared == 999
