"""What of a row is compared, by signal: columns whose means make the window statistics, and cells that are ranked one by one.

Everything here is fitted on the fit rows of a reference alone, so that the rows compared later, of reference and stream alike,
have had no part in it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors import bbsd, mmd
from monitoring.detectors.conformal import cells_of
from monitoring.detectors.novelty import Novelty, fit_novelty
from monitoring.drift.window import Rows
from pipeline.params import Monitor

Floats = NDArray[np.float64]
OFTEN = 5
SCALARS = ("input_length", "input_pieces_per_word", "input_novelty", "prediction_confidence")
SIGNALS = (*SCALARS, "input_sketch", "prediction_labels", "prediction_softmax")


class Features(NamedTuple):
    """All of it depends on the fit rows only; E edges, J axes, D kernel features."""

    novelty: Novelty
    edges: dict[str, Floats]  # of each scalar signal (E,)
    kernel: mmd.RandomFourierFeatures
    class_cells: NDArray[np.int64]  # (classes,) 1, 2, … for classes that are said often enough, 0 for all others together
    softmax_edges: NDArray[np.float32]
    sketch_axes: Floats  # (sketch_size, J)
    sketch_edges: Floats  # (J, E)
    softmax_axes: Floats  # (classes, J)
    softmax_axis_edges: Floats


def fit_features(rows: Rows, settings: Monitor, rng: np.random.Generator) -> Features:
    """Novelty, cells and axes of these rows."""
    novelty = fit_novelty(rows.sketch, rows.probabilities, settings.shrinkage)
    values = scalars(novelty, rows)
    sketch, roots = rows.sketch.astype(np.float32), np.sqrt(rows.probabilities.astype(np.float64))
    sketch_axes, softmax_axes = (principal_axes(own, settings.axes) for own in (sketch.astype(np.float64), roots))
    return Features(
        novelty=novelty,
        edges={name: quantile_edges(values[name], settings.cells) for name in SCALARS},
        kernel=mmd.random_features(sketch.shape[1], settings.kernel_features, mmd.median_distance(sketch), rng),
        class_cells=class_cells(rows.probabilities),
        softmax_edges=bbsd.class_edges(rows.probabilities),
        sketch_axes=sketch_axes,
        sketch_edges=np.stack([quantile_edges(own, settings.cells) for own in (sketch @ sketch_axes).T]),
        softmax_axes=softmax_axes,
        softmax_axis_edges=np.stack([quantile_edges(own, settings.cells) for own in (roots @ softmax_axes).T]),
    )


def scalars(novelty: Novelty, rows: Rows) -> dict[str, Floats]:
    """The one-number signals of each row."""
    return {
        "input_length": rows.pieces.astype(np.float64),
        "input_pieces_per_word": rows.pieces_per_word.astype(np.float64),
        "input_novelty": novelty(rows.sketch, rows.probabilities),
        "prediction_confidence": rows.probabilities.max(axis=1).astype(np.float64),
    }


def columns(features: Features, rows: Rows) -> dict[str, NDArray[np.float32]]:
    """(N, …) a signal; a window is its means, so that a reference takes the memory of one row."""
    values = scalars(features.novelty, rows)
    found = {name: _one_hot(cells_of(values[name], at), len(at) + 1) for name, at in features.edges.items()}
    found["input_sketch"] = features.kernel(rows.sketch.astype(np.float32))
    found["prediction_labels"] = _said(features, rows)
    found["prediction_softmax"] = bbsd.class_cells(rows.probabilities, features.softmax_edges)
    return {name: found[name] for name in SIGNALS}


def ranked_cells(features: Features, rows: Rows) -> dict[str, NDArray[np.int64]]:
    """(N, scores) a signal: the cell of each score, for ranking in the bag; labels have one score a class, in cells 0 and 1."""
    values = scalars(features.novelty, rows)
    found = {name: cells_of(values[name], at)[:, None] for name, at in features.edges.items()}
    sketch = rows.sketch.astype(np.float64) @ features.sketch_axes
    softmax = np.sqrt(rows.probabilities.astype(np.float64)) @ features.softmax_axes
    for name, own, edges in (
        ("input_sketch", sketch, features.sketch_edges),
        ("prediction_softmax", softmax, features.softmax_axis_edges),
    ):
        found[name] = np.stack([cells_of(column, at) for column, at in zip(own.T, edges, strict=True)], axis=1)
    found["prediction_labels"] = _said(features, rows).astype(np.int64)
    return {name: found[name] for name in SIGNALS}


def quantile_edges(values: Floats, cells: int) -> Floats:
    """(cells − 1,) edges: even in the middle, finer and finer towards both ends, where drift shows first."""
    tail = np.geomspace(max(1 / len(values), 1e-3), 0.1, cells // 4)
    middle = np.linspace(0.1, 0.9, cells - 1 - 2 * len(tail) + 2)[1:-1]
    return np.asarray(np.quantile(values, np.concatenate([tail, middle, 1 - tail[::-1]])), dtype=np.float64)


def class_cells(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N, classes) → (classes,): a cell of its own for each class said OFTEN times and more, one for the rest.

    A class that the reference hardly knows has a null that resampling cannot know either.
    """
    often = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]) >= OFTEN
    return np.where(often, np.cumsum(often), 0)


def principal_axes(rows: Floats, axes: int) -> Floats:
    """(N, width) → (width, axes): directions of largest variance."""
    centred = rows - rows.mean(axis=0)
    _values, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(vectors[:, ::-1][:, :axes])


def _said(features: Features, rows: Rows) -> NDArray[np.float32]:
    return _one_hot(features.class_cells[rows.probabilities.argmax(axis=1)], int(features.class_cells.max()) + 1)


def _one_hot(index: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    return np.asarray(index[:, None] == np.arange(size), dtype=np.float32)
