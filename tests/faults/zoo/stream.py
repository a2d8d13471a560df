"""Live traffic with known answers: held-out texts as people would write them, each distinct, some about a new product."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.data.records import Example

LONG = (
    "I have written to you twice already this week and each time a very friendly person promised to come back to me, ",
    "First of all let me say that I have been a happy customer for more than eleven years, and so was my mother, so please ",
)
OPENINGS = (
    "",
    "",
    "Hi! ",
    "Hello, ",
    "Good morning. ",
    "Quick question: ",
    "Hi team, ",
    "Sorry to bother you. ",
    "Hello again. ",
)
CLOSINGS = ("", " Thanks!", " Thank you.", " Please advise.", " Regards, Sam", " Cheers", " Best wishes, Ana", " Please help.")
NEW_WORD = "zephyr"
NEW_CLOSING = " It is about the Zephyr."
LONG_SHARE, NEW_SHARE = 0.15, 0.1


class LiveText(NamedTuple):
    """A text, its right label, and the customer who writes it."""

    text: str
    label: str
    unit: str


def live_texts(rows: Sequence[Example], count: int, seed: int) -> list[LiveText]:
    """Return up to `count` distinct texts, in random order."""
    rng = np.random.default_rng(seed)
    texts: dict[str, LiveText] = {}
    for number in range(20 * count):
        if len(texts) == count:
            break
        row = rows[int(rng.integers(len(rows)))]
        opening = LONG[int(rng.integers(len(LONG)))] if rng.random() < LONG_SHARE else OPENINGS[int(rng.integers(len(OPENINGS)))]
        closing = NEW_CLOSING if rng.random() < NEW_SHARE else CLOSINGS[int(rng.integers(len(CLOSINGS)))]
        text = f"{opening}{row.text}{closing}"
        texts.setdefault(text, LiveText(text, str(row.label), f"customer-{number}"))
    return list(texts.values())
