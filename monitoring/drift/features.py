"""Features of a row that are compared, by signal: columns whose means make the window statistics, and cells that are ranked.

Everything here is fitted on the fit rows of a reference alone, so that the rows compared later, of reference and stream alike,
took no part in it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors import bbsd, mmd
from monitoring.detectors.conformal import cells_of
from monitoring.detectors.novelty import Novelty, fit_novelty
from monitoring.drift.window import PredictionRows
from pipeline.params import Monitor

Floats = NDArray[np.float64]
MIN_CLASS_ROWS = 5  # of reference rows with this prediction, for a class to have a cell of its own
SCALARS = ("input_length", "input_pieces_per_word", "input_novelty", "prediction_confidence")
SIGNALS = (*SCALARS, "input_sketch", "prediction_labels", "prediction_softmax")


class FittedFeatures(NamedTuple):
    """Features that depend on the fit rows only; E edges, J axes."""

    novelty: Novelty
    edges: dict[str, Floats]  # of each scalar signal (E,)
    kernel: mmd.RandomFourierFeatures
    class_cells: NDArray[np.int64]  # (classes,) 1, 2, … for classes predicted often enough, 0 for all others together
    softmax_edges: NDArray[np.float32]
    sketch_axes: Floats  # (sketch_size, J)
    sketch_edges: Floats  # (J, E)
    softmax_axes: Floats  # (classes, J)
    softmax_axis_edges: Floats


def fit_features(rows: PredictionRows, settings: Monitor, rng: np.random.Generator) -> FittedFeatures:
    """Fit novelty, cells and axes on these rows."""
    novelty = fit_novelty(rows.sketch, rows.probabilities, settings.shrinkage)
    values = scalar_values(novelty, rows)
    sketch, roots = rows.sketch.astype(np.float32), np.sqrt(rows.probabilities.astype(np.float64))
    sketch_axes, softmax_axes = (principal_axes(matrix, settings.axes) for matrix in (sketch.astype(np.float64), roots))
    return FittedFeatures(
        novelty=novelty,
        edges={name: quantile_edges(values[name], settings.cells) for name in SCALARS},
        kernel=mmd.random_features(sketch.shape[1], settings.kernel_features, mmd.median_distance(sketch), rng),
        class_cells=class_cells(rows.probabilities),
        softmax_edges=bbsd.class_edges(rows.probabilities),
        sketch_axes=sketch_axes,
        sketch_edges=np.stack([quantile_edges(column, settings.cells) for column in (sketch @ sketch_axes).T]),
        softmax_axes=softmax_axes,
        softmax_axis_edges=np.stack([quantile_edges(column, settings.cells) for column in (roots @ softmax_axes).T]),
    )


def scalar_values(novelty: Novelty, rows: PredictionRows) -> dict[str, Floats]:
    """Return the one-number signals of each row."""
    return {
        "input_length": rows.pieces.astype(np.float64),
        "input_pieces_per_word": rows.pieces_per_word.astype(np.float64),
        "input_novelty": novelty(rows.sketch, rows.probabilities),
        "prediction_confidence": rows.probabilities.max(axis=1).astype(np.float64),
    }


def window_columns(features: FittedFeatures, rows: PredictionRows) -> dict[str, NDArray[np.float32]]:
    """Return columns (N, …) of each signal. A window is their means, so a reference takes the memory of one row."""
    values = scalar_values(features.novelty, rows)
    columns = {name: _one_hot(cells_of(values[name], edges), len(edges) + 1) for name, edges in features.edges.items()}
    columns["input_sketch"] = features.kernel(rows.sketch.astype(np.float32))
    columns["prediction_labels"] = _predicted_classes(features, rows)
    columns["prediction_softmax"] = bbsd.class_cells(rows.probabilities, features.softmax_edges)
    return {name: columns[name] for name in SIGNALS}


def ranked_cells(features: FittedFeatures, rows: PredictionRows) -> dict[str, NDArray[np.int64]]:
    """Return the cell of each score (N, scores) by signal, for ranking in the bag. Labels have one score per class, 0 or 1."""
    values = scalar_values(features.novelty, rows)
    cells = {name: cells_of(values[name], edges)[:, None] for name, edges in features.edges.items()}
    sketch = rows.sketch.astype(np.float64) @ features.sketch_axes
    softmax = np.sqrt(rows.probabilities.astype(np.float64)) @ features.softmax_axes
    for name, scores, axis_edges in (
        ("input_sketch", sketch, features.sketch_edges),
        ("prediction_softmax", softmax, features.softmax_axis_edges),
    ):
        cells[name] = np.stack([cells_of(column, edges) for column, edges in zip(scores.T, axis_edges, strict=True)], axis=1)
    cells["prediction_labels"] = _predicted_classes(features, rows).astype(np.int64)
    return {name: cells[name] for name in SIGNALS}


def quantile_edges(values: Floats, cells: int) -> Floats:
    """Return (cells − 1,) edges: even in the middle, ever finer towards both ends, where drift shows first."""
    tail = np.geomspace(max(1 / len(values), 1e-3), 0.1, cells // 4)
    middle = np.linspace(0.1, 0.9, cells - 1 - 2 * len(tail) + 2)[1:-1]
    return np.asarray(np.quantile(values, np.concatenate([tail, middle, 1 - tail[::-1]])), dtype=np.float64)


def class_cells(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return a cell (classes,) for each class predicted MIN_CLASS_ROWS times or more, and cell 0 for all others.

    Resampling cannot know the null distribution of a class that the reference hardly contains.
    """
    is_common = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]) >= MIN_CLASS_ROWS
    return np.where(is_common, np.cumsum(is_common), 0)


def principal_axes(rows: Floats, axes: int) -> Floats:
    """Return the directions (width, axes) of largest variance of rows (N, width)."""
    centred = rows - rows.mean(axis=0)
    _values, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(vectors[:, ::-1][:, :axes])


def _predicted_classes(features: FittedFeatures, rows: PredictionRows) -> NDArray[np.float32]:
    return _one_hot(features.class_cells[rows.probabilities.argmax(axis=1)], int(features.class_cells.max()) + 1)


def _one_hot(index: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    return np.asarray(index[:, None] == np.arange(size), dtype=np.float32)
