"""What kind of text each row is: as the reference's, spoilt on its way, or foreign. Fitted once for a version.

Nobody has examples of what will come. So spoilt texts are played by the reference's own, spoilt on purpose when the version was
made (in the manner of Schelter et al. 2020), and foreign ones by reference rows whose class the model is made to forget: its
probability is taken away and the rest sum to 1 again; once more at a greater distance, for foreign texts are of many sorts.
How much of each kind a window holds is then found as label shift is.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.conformal import cells_of
from monitoring.detectors.label_shift import em_shares
from monitoring.detectors.novelty import Novelty, fit_novelty
from monitoring.drift.calibration import reference_rows
from monitoring.drift.features import quantile_edges
from monitoring.drift.softmax_regression import chances, fit_softmax
from monitoring.drift.window import Rows
from pipeline.params import Monitor
from pipeline.reference_profile import Reference

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
AS_KNOWN, SPOILT, FOREIGN, FAR = KINDS = range(4)  # FAR: foreign too
FAR_TIMES = 1.5  # as far from the reference's middle as rows of forgotten classes
PARTS = 4  # of the classes; each is forgotten in turn
LEAST = 1e-3  # probabilities nearer to 0 or 1 than the log's fp16 can tell
RIDGE = 1.0
EM_ROUNDS, EM_TOLERANCE = 200, 1e-5
PRIOR_COUNTS = np.array([19.0, 1.0, 1.0, 1.0])  # each kind is in a window already: small shares are not read out of noise


class Kinds(NamedTuple):
    """F features, T terms made of them, K kinds."""

    novelty: Novelty
    centre: Floats  # (F,) of rows as known
    scale: Floats  # (F,)
    weights: Floats  # (T, K) of a text's kind, every kind as likely
    right: Floats  # (T, 2) of a spoilt text's answer being wrong or right
    edges: Floats  # (F, E)
    usual: Floats  # (K, F, E + 1) shares of rows in cells


class Examples(NamedTuple):
    """N rows of which all is known."""

    features: Floats  # (N, F)
    kind: NDArray[np.int64]
    right: Flags


def fit_kinds(reference: Reference, spoilt: Reference | None, settings: Monitor) -> Kinds:
    """From both halves of the reference, each seen by a novelty fitted on the other; raises `ValueError` for < 4 rows."""
    half = fitted_half(reference, settings)
    found = [_examples(reference, spoilt, fitted, settings) for fitted in (half, ~half)]
    examples = Examples(*(np.concatenate(own) for own in zip(*found, strict=True)))
    known = examples.features[examples.kind == AS_KNOWN]
    centre, scale = known.mean(axis=0), known.std(axis=0) + 1e-9
    z = (examples.features - centre) / scale
    sizes = np.bincount(examples.kind, minlength=len(KINDS))
    even = (len(z) / len(KINDS) / np.maximum(sizes, 1))[examples.kind]
    bad = examples.kind == SPOILT
    edges = np.stack([quantile_edges(own, settings.cells) for own in known.T])
    return Kinds(
        novelty=_novelty(reference, half, settings),
        centre=centre,
        scale=scale,
        weights=fit_softmax(_terms(z), examples.kind, len(KINDS), even, RIDGE),
        right=fit_softmax(_terms(z[bad]), examples.right[bad].astype(np.int64), 2, np.ones(int(bad.sum())), RIDGE),
        edges=edges,
        usual=np.stack([_in_cells(edges, examples.features[examples.kind == kind]) for kind in KINDS]),
    )


def fitted_half(reference: Reference, settings: Monitor) -> Flags:
    """(N,) the reference rows that a version's novelty is fitted on."""
    return np.asarray(np.random.default_rng(settings.seed).permutation(len(reference.ids)) < len(reference.ids) // 2)


def looks(kinds: Kinds, rows: Rows) -> tuple[Floats, Floats]:
    """P(kind) of each row (N, K) in a window with shares (K,) of kinds, by EM; the shares are found from all rows together."""
    even = np.full(len(KINDS), 1 / len(KINDS))
    alike = chances(_terms(_standard(kinds, rows)), kinds.weights)
    shares = em_shares(alike, even, EM_ROUNDS, EM_TOLERANCE, prior_counts=PRIOR_COUNTS)
    joint = alike * shares
    return joint / joint.sum(axis=1, keepdims=True), shares


def right_if_spoilt(kinds: Kinds, rows: Rows) -> Floats:
    """P(the answer is right) of each row (N,) if it is a spoilt text."""
    return chances(_terms(_standard(kinds, rows)), kinds.right)[:, 1]


def cells_explained(kinds: Kinds, rows: Rows, shares: Floats) -> tuple[Floats, Floats]:
    """Shares of rows in the features' cells (F, E + 1): as this mixture of kinds would have them, and as they are."""
    return np.einsum("k,kfe->fe", shares, kinds.usual), _in_cells(kinds.edges, _features(kinds.novelty, rows))


def forgetting(rows: Rows, classes: Flags) -> Rows:
    """The answers of a model that does not know these classes."""
    left = np.where(classes, 0.0, rows.probabilities)
    return rows._replace(probabilities=(left / np.maximum(left.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32))


def _examples(reference: Reference, spoilt: Reference | None, fitted: Flags, settings: Monitor) -> Examples:
    """Rows that were not fitted on, in every kind."""
    novelty = _novelty(reference, fitted, settings)
    features, kind, right = [], [], []
    for number, own in ((AS_KNOWN, reference), (SPOILT, spoilt)):
        if own is not None:
            features.append(_features(novelty, reference_rows(own, ~fitted)))
            kind.append(np.full(len(features[-1]), number))
            right.append(own.correct[~fitted])
    said, classes = reference.probabilities.argmax(axis=1), len(reference.labels)
    order = np.random.default_rng(settings.seed).permutation(classes)
    for part in range(PARTS if classes > 2 else 0):
        forgotten = order % PARTS == part
        theirs = forgotten[said]
        rows = reference_rows(reference, ~fitted & theirs & reference.correct)  # of a wrong answer the true class is not known
        if len(rows.id) and (fitted & ~theirs).sum() > 1 and not forgotten.all():
            without = _novelty(reference, fitted & ~theirs, settings)
            near = _features(without, forgetting(rows, forgotten))
            for number, own_features in ((FOREIGN, near), (FAR, near * [1, 1, FAR_TIMES, 1, 1])):
                features.append(own_features)
                kind.append(np.full(len(rows.id), number))
                right.append(np.zeros(len(rows.id), dtype=np.bool_))
    return Examples(np.concatenate(features), np.concatenate(kind), np.concatenate(right))


def _novelty(reference: Reference, mask: Flags, settings: Monitor) -> Novelty:
    return fit_novelty(reference.sketch[mask], reference.probabilities[mask], settings.shrinkage)


def _features(novelty: Novelty, rows: Rows) -> Floats:
    """(N, F): log-odds of the confidence, entropy, distance, pieces per word and length as logarithms."""
    confidence = np.clip(rows.probabilities.max(axis=1).astype(np.float64), LEAST, 1 - LEAST)
    distance, entropy = novelty.components(rows.sketch, rows.probabilities).T
    odds, per_word, length = confidence / (1 - confidence), np.maximum(rows.pieces_per_word, 0.2), np.maximum(rows.pieces, 1)
    return np.asarray(
        np.stack([np.log(odds), entropy, np.sqrt(distance), np.log(per_word), np.log(length)], axis=1), dtype=np.float64
    )


def _standard(kinds: Kinds, rows: Rows) -> Floats:
    return (_features(kinds.novelty, rows) - kinds.centre) / kinds.scale


def _terms(z: Floats) -> Floats:
    """(N, T): 1, the features, their squares, and products of confidence, distance and pieces per word."""
    odds, _entropy, distance, per_word, _length = z.T
    products = np.stack([distance * per_word, odds * distance, odds * per_word], axis=1)
    return np.concatenate([np.ones((len(z), 1)), z, z**2, products], axis=1)


def _in_cells(edges: Floats, features: Floats) -> Floats:
    """(F, E + 1) shares of rows; zeros without rows."""
    counts = [np.bincount(cells_of(own, at), minlength=len(at) + 1) for own, at in zip(features.T, edges, strict=True)]
    return np.asarray(np.stack(counts) / max(len(features), 1))
