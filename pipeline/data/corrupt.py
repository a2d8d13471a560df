"""Texts as they also arrive: mistyped, cut short, with words left out or in another order. Pure, seeded.

What a model makes of its own test rows after that is what the monitor learns accuracy from (`monitoring/drift/text_kinds.py`).
"""

from collections.abc import Sequence

import numpy as np

CORRUPTIONS = ("mistyped", "cut short", "thinned", "shuffled")


def corrupt_texts(texts: Sequence[str], mistyped: float, kept: float, seed: int) -> list[str]:
    """Each text spoilt in one way, the ways in turn from a random first; none becomes empty.

    Up to a share `mistyped` of its letters is exchanged or swapped; of its words at least a share `kept` stays (and one).
    """
    rng = np.random.default_rng(seed)
    letters = sorted({c for text in texts for c in text.casefold() if c.isalpha()})
    first = int(rng.integers(len(CORRUPTIONS)))
    return [
        _spoilt(text, CORRUPTIONS[(first + row) % len(CORRUPTIONS)], letters, mistyped, kept, rng)
        for row, text in enumerate(texts)
    ]


def _spoilt(text: str, kind: str, letters: Sequence[str], mistyped: float, kept: float, rng: np.random.Generator) -> str:
    if kind == "mistyped":
        return mistype(text, letters, rng.uniform(0, mistyped), rng)
    words = text.split()
    staying = max(1, round(len(words) * rng.uniform(kept, 1)))
    if kind == "cut short":
        return " ".join(words[:staying])
    order = rng.permutation(len(words))
    return " ".join(words[i] for i in (order if kind == "shuffled" else sorted(order[:staying])))


def mistype(text: str, letters: Sequence[str], share: float, rng: np.random.Generator) -> str:
    """A share of the letters, each by its own throw, swapped with the next character or exchanged for one of `letters`."""
    said = list(text)
    for at in range(len(said)):
        if said[at].isalpha() and rng.random() < share:
            if rng.random() < 0.5 and at + 1 < len(said):
                said[at], said[at + 1] = said[at + 1], said[at]
            else:
                said[at] = letters[rng.integers(len(letters))]
    return "".join(said)
