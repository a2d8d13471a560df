"""Cleans text, identically in training and in serving."""

import unicodedata

JOINERS = "\u200c\u200d"  # they join words of some scripts, and emoji


def clean(text: str) -> str:
    """Remove invisible format characters (BOM, bidi overrides, zero-width spaces), apply NFC and collapse white space."""
    if text.isascii():  # nothing to remove or compose; most texts are
        return " ".join(text.split())
    visible = "".join(c for c in text if c in JOINERS or unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def fold(text: str) -> str:
    """Return the text without case and punctuation; accents and vowel signs stay with their letter."""
    folded: list[str] = []
    for c in clean(text).casefold():
        in_word = c.isalnum() or (unicodedata.category(c).startswith("M") and bool(folded) and folded[-1] != " ")
        folded.append(c if in_word else " ")
    return " ".join("".join(folded).split()) or clean(text)


def word_count(text: str) -> int:
    """Count white-space separated words, at least 1."""
    return max(1, len(text.split()))
