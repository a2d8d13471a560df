"""Training texts of a version with the model's outputs for them, by which the texts nearest to a new one are found.

A sketch is a random projection of the embedding, and log-probabilities are its projection on the classes. Both together order
texts more like the whole embedding does than either alone (docs/console.md). The session that serves makes them, so that they
compare with those of Triton. The rows are drawn evenly over the
classes: a small class is there as a whole before a large one gets more.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.atomic_write import atomic_write
from pipeline.data.records import Example
from pipeline.errors import InputError
from pipeline.runtime.outputs import ModelOutputs

TRAINING_TEXTS = "training_texts.parquet"
CLASS_WEIGHT = 0.75  # of the log-probabilities beside the sketch; from 0.5 to 1 the recall is the same
LEAST_PROBABILITY = 1e-30  # in fp32 a probability may be 0


class TrainingTexts(NamedTuple):
    """N rows; `texts` are None where the policy `log.text: hash` keeps none."""

    ids: list[str]
    labels: list[str]
    texts: list[str | None]
    sketch: NDArray[np.float16]  # (N, sketch_size)
    log_odds: NDArray[np.float16]  # (N, classes), log-probabilities around their mean


class Neighbour(NamedTuple):
    """A training row near a text."""

    label: str
    text: str | None
    similarity: float  # weighted mean of two cosines, −1 to 1


def draw_evenly(labels: Sequence[str], most: int, seed: int) -> list[int]:
    """Return the indices of up to `most` rows in order: each class gives a row in turn, drawn at random, while it has any.

    >>> draw_evenly(["a", "a", "a", "a", "b"], 3, seed=0)
    [2, 3, 4]
    """
    by_class: defaultdict[str, list[int]] = defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(labels)).tolist():
        by_class[labels[row]].append(row)
    in_turn = chain.from_iterable(zip_longest(*(by_class[label] for label in sorted(by_class))))
    return sorted([row for row in in_turn if row is not None][:most])


def log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-probabilities (N, classes) around the mean of their row."""
    logs = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    centred: NDArray[np.float32] = (logs - logs.mean(axis=1, keepdims=True)).astype(np.float32)
    return centred


def write_training_texts(path: Path, rows: Sequence[Example], outputs: ModelOutputs, *, keeps_texts: bool) -> None:
    """Write the rows with the model's outputs for them."""
    columns = {
        "id": [row.id for row in rows],
        "label": [row.label for row in rows],
        "text": pa.array([row.text if keeps_texts else None for row in rows], pa.string()),
        "sketch": _halves(outputs.sketch),
        "log_odds": _halves(log_odds(outputs.probabilities)),
    }
    with atomic_write(path) as part:
        pq.write_table(pa.table(columns), part)


def read_training_texts(path: Path) -> TrainingTexts:
    """Read what `write_training_texts` wrote; raise `InputError` for anything else."""
    try:
        columns = pq.read_table(path, columns=["id", "label", "text", "sketch", "log_odds"]).to_pydict()
        rows = len(columns["id"])
        vectors = [
            np.frombuffer(b"".join(columns[name]), np.float16).reshape(rows, -1 if rows else 0) for name in ("sketch", "log_odds")
        ]
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(str(path), f"the training texts cannot be read: {error}", "publish a version again") from None
    return TrainingTexts(columns["id"], columns["label"], columns["text"], *vectors)


def nearest(known: TrainingTexts, outputs: ModelOutputs, most: int) -> list[Neighbour]:
    """Return the rows nearest to the first text of the outputs, nearest first."""
    by_sketch = _cosines(known.sketch, outputs.sketch[0])
    by_class = _cosines(known.log_odds, log_odds(outputs.probabilities[:1])[0])
    similarity = (by_sketch + CLASS_WEIGHT * by_class) / (1 + CLASS_WEIGHT)
    order = np.argsort(-similarity, kind="stable")[:most].tolist()
    return [Neighbour(known.labels[row], known.texts[row], float(similarity[row])) for row in order]


def _cosines(rows: NDArray[np.float16], vector: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each row (N, width) with the vector (width,); 0 where either has no length."""
    wide, query = rows.astype(np.float32), vector.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(query)
    return np.divide(wide @ query, lengths, out=np.zeros(len(wide), np.float32), where=lengths > 0)


def _halves(rows: NDArray[np.float16] | NDArray[np.float32]) -> pa.Array:
    return pa.array([row.tobytes() for row in rows.astype(np.float16)], pa.binary(2 * rows.shape[1]))
