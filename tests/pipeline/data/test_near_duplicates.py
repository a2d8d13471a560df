"""Near-duplicates: Jaccard by hand, and the prefix filter against all pairs."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.near_duplicates import Pair, find_near_duplicates, word_3grams

WORDS = st.lists(st.sampled_from("abcd"), min_size=0, max_size=14).map(" ".join)


def brute_force(texts: list[str], threshold: float) -> list[Pair]:
    """Compare every pair."""
    grams = [word_3grams(text) for text in texts]
    pairs = [Pair(i, j, len(grams[i] & grams[j]) / len(grams[i] | grams[j])) for i, j in combinations(range(len(texts)), 2)]
    return [pair for pair in pairs if pair.jaccard > threshold]


def test_grams_are_three_folded_words_in_a_row() -> None:
    assert word_3grams("Where IS my parcel?") == {("where", "is", "my"), ("is", "my", "parcel")}


@pytest.mark.parametrize("text", ["thanks", "thanks, bye", "thanks so much"])
def test_up_to_three_words_are_one_gram(text: str) -> None:
    assert len(word_3grams(text)) == 1


@pytest.mark.parametrize(
    ("text", "other", "jaccard"),
    [
        ("a b c d", "a b c d", 1.0),
        ("A, b c d!", "a b c d", 1.0),
        ("a b c d", "a b c e", 1 / 3),  # abc of abc bcd bce
        ("a b c d e f", "a b c d e g", 3 / 5),
        ("a b c d e f", "a b c d e", 3 / 4),
        ("a b", "a b c", 0.0),
    ],
)
def test_the_jaccard_by_hand(text: str, other: str, jaccard: float) -> None:
    assert find_near_duplicates([text, other], 0.01) == ([Pair(0, 1, pytest.approx(jaccard))] if jaccard else [])


def test_a_pair_exactly_on_the_threshold_is_not_near() -> None:
    texts = ["a b c d e f", "a b c d e"]  # 3 of 4 grams
    assert find_near_duplicates(texts, 0.75) == []
    assert len(find_near_duplicates(texts, 0.7499)) == 1


def test_three_of_a_kind_are_three_pairs() -> None:
    pairs = find_near_duplicates(
        ["one two three four", "other words entirely here", "One two three four!", "one two, three four"], 0.8
    )
    assert sorted(pair[:2] for pair in pairs) == [(0, 2), (0, 3), (2, 3)]


@pytest.mark.parametrize("texts", [[], ["alone"], ["?", "!"]])
def test_without_pairs_nothing_is_found(texts: list[str]) -> None:
    assert find_near_duplicates(texts, 0.8) == []


@pytest.mark.parametrize("threshold", [0.05, 0.25, 1 / 3, 0.5, 0.7, 0.8, 0.9, 1.0])
@settings(deadline=None, max_examples=60)
@given(texts=st.lists(WORDS, max_size=12))
def test_the_prefix_filter_finds_what_all_pairs_have(threshold: float, texts: list[str]) -> None:
    assert sorted(find_near_duplicates(texts, threshold)) == brute_force(texts, threshold)


@settings(deadline=None, max_examples=60)
@given(words=st.lists(st.integers(0, 999).map(str), min_size=12, max_size=40, unique=True), at=st.integers(0, 39))
def test_one_word_changed_in_a_long_text_is_seen_at_the_shipped_threshold(words: list[str], at: int) -> None:
    changed = list(words)
    changed[at % len(words)] = "changed"
    texts = ["something else altogether", " ".join(words), " ".join(changed)]
    assert sorted(find_near_duplicates(texts, 0.8)) == brute_force(texts, 0.8)
