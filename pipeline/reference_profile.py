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
TRUTH = "truth"  # array of labels in the file; files of older versions have none
PREFIX = "spoilt_"  # of the arrays of corrupted texts in the file


def save_reference(
    path: Path, reference: Reference, corrupted: Reference | None = None, truth: NDArray[np.str_] | None = None
) -> None:
    """Write one compressed .npz without pickled parts; `corrupted` holds the same rows with corrupted texts.

    `truth` are the (N,) labels that `correct` rests on.
    """
    arrays = reference._asdict()
    if truth is not None:
        arrays[TRUTH] = truth
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


def measured_labels(path: Path) -> dict[str, str | None]:
    """Return the labels that the reference's rows had when the model was measured, by content id.

    A file of an older version has no labels. There the label is known where the model was right, and None elsewhere. Rows that
    have one text and several labels are None too.
    """
    reference = load_reference(path)
    with np.load(path, allow_pickle=False) as arrays:
        if TRUTH in arrays:
            truth = arrays[TRUTH].tolist()
        else:
            predicted = reference.labels[reference.probabilities.argmax(axis=1)].tolist() if len(reference.ids) else []
            truth = [label if right else None for label, right in zip(predicted, reference.correct.tolist(), strict=True)]
    labels: dict[str, str | None] = {}
    for id, label in zip(reference.ids.tolist(), truth, strict=True):
        labels[id] = label if labels.setdefault(id, label) == label else None
    return labels
