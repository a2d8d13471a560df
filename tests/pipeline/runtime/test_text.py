"""Cleaning and folding of text: examples, and properties of any text."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.runtime.text import clean, fold, fold_to_words, word_count

# letters, marks, joiners, invisible characters and white space, few enough to combine
TRICKY = st.text(alphabet="aeoAß1.!? \t\r\n\xa0\u0301\u0308\u0323\u200b\u200c\u200d\u202e\ufeff\u00adकि\u2028")
TEXTS = st.one_of(st.text(), TRICKY)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("\ufeffhello", "hello"),
        ("pay\u202eback\u202c now", "payback now"),
        ("zero\u200bwidth", "zerowidth"),
        ("soft\u00adhyphen", "softhyphen"),
        ("one\r\ntwo\tthree\n", "one two three"),
        ("  much \xa0 \u2003 room  ", "much room"),
        ("cafe\u0301", "café"),
        ("e\u200b\u0301", "é"),
        ("\u200b \ufeff", ""),
    ],
)
def test_invisible_characters_are_removed(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize("text", ["👩\u200d🚀 late", "می\u200cروم", "naïve 東京 ½ ™", "don't (really)!"])
def test_visible_characters_stay(text: str) -> None:
    assert clean(text) == text


@given(TEXTS)
@example("e\u200b\u0301")
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(TEXTS)
def test_composed_and_decomposed_forms_are_one_text(text: str) -> None:
    assert clean(unicodedata.normalize("NFC", text)) == clean(unicodedata.normalize("NFD", text))


@given(TEXTS)
def test_white_space_is_single_spaces_inside(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.split(" ") == cleaned.split() or not cleaned


@given(TEXTS)
def test_cleaning_leaves_no_invisible_character_but_joiners(text: str) -> None:
    assert {c for c in clean(text) if unicodedata.category(c) == "Cf"} <= {"\u200c", "\u200d"}


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Where is my parcel?", "where is my PARCEL"),
        ("Hello, world!", "hello world"),
        ("re-order: now", "re order now"),
        ("STRASSE", "straße"),
        ("e\u0301clair", "É\u200bclair!"),
        ("  two\n words ", "two words"),
    ],
)
def test_folding_ignores_case_and_punctuation(text: str, other: str) -> None:
    assert fold(text) == fold(other)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("order 12", "order 13"),
        ("resume", "résumé"),
        ("?", "!"),
        ("👍", "👎"),
        ("❤\ufe0f", "☀\ufe0f"),  # a variation selector is a mark, but of no letter
        ("दिन", "दीन"),  # day, poor: the vowel signs are marks, not punctuation
    ],
)
def test_folding_keeps_what_is_neither_case_nor_punctuation(text: str, other: str) -> None:
    assert fold(text) != fold(other)


@given(st.text(alphabet="abcXYZ éÄß12.,'"))
def test_a_text_in_capitals_folds_the_same(text: str) -> None:
    assert any(c.isalnum() for c in text) is False or fold(text.upper()) == fold(text)


@given(TEXTS)
def test_punctuation_around_a_text_folds_away(text: str) -> None:
    assert not any(c.isalnum() for c in text) or fold(f"¿{text}?!") == fold(text)


@given(TEXTS)
def test_folding_needs_no_cleaning_first(text: str) -> None:
    assert fold(clean(text)) == fold(text)


@pytest.mark.parametrize(("text", "count"), [("", 1), ("one", 1), ("two  words", 2), ("a\nb\tc", 3)])
def test_words_are_counted_by_white_space_and_are_at_least_one(text: str, count: int) -> None:
    assert word_count(text) == count


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_texts_in_ascii_fold_as_they_do_beside_other_letters(text: str) -> None:
    """The first way is a table, the second a loop over characters."""
    for folding in (fold, fold_to_words):
        assert f"{folding(f'a{text}')} é" == folding(f"a{text} é")
