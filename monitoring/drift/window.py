"""Rows of one version as the monitor tests them: which of them are independent observations, and when they are enough."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Seen = Mapping[str, frozenset[str]]  # unit → its texts in the window that is being filled


class Rows(NamedTuple):
    """N answers of one version in the order of time."""

    time: NDArray[np.float64]  # seconds of the epoch
    id: NDArray[np.str_]  # the prediction's own
    unit: NDArray[np.str_]  # "" where the caller gave none
    text: NDArray[np.str_]  # the text, or its hash where the log keeps no texts
    pieces: NDArray[np.int32]
    pieces_per_word: NDArray[np.float32]
    probabilities: NDArray[np.float32]  # (N, classes), in the order of the reference's labels
    sketch: NDArray[np.float16]  # (N, sketch_size)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Rows":
        """These rows of every column."""
        return Rows._make(column[rows] for column in self)

    def then(self, later: "Rows") -> "Rows":
        """These rows and later ones."""
        return Rows._make(np.concatenate([own, other]) for own, other in zip(self, later, strict=True))


class Admission(NamedTuple):
    """Which rows count, and what has been seen after them."""

    admitted: NDArray[np.bool_]
    seen: Seen


def no_rows(classes: int, sketch_size: int) -> Rows:
    """An empty window."""
    return Rows(
        time=np.zeros(0),
        id=np.zeros(0, dtype=np.str_),
        unit=np.zeros(0, dtype=np.str_),
        text=np.zeros(0, dtype=np.str_),
        pieces=np.zeros(0, dtype=np.int32),
        pieces_per_word=np.zeros(0, dtype=np.float32),
        probabilities=np.zeros((0, classes), dtype=np.float32),
        sketch=np.zeros((0, sketch_size), dtype=np.float16),
    )


def admit(units: Sequence[str], texts: Sequence[str], seen: Seen, rows_per_unit: int) -> Admission:
    """One row a (unit, text), and at most `rows_per_unit` rows a unit, in one window; the earliest ones count.

    Rows of one customer depend on each other, so the unit is the observation; without a unit each text is one.
    """
    now = dict(seen)
    admitted = np.zeros(len(units), dtype=np.bool_)
    for row, (unit, text) in enumerate(zip(units, texts, strict=True)):
        key = f"u{unit}" if unit else f"t{text}"
        before = now.get(key, frozenset())
        if text not in before and len(before) < rows_per_unit:
            now[key] = before | {text}
            admitted[row] = True
    return Admission(admitted, now)


def usable(rows: Rows) -> NDArray[np.bool_]:
    """(N,) False for rows that no statistic can be taken of: a number that is not finite, or no probability at all."""
    numbers = (rows.time, rows.pieces_per_word, rows.probabilities.sum(axis=1), rows.sketch.astype(np.float64).sum(axis=1))
    return np.asarray(np.isfinite(np.stack([np.asarray(n, np.float64) for n in numbers])).all(axis=0) & (numbers[2] > 0))


def fill(rows: int, wanted: int) -> float:
    """Share of a window that is there, 0..1."""
    return min(1.0, rows / wanted)
