"""PSI and Jensen-Shannon distance of a window, in bins of the reference: for charts and comparison, no alarm depends on them.

Numbers are binned at deciles of the reference, the usual bins of PSI (Siddiqi 2006), and predictions by class. Shares below
EPSILON count as EPSILON in the PSI, since an empty bin would make it infinite.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.conformal import cells_of
from monitoring.detectors.jensen_shannon import jensen_shannon
from monitoring.detectors.psi import psi
from monitoring.drift.window import PredictionRows

Floats = NDArray[np.float64]
BINS = 10
EPSILON = 1e-4
BINNED_SIGNALS = ("input_length", "input_pieces_per_word", "prediction_labels", "prediction_confidence")


class ReferenceHistograms(NamedTuple):
    """Bins of the reference by signal; the predictions' bins are the classes."""

    edges: dict[str, Floats]  # of numbers, at most BINS − 1: equal quantiles are merged
    shares: dict[str, Floats]  # (bins,) of reference rows


class HistogramDistance(NamedTuple):
    """Distance of one signal's histogram in a window from the reference's."""

    psi: float  # nats, from 0
    jensen_shannon: float  # 0..1


def fit_histograms(rows: PredictionRows) -> ReferenceHistograms:
    """Return the bins of these reference rows and their shares; no bin of a number is empty."""
    edges = {name: _decile_edges(values) for name, values in _numbers(rows).items()}
    return ReferenceHistograms(edges, _shares(edges, rows))


def histogram_distances(reference: ReferenceHistograms, rows: PredictionRows) -> dict[str, HistogramDistance]:
    """Return each binned signal's distances of these rows, at least one, from the reference."""
    return {
        name: HistogramDistance(
            psi=float(psi(reference.shares[name], shares, EPSILON)),
            jensen_shannon=float(jensen_shannon(reference.shares[name], shares)),
        )
        for name, shares in _shares(reference.edges, rows).items()
    }


def _decile_edges(values: Floats) -> Floats:
    """Return inner edges that are values themselves and lie above the smallest, so that every bin has reference rows."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="higher"))
    return np.asarray(edges[edges > values.min()])


def _numbers(rows: PredictionRows) -> dict[str, Floats]:
    return {
        "input_length": rows.pieces.astype(np.float64),
        "input_pieces_per_word": rows.pieces_per_word.astype(np.float64),
        "prediction_confidence": rows.probabilities.max(axis=1).astype(np.float64),
    }


def _shares(edges: dict[str, Floats], rows: PredictionRows) -> dict[str, Floats]:
    """Return the share of rows in each bin, by signal."""
    cells = {name: cells_of(values, edges[name]) for name, values in _numbers(rows).items()}
    cells["prediction_labels"] = rows.probabilities.argmax(axis=1)
    bins = {name: len(inner) + 1 for name, inner in edges.items()} | {"prediction_labels": rows.probabilities.shape[1]}
    return {name: np.bincount(cells[name], minlength=bins[name]) / len(rows.id) for name in BINNED_SIGNALS}
