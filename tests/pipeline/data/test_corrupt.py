"""Corrupted texts: every kind, reproducible, and as much as requested."""

import numpy as np
import pytest

from pipeline.data.corrupt import CORRUPTIONS, corrupt_texts, mistype

TEXTS = ["where is my parcel since monday", "zażółć gęślą jaźń proszę", "a", "返品したい です"] * 25


def test_every_kind_is_used_and_no_text_is_empty() -> None:
    corrupted = corrupt_texts(TEXTS, 0.3, 0.3, 1)
    assert len(corrupted) == len(TEXTS)
    assert all(corrupted)
    long = [(before, after) for before, after in zip(TEXTS, corrupted, strict=True) if len(before) > 20]
    assert np.mean([before != after for before, after in long]) > 0.6


def test_the_result_depends_on_the_seed() -> None:
    assert corrupt_texts(TEXTS, 0.3, 0.3, 1) == corrupt_texts(TEXTS, 0.3, 0.3, 1)
    assert corrupt_texts(TEXTS, 0.3, 0.3, 1) != corrupt_texts(TEXTS, 0.3, 0.3, 2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_requested_share_of_letters_changes(share: float) -> None:
    text = "abcdefghijklmnopqrstuvwxyz" * 200
    mistyped = mistype(text, "!", share, np.random.default_rng(1))
    assert len(mistyped) == len(text)
    assert mistyped.count("!") / len(text) == pytest.approx(share / 2, abs=0.02)


def test_only_mistyping_changes_words() -> None:
    corrupted = corrupt_texts(TEXTS[:1] * len(CORRUPTIONS), 0.3, 0.3, 3)
    whole = [set(text.split()) <= set(TEXTS[0].split()) for text in corrupted]
    assert sum(whole) >= len(CORRUPTIONS) - 1
