"""Rows of one version as the monitor tests them: which rows are independent observations, and when a window is full."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TextsByUnit = Mapping[str, frozenset[str]]  # unit → its texts in the open window


class PredictionRows(NamedTuple):
    """N predictions of one version, ordered by time."""

    time: NDArray[np.float64]  # seconds since the epoch
    id: NDArray[np.str_]  # of the prediction
    unit: NDArray[np.str_]  # "" where the caller gave none
    text: NDArray[np.str_]  # the text, or its hash where the log keeps no texts
    pieces: NDArray[np.int32]
    pieces_per_word: NDArray[np.float32]
    probabilities: NDArray[np.float32]  # (N, classes), in the order of the reference's labels
    sketch: NDArray[np.float16]  # (N, sketch_size)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "PredictionRows":
        """Return these rows of every column."""
        return PredictionRows._make(column[rows] for column in self)

    def concatenate(self, later: "PredictionRows") -> "PredictionRows":
        """Return these rows followed by later ones."""
        return PredictionRows._make(np.concatenate([first, second]) for first, second in zip(self, later, strict=True))


class Admission(NamedTuple):
    """Rows that count as observations, and the texts counted so far."""

    admitted: NDArray[np.bool_]
    counted: TextsByUnit


def empty_rows(classes: int, sketch_size: int) -> PredictionRows:
    """Return an empty window."""
    return PredictionRows(
        time=np.zeros(0),
        id=np.zeros(0, dtype=np.str_),
        unit=np.zeros(0, dtype=np.str_),
        text=np.zeros(0, dtype=np.str_),
        pieces=np.zeros(0, dtype=np.int32),
        pieces_per_word=np.zeros(0, dtype=np.float32),
        probabilities=np.zeros((0, classes), dtype=np.float32),
        sketch=np.zeros((0, sketch_size), dtype=np.float16),
    )


def admit(units: Sequence[str], texts: Sequence[str], counted: TextsByUnit, rows_per_unit: int) -> Admission:
    """Admit one row per (unit, text) and at most `rows_per_unit` rows per unit in one window; the earliest rows count.

    Rows of one customer depend on each other, so the unit is the observation. Without a unit each text is an observation.
    """
    counted = dict(counted)
    admitted = np.zeros(len(units), dtype=np.bool_)
    for row, (unit, text) in enumerate(zip(units, texts, strict=True)):
        key = f"u{unit}" if unit else f"t{text}"
        earlier = counted.get(key, frozenset())
        if text not in earlier and len(earlier) < rows_per_unit:
            counted[key] = earlier | {text}
            admitted[row] = True
    return Admission(admitted, counted)


def usable(rows: PredictionRows) -> NDArray[np.bool_]:
    """Return (N,) flags, False for rows without a statistic: a number that is not finite, or no probability at all."""
    numbers = (rows.time, rows.pieces_per_word, rows.probabilities.sum(axis=1), rows.sketch.astype(np.float64).sum(axis=1))
    return np.asarray(np.isfinite(np.stack([np.asarray(n, np.float64) for n in numbers])).all(axis=0) & (numbers[2] > 0))


def fill_ratio(rows: int, wanted: int) -> float:
    """Return how full a window is, 0..1."""
    return min(1.0, rows / wanted)
