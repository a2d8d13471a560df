"""The outputs of a model for N texts, used on both sides of the wire to Triton. Knows numpy alone."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ModelOutputs(NamedTuple):
    """One row for each text, in the order of the request."""

    labels: list[str]
    probabilities: NDArray[np.float32]  # (N, classes), calibrated
    sketch: NDArray[np.float16]  # (N, sketch_size)
    pieces: NDArray[np.int32]  # (N,) length in pieces, special ones included
    pieces_per_word: NDArray[np.float32]  # (N,)
