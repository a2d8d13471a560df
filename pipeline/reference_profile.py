"""The reference of a version: its predictions on rows that took no part in fitting or early stopping."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic_write import atomic_write


class Reference(NamedTuple):
    """Arrays with one entry for each of N rows; drift is measured against the calibrate half and checked on the A/A half."""

    ids: NDArray[np.str_]  # (N,) content ids
    labels: NDArray[np.str_]  # (classes,) in the order of `probabilities`
    probabilities: NDArray[np.float32]  # (N, classes), calibrated
    sketch: NDArray[np.float16]  # (N, sketch_size)
    pieces: NDArray[np.int32]  # (N,)
    pieces_per_word: NDArray[np.float32]  # (N,)
    correct: NDArray[np.bool_]  # (N,)
    calibrate: NDArray[np.bool_]  # (N,) True: calibrate half, False: A/A half


TEXT_DEPENDENT = ("probabilities", "sketch", "pieces", "pieces_per_word", "correct")
PREFIX = "spoilt_"  # of the arrays of corrupted texts in the file


def save_reference(path: Path, reference: Reference, corrupted: Reference | None = None) -> None:
    """Write one compressed .npz without pickled parts; `corrupted` holds the same rows with corrupted texts."""
    arrays = reference._asdict()
    if corrupted is not None:
        arrays |= {f"{PREFIX}{name}": getattr(corrupted, name) for name in TEXT_DEPENDENT}
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_reference(path: Path) -> Reference:
    """Read what `save_reference` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Reference(**{name: arrays[name] for name in Reference._fields})


def load_corrupted(path: Path) -> Reference | None:
    """Return the reference's rows with corrupted texts; None when the file of an older version has none."""
    with np.load(path, allow_pickle=False) as arrays:
        if not all(f"{PREFIX}{name}" in arrays for name in TEXT_DEPENDENT):
            return None
        return Reference(**{name: arrays[f"{PREFIX}{name}" if name in TEXT_DEPENDENT else name] for name in Reference._fields})
