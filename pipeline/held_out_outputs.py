"""The trained model's outputs for the rows it did not learn from: `evaluate` computes them once, later stages read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError

Floats = NDArray[np.float32]


class HeldOutOutputs(NamedTuple):
    """Outputs in fp32 of the merged model: one row for each validation row, then one for each test row."""

    ids: NDArray[np.str_]  # (N,) content ids
    logits: Floats  # (N, classes), not calibrated
    sketch: Floats  # (N, sketch_size)


def save_held_out(path: Path, outputs: HeldOutOutputs) -> None:
    """Write one compressed .npz without pickled parts."""
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **outputs._asdict())


def load_held_out(path: Path, ids: Sequence[str]) -> HeldOutOutputs:
    """Return the outputs of these rows, which are all or the last of the file; raise `InputError` when it holds others."""
    with np.load(path, allow_pickle=False) as arrays:
        outputs = HeldOutOutputs(*(arrays[name][len(arrays["ids"]) - len(ids) :] for name in HeldOutOutputs._fields))
    if outputs.ids.tolist() != list(ids):
        raise InputError(str(path), "it holds the outputs of other rows", "evaluate again: .venv/bin/dvc repro evaluate")
    return outputs
