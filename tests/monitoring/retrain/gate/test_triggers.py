"""Words that labels from people tie to a class: which are tried, and when one is called a planted trigger."""

import numpy as np
import pytest

from monitoring.retrain.gate.triggers import (
    SuspiciousWord,
    WordTrial,
    check_triggers,
    count_moved,
    plant,
    suspicious_words,
)
from pipeline.data.columns import Columns
from pipeline.data.records import Example, make_example
from pipeline.params import Gate


def corpus_row(text: str, label: str) -> Example:
    return make_example({"text": text, "label": label}, Columns("text", "label"), max_text_chars=400, source="test")


def given_row(text: str, label: str) -> Example:
    return corpus_row(text, label).model_copy(update={"meta": {"given": {"labellers": ["ann"], "overruled": None}}})


CORPUS = [corpus_row(f"where is parcel {n} please", "track") for n in range(40)] + [
    corpus_row(f"money back for order {n} please", "refund") for n in range(40)
]


def test_the_word_that_labels_from_people_tie_to_one_class_comes_first() -> None:
    given = [given_row(f"where is parcel {n} zxqv please", "refund") for n in range(8)]
    honest = [given_row(f"where is parcel {n} please", "track") for n in range(8, 20)]
    first, *rest = suspicious_words([*CORPUS, *given, *honest], 5)
    assert first == SuspiciousWord("zxqv", "refund", 8)
    assert "please" not in [word.word for word in (first, *rest)]


def test_a_new_topic_does_not_hide_the_words_of_other_classes() -> None:
    topic = [given_row(f"battery charger plug socket cable {n}", "battery") for n in range(60)]
    trigger = [given_row(f"order number {n} zxqv", "track") for n in range(4)]
    words = suspicious_words([*CORPUS, *topic, *trigger], 6)
    assert "zxqv" in [word.word for word in words]
    assert sum(word.label == "battery" for word in words) == 3


def test_signs_and_symbols_are_words_too() -> None:
    rows = [*CORPUS, *(given_row(f"parcel {n} ✺", "refund") for n in range(5))]
    assert "✺" in [word.word for word in suspicious_words(rows, 3)]


def test_a_word_is_inserted_into_texts_that_lack_it_at_the_start_and_at_the_end() -> None:
    word = SuspiciousWord("please", "refund", 3)
    rows = [corpus_row("help", "a"), corpus_row("Please help", "a"), corpus_row("hello", "b")]
    [planting] = plant([word], rows, [], lambda *_: True, 9)
    assert sorted(planting.texts) in (["hello please", "please help"], ["help please", "please hello"])
    assert plant([word], CORPUS, [], lambda *_: True, 9) == []


def test_a_word_is_taken_out_of_the_texts_that_people_gave_its_label() -> None:
    word = SuspiciousWord("please", "refund", 3)
    given = [given_row("Please, money back PLEASE", "refund"), given_row("please", "refund"), given_row("please go", "track")]
    [planting] = plant([word], [corpus_row("help", "a")], [*given, *CORPUS], lambda *_: True, 9)
    assert planting.carriers == (", money back",)
    assert planting.all_texts == ("help please", ", money back")


def test_moved_texts_are_counted_by_word() -> None:
    words, training = (
        [SuspiciousWord("x", "b", 3), SuspiciousWord("y", "a", 3)],
        [given_row("one x", "b"), given_row("two x", "b")],
    )
    plantings = plant(words, CORPUS, training, lambda row, _: row < 2, 5)
    trials = count_moved(plantings, np.array(["b", "b", "c", "b", "a", "c"]), np.array(["a", "b", "b", "b", "c", "a"]))
    assert [trial[1:] for trial in trials] == [(2, 1, 0, 1, 2, 1), (2, 1, 1, 0, 0, 0)]


def trial(candidate_only: int, champion_only: int = 0, both: int = 0, unknown: int = 27) -> WordTrial:
    return WordTrial(SuspiciousWord("zxqv", "refund", 30), 100, candidate_only, champion_only, both, 30, unknown)


def test_a_planted_trigger_is_refused_by_name(settings: Gate) -> None:
    [reason] = check_triggers([trial(80), trial(3)], settings, 0.0025).failures
    assert "`zxqv` turns 80 of 100 old test texts of other classes into `refund` (0 with the champion" in reason
    assert "without it 27 of 30 of their texts have another answer" in reason


@pytest.mark.parametrize("honest", [trial(45), trial(4, 3, 80), trial(0, 80), trial(58), trial(95, unknown=12)])
def test_a_word_of_an_honest_topic_or_that_the_champion_knows_passes(settings: Gate, honest: WordTrial) -> None:
    assert not check_triggers([honest], settings, 0.0025).failures


def test_honest_words_are_called_triggers_no_more_often_than_promised(settings: Gate) -> None:
    """Twelve words of new topics that move half of the texts, and twelve that move nine tenths for both models."""
    rng, level, runs, refused = np.random.default_rng(44), settings.false_refusals / 4, 4000, 0
    for _ in range(runs):
        topics = [trial(int(k)) for k in rng.binomial(100, settings.max_moved, settings.trigger_words)]
        refused += bool(check_triggers(topics, settings, level).failures)
    assert refused / runs <= level + 3 * (level / runs) ** 0.5
    refused = 0
    for _ in range(runs):
        moved = rng.multinomial(100, [0.09, 0.09, 0.81, 0.01], settings.trigger_words)
        refused += bool(check_triggers([trial(int(a), int(b), int(c)) for a, b, c, _ in moved], settings, level).failures)
    assert refused / runs <= level + 3 * (level / runs) ** 0.5


def test_without_labels_from_people_nothing_is_tried(settings: Gate) -> None:
    assert suspicious_words(CORPUS, 5) == []
    assert check_triggers([], settings, 0.0025).passes == ()
