"""Corrupts texts as they arrive in practice: mistyped, cut short, with words left out or reordered. Pure and seeded.

The monitor estimates accuracy from a model's predictions on its corrupted test rows (`monitoring/drift/text_kinds.py`).
"""

from collections.abc import Sequence

import numpy as np

CORRUPTIONS = ("mistyped", "cut short", "thinned", "shuffled")


def corrupt_texts(texts: Sequence[str], mistyped: float, kept_words: float, seed: int) -> list[str]:
    """Corrupt each text in one way, cycling through `CORRUPTIONS` from a random first; none becomes empty.

    Up to a share `mistyped` of the letters changes. At least a share `kept_words` of the words stays, and at least one word.
    """
    rng = np.random.default_rng(seed)
    letters = sorted({c for text in texts for c in text.casefold() if c.isalpha()})
    first = int(rng.integers(len(CORRUPTIONS)))
    return [
        _corrupt(text, CORRUPTIONS[(first + row) % len(CORRUPTIONS)], letters, mistyped, kept_words, rng)
        for row, text in enumerate(texts)
    ]


def _corrupt(text: str, kind: str, letters: Sequence[str], mistyped: float, kept_words: float, rng: np.random.Generator) -> str:
    if kind == "mistyped":
        return mistype(text, letters, rng.uniform(0, mistyped), rng)
    words = text.split()
    count = max(1, round(len(words) * rng.uniform(kept_words, 1)))
    if kind == "cut short":
        return " ".join(words[:count])
    order = rng.permutation(len(words))
    return " ".join(words[i] for i in (order if kind == "shuffled" else sorted(order[:count])))


def mistype(text: str, letters: Sequence[str], share: float, rng: np.random.Generator) -> str:
    """Swap each letter with the next character, or exchange it for one of `letters`, with probability `share`."""
    characters = list(text)
    for position in range(len(characters)):
        if characters[position].isalpha() and rng.random() < share:
            if rng.random() < 0.5 and position + 1 < len(characters):
                characters[position : position + 2] = characters[position + 1], characters[position]
            else:
                characters[position] = letters[rng.integers(len(letters))]
    return "".join(characters)
