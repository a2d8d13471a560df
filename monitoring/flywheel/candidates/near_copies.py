"""Makes one candidate of texts that nearly equal each other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.flywheel.candidates.log_pass import FlaggedText
from pipeline.data.near_duplicates import NearTexts

STEP = 1000  # texts between two calls of `on_step`


class AskedOnce(NamedTuple):
    """Texts that differ, with the number of texts that each stands for, and their rows among those given."""

    texts: list[FlaggedText]
    rows: NDArray[np.int64]


def ask_once(texts: Sequence[FlaggedText], jaccard: float, on_step: Callable[[int], None] = lambda _done: None) -> AskedOnce:
    """Keep the first of texts that nearly equal each other; a text is compared with kept ones alone, so copies stay cheap."""
    kept = NearTexts((), jaccard, usage=(row.text for row in texts))
    rows: list[int] = []
    repeats: list[int] = []
    for index, row in enumerate(texts):
        if index % STEP == 0:
            on_step(index)
        matches = kept.matches(row.text)
        if matches:
            repeats[max(matches, key=lambda match: match[1])[0]] += row.repeats
        else:
            kept.add(row.text)
            rows.append(index)
            repeats.append(row.repeats)
    first = [texts[index]._replace(repeats=count) for index, count in zip(rows, repeats, strict=True)]
    return AskedOnce(first, np.array(rows, dtype=np.int64))
