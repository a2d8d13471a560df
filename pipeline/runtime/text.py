"""The one way text is cleaned, in training and in serving alike."""

import unicodedata

_JOINERS = "\u200c\u200d"  # they hold words of some scripts, and emoji, together


def clean(text: str) -> str:
    """NFC, invisible format characters taken out (BOM, bidi overrides, zero-width spaces), white space runs made one space."""
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(c for c in composed if c in _JOINERS or unicodedata.category(c) != "Cf")
    return " ".join(visible.split())


def fold(text: str) -> str:
    """What two texts share when they are the same but for case and punctuation."""
    letters = "".join(c if c.isalnum() else " " for c in clean(text).casefold())
    return " ".join(letters.split()) or clean(text)


def word_count(text: str) -> int:
    """White-space separated words, at least 1."""
    return max(1, len(text.split()))
