"""The one way text is cleaned, in training and in serving alike."""

import unicodedata

JOINERS = "\u200c\u200d"  # they hold words of some scripts, and emoji, together


def clean(text: str) -> str:
    """Invisible format characters taken out (BOM, bidi overrides, zero-width spaces), NFC, white space runs made one space."""
    if text.isascii():  # holds neither, and most texts are
        return " ".join(text.split())
    visible = "".join(c for c in text if c in JOINERS or unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def fold(text: str) -> str:
    """What texts share that are the same but for case and punctuation; accents and vowel signs belong to their letter."""
    kept: list[str] = []
    for c in clean(text).casefold():
        in_word = c.isalnum() or (unicodedata.category(c).startswith("M") and bool(kept) and kept[-1] != " ")
        kept.append(c if in_word else " ")
    return " ".join("".join(kept).split()) or clean(text)


def word_count(text: str) -> int:
    """White-space separated words, at least 1."""
    return max(1, len(text.split()))
