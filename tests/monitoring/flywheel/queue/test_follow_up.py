"""New intents that people propose are followed up: texts most like them are asked next, until there are enough."""

from collections.abc import Mapping

import numpy as np

from monitoring.flywheel.queue.follow_up import encode_sketch, follow_up
from monitoring.flywheel.queue.round import LabelCandidate
from tests.monitoring.flywheel.queue.candidates import candidate

DIRECTIONS = {"battery": (1.0, 0.0, 0.0), "pairing": (0.0, 1.0, 0.0), "other": (0.0, 0.0, 1.0)}


def near(direction: str, number: int) -> LabelCandidate:
    vector = np.array(DIRECTIONS[direction], dtype=np.float32) + 0.02 * number
    return candidate(f"{direction} {number}")._replace(sketch=encode_sketch(vector))


OPEN = [*(near("other", number) for number in range(4)), near("battery", 8), near("pairing", 8), near("battery", 9)]


def asked(given: Mapping[LabelCandidate, str], proposed: set[str], wanted: int = 20) -> list[str]:
    labels = {row.text_id: label for row, label in given.items()}
    return [row.text for row in follow_up(OPEN, list(given), labels, frozenset(proposed), wanted)]


def proposals(direction: str, count: int) -> dict[LabelCandidate, str]:
    return {near(direction, number): f"{direction} problem" for number in range(count)}


def test_two_of_three_texts_are_like_those_that_got_the_new_label() -> None:
    given = {**proposals("battery", 2), near("other", 5): "refund"}
    assert asked(given, {"battery problem"})[:3] == ["battery 8", "battery 9", "other 0"]


def test_the_new_label_with_fewest_texts_comes_first() -> None:
    given = {**proposals("battery", 3), **proposals("pairing", 2)}
    assert asked(given, {"battery problem", "pairing problem"})[:3] == ["pairing 8", "battery 8", "other 0"]


def test_each_text_is_asked_once() -> None:
    given = {**proposals("battery", 3), **proposals("pairing", 2)}
    assert sorted(asked(given, {"battery problem", "pairing problem"})) == sorted(row.text for row in OPEN)


def test_one_proposal_or_enough_of_them_change_nothing() -> None:
    queue = [row.text for row in OPEN]
    assert asked(proposals("battery", 1), {"battery problem"}) == queue
    assert asked(proposals("battery", 6), {"battery problem"}, wanted=3) == queue
    assert asked(proposals("battery", 5), {"battery problem"}, wanted=5)[0] == "battery 8"
    assert asked({near("battery", 1): "refund", near("battery", 2): "refund"}, set()) == queue


def test_a_round_without_sketches_keeps_its_order() -> None:
    given = {row._replace(sketch=""): label for row, label in proposals("battery", 3).items()}
    assert asked(given, {"battery problem"}) == [row.text for row in OPEN]
    assert (
        follow_up([], list(given), {row.text_id: label for row, label in given.items()}, frozenset({"battery problem"}), 20) == []
    )
