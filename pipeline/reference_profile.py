"""The reference record: what a version's own answers look like on rows it neither learnt from nor was stopped by."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic_write import written_whole


class Reference(NamedTuple):
    """One entry a reference row, N rows; drift is measured against the calibrate half and checked on the A/A half."""

    ids: NDArray[np.str_]  # (N,) content ids
    labels: NDArray[np.str_]  # (classes,) in the order of `probabilities`
    probabilities: NDArray[np.float32]  # (N, classes), calibrated
    sketch: NDArray[np.float16]  # (N, sketch_size)
    pieces: NDArray[np.int32]  # (N,)
    pieces_per_word: NDArray[np.float32]  # (N,)
    correct: NDArray[np.bool_]  # (N,)
    calibrate: NDArray[np.bool_]  # (N,) True: calibrate half, False: A/A half


ANSWERS = ("probabilities", "sketch", "pieces", "pieces_per_word", "correct")  # what changes when a text does


def save_reference(path: Path, reference: Reference, spoilt: Reference | None = None) -> None:
    """Write one compressed .npz without pickled parts; `spoilt` are the same rows, answered after their texts were spoilt."""
    arrays = reference._asdict()
    if spoilt is not None:
        arrays |= {f"spoilt_{name}": getattr(spoilt, name) for name in ANSWERS}
    with written_whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_reference(path: Path) -> Reference:
    """What `save_reference` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Reference(**{name: arrays[name] for name in Reference._fields})


def load_spoilt(path: Path) -> Reference | None:
    """The reference's rows after their texts were spoilt; None in a file of a version that was made without."""
    with np.load(path, allow_pickle=False) as arrays:
        if not all(f"spoilt_{name}" in arrays for name in ANSWERS):
            return None
        fields = {name: arrays[f"spoilt_{name}" if name in ANSWERS else name] for name in Reference._fields}
        return Reference(**fields)
