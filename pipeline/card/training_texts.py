"""Training texts of a version with their sketches, by which the texts nearest to a new one are found.

The session that serves makes the sketches, so that they compare with those of Triton. The rows are drawn evenly over the
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

TRAINING_TEXTS = "training_texts.parquet"


class TrainingTexts(NamedTuple):
    """N rows; `texts` are None where the policy `log.text: hash` keeps none."""

    ids: list[str]
    labels: list[str]
    texts: list[str | None]
    sketch: NDArray[np.float16]  # (N, sketch_size)


class Neighbour(NamedTuple):
    """A training row near a text."""

    label: str
    text: str | None
    similarity: float  # cosine of the sketches, −1 to 1


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


def write_training_texts(path: Path, rows: Sequence[Example], sketch: NDArray[np.float16], *, keeps_texts: bool) -> None:
    """Write the rows with their sketches (N, sketch_size)."""
    columns = {
        "id": [row.id for row in rows],
        "label": [row.label for row in rows],
        "text": pa.array([row.text if keeps_texts else None for row in rows], pa.string()),
        "sketch": pa.array([row.tobytes() for row in sketch.astype(np.float16)], pa.binary(2 * sketch.shape[1])),
    }
    with atomic_write(path) as part:
        pq.write_table(pa.table(columns), part)


def read_training_texts(path: Path) -> TrainingTexts:
    """Read what `write_training_texts` wrote; raise `InputError` for anything else."""
    try:
        columns = pq.read_table(path, columns=["id", "label", "text", "sketch"]).to_pydict()
        rows = len(columns["id"])
        sketch = np.frombuffer(b"".join(columns["sketch"]), np.float16).reshape(rows, -1 if rows else 0)
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(str(path), f"the training texts cannot be read: {error}", "publish a version again") from None
    return TrainingTexts(columns["id"], columns["label"], columns["text"], sketch)


def nearest(known: TrainingTexts, sketch: NDArray[np.float16], most: int) -> list[Neighbour]:
    """Return the rows whose sketches (N, sketch_size) have the largest cosine with this one (sketch_size,), nearest first."""
    rows, query = known.sketch.astype(np.float32), sketch.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    cosines = np.divide(rows @ query, lengths, out=np.zeros(len(rows), np.float32), where=lengths > 0)
    order = np.argsort(-cosines, kind="stable")[:most].tolist()
    return [Neighbour(known.labels[row], known.texts[row], float(cosines[row])) for row in order]
