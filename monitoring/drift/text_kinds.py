"""Text kinds: is a row in-distribution, corrupted or out-of-distribution? Fitted once per version.

There are no examples of future texts, so the reference supplies them. Its own texts, corrupted on purpose when the version was
made (as in Schelter et al. 2020), are the corrupted kind. Rows whose class the model is made to forget (its probability is
removed, and the others are scaled to sum to 1) are the out-of-distribution kind, and again at a greater distance, because such
texts vary. The share of each kind in a window is then estimated as label shift.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.conformal import cells_of
from monitoring.detectors.label_shift import em_shares
from monitoring.detectors.novelty import Novelty, fit_novelty
from monitoring.drift.calibration import reference_rows
from monitoring.drift.features import quantile_edges
from monitoring.drift.softmax_regression import fit_softmax, softmax_probabilities
from monitoring.drift.window import PredictionRows
from pipeline.params import Monitor
from pipeline.reference_profile import Reference

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
IN_DISTRIBUTION, CORRUPTED, OUT_OF_DISTRIBUTION, FAR_OUT_OF_DISTRIBUTION = KINDS = range(4)
FAR_FACTOR = 1.5  # distance from the reference's mean, in that of rows of forgotten classes
PARTS = 4  # of the classes; each is forgotten in turn
MIN_PROBABILITY = 1e-3  # probabilities nearer to 0 or 1 are below the resolution of the log's fp16
RIDGE = 1.0
EM_ROUNDS, EM_TOLERANCE = 200, 1e-5
PRIOR_COUNTS = np.array([19.0, 1.0, 1.0, 1.0])  # rows of each kind assumed in a window, so that noise is not a small share


class TextKindModel(NamedTuple):
    """A classifier of text kinds: F features, T terms made of them, K kinds."""

    novelty: Novelty
    centre: Floats  # (F,) of in-distribution rows
    scale: Floats  # (F,)
    weights: Floats  # (T, K) of the kind, all kinds equally likely
    correct_weights: Floats  # (T, 2) of a corrupted text's prediction being wrong or right
    edges: Floats  # (F, E)
    cell_shares: Floats  # (K, F, E + 1) shares of rows in cells


class LabelledRows(NamedTuple):
    """N rows whose kind and correctness are known."""

    features: Floats  # (N, F)
    kind: NDArray[np.int64]
    correct: Flags


def fit_text_kinds(reference: Reference, corrupted: Reference | None, settings: Monitor) -> TextKindModel:
    """Fit on both halves of the reference, each with the novelty of the other; raises `ValueError` for fewer than 4 rows."""
    half = fitted_half(reference, settings)
    halves = [_labelled_rows(reference, corrupted, fitted, settings) for fitted in (half, ~half)]
    rows = LabelledRows(*(np.concatenate(columns) for columns in zip(*halves, strict=True)))
    in_distribution = rows.features[rows.kind == IN_DISTRIBUTION]
    centre, scale = in_distribution.mean(axis=0), in_distribution.std(axis=0) + 1e-9
    z = (rows.features - centre) / scale
    sizes = np.bincount(rows.kind, minlength=len(KINDS))
    balanced = (len(z) / len(KINDS) / np.maximum(sizes, 1))[rows.kind]
    bad = rows.kind == CORRUPTED
    edges = np.stack([quantile_edges(feature, settings.cells) for feature in in_distribution.T])
    return TextKindModel(
        novelty=_novelty(reference, half, settings),
        centre=centre,
        scale=scale,
        weights=fit_softmax(_terms(z), rows.kind, len(KINDS), balanced, RIDGE),
        correct_weights=fit_softmax(_terms(z[bad]), rows.correct[bad].astype(np.int64), 2, np.ones(int(bad.sum())), RIDGE),
        edges=edges,
        cell_shares=np.stack([_cell_shares(edges, rows.features[rows.kind == kind]) for kind in KINDS]),
    )


def fitted_half(reference: Reference, settings: Monitor) -> Flags:
    """Return (N,) flags of the reference rows that a version's novelty is fitted on."""
    return np.asarray(np.random.default_rng(settings.seed).permutation(len(reference.ids)) < len(reference.ids) // 2)


def kind_probabilities(model: TextKindModel, rows: PredictionRows) -> tuple[Floats, Floats]:
    """Return P(kind) of each row (N, K) and the shares (K,) of kinds in the window, estimated by EM over all rows together."""
    even = np.full(len(KINDS), 1 / len(KINDS))
    probabilities = softmax_probabilities(_terms(_standardised(model, rows)), model.weights)
    shares = em_shares(probabilities, even, EM_ROUNDS, EM_TOLERANCE, prior_counts=PRIOR_COUNTS)
    joint = probabilities * shares
    return joint / joint.sum(axis=1, keepdims=True), shares


def correct_if_corrupted(model: TextKindModel, rows: PredictionRows) -> Floats:
    """Return P(the prediction is right) of each row (N,), given that its text is corrupted."""
    return softmax_probabilities(_terms(_standardised(model, rows)), model.correct_weights)[:, 1]


def expected_and_observed_cells(model: TextKindModel, rows: PredictionRows, shares: Floats) -> tuple[Floats, Floats]:
    """Return shares of rows in the features' cells (F, E + 1): expected from this mixture of kinds, and observed."""
    return np.einsum("k,kfe->fe", shares, model.cell_shares), _cell_shares(model.edges, _features(model.novelty, rows))


def without_classes(rows: PredictionRows, classes: Flags) -> PredictionRows:
    """Return the predictions of a model that does not know these classes."""
    left = np.where(classes, 0.0, rows.probabilities)
    return rows._replace(probabilities=(left / np.maximum(left.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32))


def _labelled_rows(reference: Reference, corrupted: Reference | None, fitted: Flags, settings: Monitor) -> LabelledRows:
    """Return the rows that were not fitted on, once in every kind."""
    novelty = _novelty(reference, fitted, settings)
    features, kinds, correct = [], [], []
    for kind, source in ((IN_DISTRIBUTION, reference), (CORRUPTED, corrupted)):
        if source is not None:
            features.append(_features(novelty, reference_rows(source, ~fitted)))
            kinds.append(np.full(len(features[-1]), kind))
            correct.append(source.correct[~fitted])
    predicted, classes = reference.probabilities.argmax(axis=1), len(reference.labels)
    order = np.random.default_rng(settings.seed).permutation(classes)
    for part in range(PARTS if classes > 2 else 0):
        forgotten = order % PARTS == part
        affected = forgotten[predicted]
        rows = reference_rows(reference, ~fitted & affected & reference.correct)  # the true class of a wrong row is unknown
        if len(rows.id) and (fitted & ~affected).sum() > 1 and not forgotten.all():
            near = _features(_novelty(reference, fitted & ~affected, settings), without_classes(rows, forgotten))
            for kind, kind_features in ((OUT_OF_DISTRIBUTION, near), (FAR_OUT_OF_DISTRIBUTION, near * [1, 1, FAR_FACTOR, 1, 1])):
                features.append(kind_features)
                kinds.append(np.full(len(rows.id), kind))
                correct.append(np.zeros(len(rows.id), dtype=np.bool_))
    return LabelledRows(np.concatenate(features), np.concatenate(kinds), np.concatenate(correct))


def _novelty(reference: Reference, mask: Flags, settings: Monitor) -> Novelty:
    return fit_novelty(reference.sketch[mask], reference.probabilities[mask], settings.shrinkage)


def _features(novelty: Novelty, rows: PredictionRows) -> Floats:
    """Return (N, F): log-odds of the confidence, entropy, distance, and the logarithms of pieces per word and length."""
    confidence = np.clip(rows.probabilities.max(axis=1).astype(np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    distance, entropy = novelty.components(rows.sketch, rows.probabilities).T
    odds, per_word, length = confidence / (1 - confidence), np.maximum(rows.pieces_per_word, 0.2), np.maximum(rows.pieces, 1)
    return np.asarray(
        np.stack([np.log(odds), entropy, np.sqrt(distance), np.log(per_word), np.log(length)], axis=1), dtype=np.float64
    )


def _standardised(model: TextKindModel, rows: PredictionRows) -> Floats:
    return (_features(model.novelty, rows) - model.centre) / model.scale


def _terms(z: Floats) -> Floats:
    """Return (N, T): 1, the features, their squares, and products of confidence, distance and pieces per word."""
    odds, _entropy, distance, per_word, _length = z.T
    products = np.stack([distance * per_word, odds * distance, odds * per_word], axis=1)
    return np.concatenate([np.ones((len(z), 1)), z, z**2, products], axis=1)


def _cell_shares(edges: Floats, features: Floats) -> Floats:
    """Return shares of rows (F, E + 1) in the features' cells; zeros without rows."""
    counts = [
        np.bincount(cells_of(feature, feature_edges), minlength=len(feature_edges) + 1)
        for feature, feature_edges in zip(features.T, edges, strict=True)
    ]
    return np.asarray(np.stack(counts) / max(len(features), 1))
