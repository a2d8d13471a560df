"""Cleans text, identically in training and in serving."""

import unicodedata

JOINERS = "\u200c\u200d"  # they join words of some scripts, and emoji
SYMBOL_CATEGORIES = ("Sm", "Sc", "So")
OTHER_SYMBOLS = frozenset("#%&*/@\\^\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")  # Unicode: punctuation, or skin tones


def clean(text: str) -> str:
    """Remove invisible format characters (BOM, bidi overrides, zero-width spaces), apply NFC and collapse white space."""
    if text.isascii():  # nothing to remove or compose; most texts are
        return " ".join(text.split())
    visible = "".join(c for c in text if c in JOINERS or unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def fold(text: str) -> str:
    """Return the text without case and punctuation; symbols stay, as words of their own (`c++` is not `c#`)."""
    return _fold(text, are_symbols_kept=True)


def fold_to_words(text: str) -> str:
    """Return the text without case, punctuation and symbols; a text without words stays as it is."""
    return _fold(text, are_symbols_kept=False)


def _fold(text: str, are_symbols_kept: bool) -> str:
    """Fold; accents and vowel signs stay with their letter."""
    folded: list[str] = []
    has_words = in_word = False
    cased = clean(text).casefold()
    if cased.isascii():  # most texts: a table does in a tenth of the time what the loop does
        has_words = any(map(str.isalnum, cased))
        return " ".join(cased.translate(_FOLDED[are_symbols_kept]).split()) if has_words else clean(text)
    for c in cased:
        in_word = c.isalnum() or (in_word and unicodedata.category(c).startswith("M"))
        has_words |= in_word
        folded.append(c if in_word else f" {c} " if are_symbols_kept and is_symbol(c) else " ")
    return " ".join("".join(folded).split()) if has_words else clean(text)


def is_symbol(c: str) -> bool:
    """Return whether a character means something beside words: of mathematics, money and code, and emoji."""
    return c in OTHER_SYMBOLS or unicodedata.category(c) in SYMBOL_CATEGORIES


def word_count(text: str) -> int:
    """Count white-space separated words, at least 1."""
    return max(1, len(text.split()))


_ASCII = [chr(number) for number in range(128)]
_FOLDED = {  # are symbols kept → what becomes of each character
    kept: str.maketrans({c: c if c.isalnum() else f" {c} " if kept and is_symbol(c) else " " for c in _ASCII})
    for kept in (False, True)
}
