"""A model's predictions for single rows, so that two models can be compared on the same rows without running either again."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError
from pipeline.reference_profile import load_reference, measured_labels

PREDICTIONS_FILE = "predictions.parquet"  # beside the scores of stage evaluate


class RowPrediction(NamedTuple):
    """The label of a row, and the label that a model gives it; `label` is None where it is not known."""

    id: str  # of the content
    label: str | None
    predicted: str
    confidence: float


def write_predictions(
    path: Path, ids: Sequence[str], truth: Sequence[str], probabilities: NDArray[np.float64], labels: Sequence[str]
) -> None:
    """Write the predictions for N rows; `probabilities` (N, classes) are in the order of `labels`."""
    columns = {
        "id": list(ids),
        "label": list(truth),
        "predicted": [labels[best] for best in probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
    }
    with atomic_write(path) as part:
        pq.write_table(pa.table(columns), part)


def read_predictions(source: Path | pa.BufferReader, where: str) -> list[RowPrediction]:
    """Read what `write_predictions` wrote; raise `InputError` for anything else."""
    try:
        with pq.ParquetFile(source) as file:  # `read_table` would import pandas
            return [RowPrediction(**row) for row in file.read(list(RowPrediction._fields)).to_pylist()]
    except (OSError, pa.ArrowException, TypeError) as error:
        what = f"the predictions for the test rows cannot be read: {error}"
        raise InputError(where, what, "make them: .venv/bin/dvc repro evaluate") from None


def referenced_predictions(reference: Path) -> list[RowPrediction]:
    """Return the predictions in a packaged model's reference, which are those for the test rows of its day."""
    profile, truth = load_reference(reference), measured_labels(reference)
    best = profile.probabilities.argmax(axis=1) if len(profile.ids) else np.zeros(0, np.int64)
    predicted, confidence = profile.labels[best].tolist(), profile.probabilities.max(axis=1, initial=0).tolist()
    rows = zip(profile.ids.tolist(), predicted, confidence, strict=True)
    return [RowPrediction(id, truth[id], label, share) for id, label, share in rows]
