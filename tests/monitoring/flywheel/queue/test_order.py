"""The order of the queue: classes with few labels first, then the margin, clusters in turn, and near-duplicates last."""

import numpy as np

from monitoring.flywheel.queue.order import order_queue
from monitoring.flywheel.queue.round import LabelCandidate
from pipeline.params import Params
from tests.monitoring.flywheel.queue.candidates import candidate

WORDS = ("lima", "mike", "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform", "victor", "whiskey")


def texts(count: int) -> list[str]:
    """Return texts without a word in common."""
    return [f"{WORDS[number % len(WORDS)]} {number}" for number in range(count)]


def order(rows: list[LabelCandidate], counts: dict[str, int], params: Params, **settings: int) -> list[int]:
    flywheel = params.flywheel.model_copy(update=settings)
    return order_queue(rows, counts, flywheel, 0.8, np.random.default_rng(1)).tolist()


def test_the_class_with_fewest_labels_comes_first_whoever_votes_for_it(params: Params) -> None:
    rows = [
        candidate("alpha", "often", margin=0.0),
        candidate("bravo", "often", "rare", margin=0.6),
        candidate("charlie", "rare", margin=0.4),
        candidate("delta", "unseen", margin=0.9),
    ]
    assert order(rows, {"often": 50, "rare": 3}, params) == [3, 2, 1, 0]


def test_asked_texts_count_as_labels_of_their_class_until_it_has_enough(params: Params) -> None:
    names = texts(8)
    rows = [candidate(text, "rare", margin=number / 10, cluster=number) for number, text in enumerate(names[:4])]
    rows += [candidate(text, "rarer", margin=number / 10, cluster=number) for number, text in enumerate(names[4:])]
    assert order(rows, {"rare": 2, "rarer": 1}, params, few_labels=4) == [4, 0, 5, 1, 6, 2, 3, 7]


def test_the_rest_follows_by_margin_with_clusters_in_turn(params: Params) -> None:
    names = texts(4)
    rows = [candidate(text, margin=number / 10, cluster=number // 3) for number, text in enumerate(names)]
    assert order(rows, {"track_order": 50}, params) == [0, 3, 1, 2]


def test_near_duplicates_of_a_text_that_was_just_asked_come_last(params: Params) -> None:
    words = "when will the parcel that i ordered last week be here please"
    rows = [candidate(words, margin=0.0), candidate(f"{words} today", margin=0.1), candidate("another matter", margin=0.3)]
    assert order(rows, {"track_order": 50}, params) == [0, 2, 1]


def test_every_candidate_has_its_place_and_ties_are_drawn(params: Params) -> None:
    rows = [candidate(text) for text in texts(40)]
    first, again = (order_queue(rows, {"track_order": 50}, params.flywheel, 0.8, np.random.default_rng(7)) for _ in range(2))
    assert sorted(first.tolist()) == list(range(40))
    assert first.tolist() == again.tolist() != list(range(40))


def test_an_empty_queue_has_an_order(params: Params) -> None:
    assert order([], {}, params) == []
