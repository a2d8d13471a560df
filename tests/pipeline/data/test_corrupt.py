"""Texts spoilt on purpose."""

import numpy as np
import pytest

from pipeline.data.corrupt import CORRUPTIONS, corrupt_texts, mistype

TEXTS = ["where is my parcel since monday", "zażółć gęślą jaźń proszę", "a", "返品したい です"] * 25


def test_every_text_is_spoilt_in_turn_and_none_is_empty() -> None:
    found = corrupt_texts(TEXTS, 0.3, 0.3, 1)
    assert len(found) == len(TEXTS)
    assert all(found)
    long = [(before, after) for before, after in zip(TEXTS, found, strict=True) if len(before) > 20]
    assert np.mean([before != after for before, after in long]) > 0.6


def test_a_seed_decides_and_another_decides_otherwise() -> None:
    assert corrupt_texts(TEXTS, 0.3, 0.3, 1) == corrupt_texts(TEXTS, 0.3, 0.3, 1)
    assert corrupt_texts(TEXTS, 0.3, 0.3, 1) != corrupt_texts(TEXTS, 0.3, 0.3, 2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_as_many_letters_are_touched_as_was_asked(share: float) -> None:
    text = "abcdefghijklmnopqrstuvwxyz" * 200
    found = mistype(text, "!", share, np.random.default_rng(1))
    assert len(found) == len(text)
    assert found.count("!") / len(text) == pytest.approx(share / 2, abs=0.02)


def test_words_are_kept_but_for_those_that_were_typed_anew() -> None:
    found = corrupt_texts(TEXTS[:1] * len(CORRUPTIONS), 0.3, 0.3, 3)
    whole = [set(text.split()) <= set(TEXTS[0].split()) for text in found]
    assert sum(whole) >= len(CORRUPTIONS) - 1
