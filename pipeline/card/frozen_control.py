"""The frozen control as a second model that a version brings along: logistic regression on embeddings of the frozen base.

It holds coefficients and what it predicted for the test rows, and not the base itself, which it names. Numpy alone loads it.
"""

from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError

CONTROL = "control.npz"
Floats = NDArray[np.float32]


class FrozenControl(NamedTuple):
    """A fitted control. `base`, `revision` and `weights_sha256` identify the encoder that makes its embeddings."""

    labels: NDArray[np.str_]  # (classes,)
    coefficients: Floats  # (classes, width)
    intercepts: Floats  # (classes,)
    temperature: float  # fitted on the validation rows
    base: str
    revision: str
    weights_sha256: str
    max_pieces: int
    test_ids: NDArray[np.str_]  # (N,) content ids
    test_labels: NDArray[np.str_]  # (N,) predicted

    def probabilities(self, embeddings: Floats) -> Floats:
        """Return calibrated probabilities (N, classes) for unit-length embeddings (N, width) of the frozen base."""
        logits = (embeddings @ self.coefficients.T + self.intercepts) / self.temperature
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def save_control(path: Path, control: FrozenControl) -> None:
    """Write one compressed .npz without pickled parts."""
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(value) for name, value in control._asdict().items()})


def load_control(folder: Path) -> FrozenControl | None:
    """Read the control of a version's folder; None for a version of an earlier release, which has none.

    Raise `InputError` for a file that holds anything else.
    """
    path = folder / CONTROL
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in FrozenControl._fields}
        control = FrozenControl(**{name: value if value.ndim else value.item() for name, value in values.items()})
        classes, width = control.coefficients.shape
        is_whole = len(control.labels) == classes == len(control.intercepts) and len(control.test_ids) == len(control.test_labels)
        if not (is_whole and width and control.temperature > 0):
            raise ValueError("its arrays do not fit together")
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(str(path), f"the frozen control cannot be read: {error}", "publish a version again") from None
    return control
