"""The reference record: what a version's own answers look like on rows it neither learnt from nor was stopped by."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.records import written_whole


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


def save_reference(path: Path, reference: Reference) -> None:
    """Write one compressed .npz without pickled parts."""
    with written_whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **reference._asdict())


def load_reference(path: Path) -> Reference:
    """What `save_reference` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Reference(**{name: arrays[name] for name in Reference._fields})
